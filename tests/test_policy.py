# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import networks
import pytest

from akida_backend.compiler import compile as compile_model
from akida_backend.errors import FallbackError
from akida_backend.graph import DType, Graph
from akida_backend.loading import load
from akida_backend.policy import apply_fallback, left_on_host, placement_line
from builders import GraphBuilder


def left(graph: Graph, *, strict: bool = False, deny: object = ()) -> list[str]:
    plan = compile_model(graph, deny=deny)
    return [row.type for row in left_on_host(plan, strict=strict)]


def behind_a_convolution(*operations: str) -> Graph:
    b = GraphBuilder(2)
    x = b.fully_connected(b.flatten(b.conv2d(b.input(4, 4, 4), 4)), 5)
    for name in operations:
        x = getattr(b, name)(x)
    return b.build(x)


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param(["softmax"], id="softmax"),
        pytest.param(["softmax", "dequantize"], id="softmax-then-dequantize"),
        pytest.param(["logistic"], id="logistic"),
        pytest.param(["dequantize"], id="dequantize"),
    ],
)
def test_boundary_operations_at_the_output_may_stay(operations: list[str]) -> None:
    graph = behind_a_convolution(*operations)
    deny = [f"type:{name}" for name in ("SOFTMAX", "LOGISTIC", "DEQUANTIZE")]
    assert left(graph, deny=deny) == []
    assert len(left(graph, deny=deny, strict=True)) == len(operations)


def test_arg_max_and_a_cast_at_the_output_may_stay() -> None:
    b = GraphBuilder(2)
    x = b.fully_connected(b.flatten(b.conv2d(b.input(4, 4, 4), 4)), 5)
    graph = b.build(b.cast(b.arg_max(x, axis=1), DType.INT32))
    assert left(graph) == []
    assert left(graph, strict=True) == ["ARG_MAX", "CAST"]


def test_the_same_operations_inside_the_network_may_not_stay() -> None:
    b = GraphBuilder(2)
    x = b.softmax(b.conv2d(b.input(4, 4, 4), 4))
    graph = b.build(b.conv2d(x, 4))
    assert left(graph) == ["SOFTMAX"]


def test_operations_that_only_move_values_may_stay() -> None:
    b = GraphBuilder(2)
    x = b.transpose(b.input(4, 4, 4), 0, 2, 1, 3)
    graph = b.build(b.conv2d(x, 4))
    assert left(graph) == []
    assert left(graph, strict=True) == ["TRANSPOSE"]


@pytest.mark.parametrize(
    ("equal", "stays"),
    [pytest.param(True, [], id="same-scale"), pytest.param(False, ["CONCATENATION"], id="other")],
)
def test_a_concatenation_may_stay_where_it_changes_no_value(equal: bool, stays: list[str]) -> None:
    b = GraphBuilder(2)
    x = b.conv2d(b.input(4, 4, 4), 4, scaling=(0.5, 3))
    y = b.conv2d(x, 4, scaling=(0.5, 3) if equal else (0.25, 3))
    joined = b.concatenation(x, y)
    scales = {b.scaling(name) for name in (x, y, joined)}
    assert (len(scales) == 1) == equal
    assert left(b.build(b.reshape(joined, -1)), deny="type:CONCATENATION") == stays


def test_operations_with_macs_may_not_stay() -> None:
    assert left(networks.classifier(), deny="type:ADD,type:FULLY_CONNECTED") == [
        "ADD",
        "FULLY_CONNECTED",
    ]


def test_the_host_half_of_a_rewrite_may_stay_but_for_strict() -> None:
    graph = networks.strided_stem()
    assert left(graph) == []
    assert left(graph, strict=True) == ["CONV_2D"]


def test_an_opaque_operator_may_not_stay() -> None:
    assert left(load(networks.absolute_file())) == ["ABS"]


def test_the_line_counts_what_is_placed_and_gives_three_reasons() -> None:
    graph = networks.classifier()
    plan = compile_model(graph, deny=[f"name:{op.location.name}" for op in graph.operations])
    line = placement_line(plan, left_on_host(plan))
    assert line.startswith(
        "classifier.tflite on akida2 (simulated): 0 of 8 operations, 0.0% of MACs, 0 partitions; "
        "on the host: op 0 CONV_2D "
    )
    assert line.count("[POLICY-DENIED]") == 3
    assert line.endswith("; and 3 more")


@pytest.mark.parametrize("fallback", ["error", "strict"])
def test_a_refusal_says_what_was_wanted_and_every_reason(fallback: str) -> None:
    plan = compile_model(networks.interrupted())
    with pytest.raises(FallbackError) as error:
        apply_fallback(plan, fallback)  # type: ignore[arg-type]
    text = str(error.value)
    assert text.startswith(
        f"interrupted.tflite on akida2: fallback '{fallback}' wants no operation on the host"
    )
    assert "found 1 of 3" in text
    assert "[OP-NO-LAYER]" in text
