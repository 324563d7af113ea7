# SPDX-License-Identifier: Apache-2.0
"""TRANSPOSE_CONV as Conv2DTranspose, ordinary and depthwise."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import compiled, layer_names, layers, reasons
from error_budget import assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st

from akida_backend.graph import Activation, DType, Pads, TransposeConv2D
from akida_backend.program import Conv2DTranspose
from builders import GraphBuilder


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.sampled_from([2, 3, 4]),
    depthwise=st.booleans(),
    activation=st.sampled_from(list(Activation)),
    dtype=st.sampled_from([DType.INT8, DType.UINT8]),
    seed=st.integers(0, 999),
)
def test_strays_no_further_than_rounding_explains(
    size: tuple[int, int],
    kernel: int,
    depthwise: bool,
    activation: Activation,
    dtype: DType,
    seed: int,
) -> None:
    b = GraphBuilder(seed, dtype=dtype)
    b.transpose_conv(
        b.input(*size, 5), 5, kernel=kernel, depthwise=depthwise, activation=activation
    )
    graph = b.build()
    plan = compiled(graph)
    assert layer_names(plan) == ["DepthwiseConv2DTranspose" if depthwise else "Conv2DTranspose"]
    assert_within_budget(graph, plan, seed=seed)


def test_keeps_the_weights_unflipped() -> None:
    b = GraphBuilder(1)
    b.transpose_conv(b.input(4, 4, 3), 5)
    graph = b.build()
    (op,) = graph.operations
    assert isinstance(op, TransposeConv2D)
    (layer,) = layers(compiled(graph))
    assert isinstance(layer, Conv2DTranspose)
    np.testing.assert_array_equal(layer.weights, graph.constant(op.weights))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"stride": 1}, {"V2-TCONV-STRIDE": "stride 1"}, id="stride-1"),
        pytest.param({"kernel": 5}, {"V2-TCONV-KERNEL": "a 5x5 kernel"}, id="kernel-5"),
        pytest.param(
            {"padding": "valid"},
            {
                "V2-TCONV-PADDING": "explicit padding (top 0, bottom 0, left 0, right 0)",
                "V2-CNV-TCONV-PADS": ("pads top 0, bottom 0, left 0, right 0 with a 3x3 kernel"),
            },
            id="valid",
        ),
        pytest.param(
            {"kernel": (3, 5), "stride": (2, 3), "padding": Pads(0, 1, 1, 1)},
            {
                "V2-TCONV-KERNEL": "a 3x5 kernel",
                "V2-TCONV-STRIDE": "stride 2x3",
                "V2-CNV-SQUARE": "a kernel of 3x5, a stride of 2x3",
                "V2-TCONV-PADDING": "explicit padding (top 0, bottom 1, left 1, right 1)",
            },
            id="several",
        ),
    ],
)
def test_names_all_that_stands_against_it(
    options: dict[str, object], expected: dict[str, str]
) -> None:
    b = GraphBuilder(1)
    b.transpose_conv(b.input(4, 4, 3), 5, **options)  # type: ignore[arg-type]
    found = reasons(compiled(b.build()), 0)
    assert found.items() >= expected.items()


def test_int4_weights_stay_on_the_host() -> None:
    b = GraphBuilder(1, weight_dtype=DType.INT4)
    b.transpose_conv(b.input(4, 4, 3), 5)
    assert reasons(compiled(b.build()), 0) == {"V2-TCONV-WEIGHT-BITS": "4-bit weights"}
