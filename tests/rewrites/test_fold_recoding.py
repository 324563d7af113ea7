# SPDX-License-Identifier: Apache-2.0
"""QUANTIZE between int8 and uint8 in front of a layer: when it goes, and that nothing changes."""

from __future__ import annotations

import pytest
from compiling import assert_same_integers, compiled

from akida_backend.devices import device
from akida_backend.graph import DType, Graph, Quantize
from akida_backend.options import Options
from akida_backend.rewrites import legalise
from builders import GraphBuilder


def recoded(*, scale: float = 1.0, pooled: bool = False, returned: bool = False) -> Graph:
    """A uint8 image, re-coded to int8, and a convolution."""
    b = GraphBuilder(3, dtype=DType.UINT8)
    x = b.input(8, 8, 3)
    wide, zero = b.scaling(x)
    y = b.quantize(x, scaling=(wide * scale, zero - 128), dtype=DType.INT8)
    z = b.max_pool(y, window=2) if pooled else b.conv2d(y, 4)
    return b.build(y, z) if returned else b.build(z)


def legalised(graph: Graph) -> Graph:
    return legalise(graph, device("akida2"), Options(), {}).graph


def test_the_convolution_reads_the_image_itself() -> None:
    graph = recoded()
    changed = legalised(graph)
    assert not any(isinstance(op, Quantize) for op in changed.operations)
    assert_same_integers(graph, changed)
    plan = compiled(graph)
    assert [row.on_device for row in plan.placement] == [True, True]
    assert plan.placement[0].rewrites == ("fold-recoding",)


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(recoded(scale=1.5), id="another-scale"),
        pytest.param(recoded(pooled=True), id="read-by-no-weighted-layer"),
        pytest.param(recoded(returned=True), id="an-output-of-the-model"),
    ],
)
def test_stays_where_it_is_needed(graph: Graph) -> None:
    assert any(isinstance(op, Quantize) for op in legalised(graph).operations)
