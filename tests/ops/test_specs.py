# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import get_args

from akida_backend.graph import (
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Opaque,
    Operation,
    TransposeConv2D,
)
from akida_backend.ops import ALL_SPECS, SPEC_OF
from akida_backend.spec import no_macs
from builders import GraphBuilder


def test_every_operation_has_exactly_one_row() -> None:
    assert [spec.op_type for spec in ALL_SPECS] == list(get_args(Operation))
    assert list(SPEC_OF.values()) == list(ALL_SPECS)


def test_only_opaque_operations_lack_reference_arithmetic() -> None:
    assert [spec.op_type for spec in ALL_SPECS if spec.reference is None] == [Opaque]


def test_only_sums_with_weights_count_as_multiplications() -> None:
    counted = {spec.op_type for spec in ALL_SPECS if spec.macs is not no_macs}
    assert counted == {Conv2D, DepthwiseConv2D, TransposeConv2D, FullyConnected}


def test_moving_values_multiplies_nothing() -> None:
    b = GraphBuilder(0)
    graph = b.build(b.max_pool(b.input(4, 4, 2)))
    (op,) = graph.operations
    assert SPEC_OF[type(op)].macs(op, graph) == 0
