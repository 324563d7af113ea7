# SPDX-License-Identifier: Apache-2.0
"""What becomes of every operator: the smallest accepted form, and all reasons of a refused one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from compiling import AKIDA2, compiled, layer_names, reasons, row

from akida_backend.constraint_rules import Check
from akida_backend.constraints import own_rules
from akida_backend.graph import (
    Activation,
    Conv2D,
    DType,
    FoldedOperation,
    Graph,
    Location,
    Pads,
    Quantization,
    Tensor,
)
from akida_backend.ops import SPEC_OF
from akida_backend.options import Options
from akida_backend.placement import place
from builders import GraphBuilder

Options_ = dict[str, object]


# One smallest accepted operation per layer type


def _small(kind: str) -> Graph:
    b = GraphBuilder(1)
    match kind:
        case "InputConv2D":
            b.conv2d(b.input(5, 5, 1), 1)
        case "Conv2D":
            b.conv2d(b.input(1, 2, 2), 1, kernel=1)
        case "DepthwiseConv2D":
            b.depthwise(b.input(1, 1, 2))
        case "Conv2DTranspose":
            b.transpose_conv(b.input(1, 1, 1), 1)
        case "DepthwiseConv2DTranspose":
            b.transpose_conv(b.input(1, 1, 1), 1, depthwise=True)
        case "Dense1D":
            b.fully_connected(b.input(1), 1)
        case "Add":
            x = b.input(1, 1, 2)
            b.add(x, b.conv2d(x, 2, kernel=1))
        case "Concatenate":
            x = b.input(1, 1, 2, scaling=(0.1, 0))
            b.concatenation(x, b.conv2d(x, 2, kernel=1, scaling=(0.1, 0)))
        case _:
            raise ValueError(kind)
    return b.build()


@pytest.mark.parametrize(
    "kind",
    [
        "InputConv2D",
        "Conv2D",
        "DepthwiseConv2D",
        "Conv2DTranspose",
        "DepthwiseConv2DTranspose",
        "Dense1D",
        "Add",
        "Concatenate",
    ],
)
def test_places_the_smallest_operation(kind: str) -> None:
    plan = compiled(_small(kind))
    assert layer_names(plan)[-1] == kind
    assert all(placed.on_device and placed.reasons == () for placed in plan.placement)


@pytest.mark.parametrize("size", [(1, 1), (4, 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_takes_a_conv2d_where_the_input_layer_is_out_of_reach(
    size: tuple[int, int], channels: int
) -> None:
    b = GraphBuilder(1)
    b.conv2d(b.input(*size, channels), 4)
    assert layer_names(compiled(b.build())) == ["Conv2D"]


# All violations of one operation


def _convolution(
    *, size: tuple[int, int] = (8, 8), channels: int = 4, inner: bool = True, **options: object
) -> Graph:
    b = GraphBuilder(1)
    x = b.input(*size, channels)
    if inner:
        x = b.conv2d(x, channels, kernel=1)
    b.conv2d(x, 4, **options)  # type: ignore[arg-type]
    return b.build()


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        pytest.param(
            _convolution(kernel=9, stride=3, dilation=2, size=(40, 40), padding="valid"),
            {
                "V2-CONV-KERNEL": "a 9x9 kernel",
                "V2-CONV-STRIDE": "stride 3",
                "V2-CONV-DILATION": "dilation 2",
                "V2-CONV-PADDING": "Valid padding (top 0, bottom 0, left 0, right 0)",
            },
            id="kernel-stride-dilation-padding",
        ),
        pytest.param(
            _convolution(kernel=(3, 8), stride=(1, 2)),
            {
                "V2-CONV-KERNEL": "a 3x8 kernel",
                "V2-CONV-STRIDE2-KERNEL": "a 3x8 kernel with stride 1x2",
                "V2-CNV-SQUARE": "a kernel of 3x8, a stride of 1x2",
            },
            id="not-square",
        ),
        pytest.param(
            _convolution(padding=Pads(2, 2, 2, 2)),
            {"V2-CONV-PADDING": "explicit padding (top 2, bottom 2, left 2, right 2)"},
            id="explicit-pads",
        ),
        pytest.param(
            _convolution(channels=2049, size=(1, 1), kernel=1),
            {"V2-CONV-INPUT-CHANNELS": "2049 input channels"},
            id="channels",
        ),
    ],
)
def test_names_all_that_stands_against_a_convolution(
    graph: Graph, expected: dict[str, str]
) -> None:
    assert reasons(compiled(graph), 1) == expected


def test_names_all_that_stands_against_a_depthwise_convolution() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(12, 12, 4), 4, kernel=1)
    b.depthwise(x, kernel=9, stride=3, multiplier=2, padding="valid")
    assert reasons(compiled(b.build()), 1) == {
        "V2-DWCONV-KERNEL": "a 9x9 kernel",
        "V2-DWCONV-STRIDE": "stride 3",
        "V2-DWCONV-PADDING": "Valid padding (top 0, bottom 0, left 0, right 0)",
        "V2-DWCONV-GROUPS": "8 groups with 4 input channels",
    }


def test_names_all_that_stands_against_a_dense_layer() -> None:
    b = GraphBuilder(1)
    b.fully_connected(b.input(2049), 3)
    assert reasons(compiled(b.build()), 0) == {
        "V2-DENSE-INPUT-SIZE": "an input of 1x1x2049, 2049 values"
    }


def test_rows_of_a_product_are_a_map_the_dense_layer_lacks() -> None:
    b = GraphBuilder(1)
    x = b.input(4, 6)
    weights = b.random.integers(-127, 128, (3, 24))
    b.fully_connected(x, 3, weights=weights)
    (op,) = b.operations
    name = op.inputs[1]
    old = b.tensors[name]
    assert old.data is not None
    b.tensors[name] = Tensor(name, old.dtype, (3, 6), old.quantization, old.data[:, :6])
    b.tensors[op.outputs[0]] = dataclasses.replace(b.tensors[op.outputs[0]], shape=(None, 4, 3))
    assert reasons(compiled(b.build()), 0) == {"V2-DENSE-INPUT-AXIS1": "axis 1 of the input is 4"}


def test_a_group_is_a_reason() -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(6, 6, 4), 4)
    b.conv2d(x, 4)
    last = b.operations[-1]
    assert isinstance(last, Conv2D)
    old = b.tensors[last.weights]
    assert old.data is not None
    halved = old.data[..., :2]
    b.tensors[last.weights] = Tensor(old.name, old.dtype, halved.shape, old.quantization, halved)
    assert reasons(compiled(b.build()), 1) == {"V2-CONV-GROUPS": "2 groups with 4 input channels"}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((12, 12), None, id="144-positions"),
        pytest.param((2, 64), None, id="64-columns"),
        pytest.param((12, 13), {"V2-CONV-GAP-AREA"}, id="156-positions"),
        pytest.param((1, 65), None, id="65-columns-turned"),  # rewrite swap-axes
        pytest.param((3, 65), {"V2-CONV-GAP-LINE", "V2-CONV-GAP-AREA"}, id="both"),
    ],
)
@pytest.mark.parametrize("average", ["mean", "average_pool"])
def test_averages_maps_the_device_can_sum(
    size: tuple[int, int], expected: set[str] | None, average: str
) -> None:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(*size, 4), 4)
    if average == "mean":
        b.mean(x)
    else:
        b.average_pool(x)
    plan = compiled(b.build())
    assert row(plan, 1).on_device == (expected is None)
    if expected is not None:
        assert set(reasons(plan, 1)) == expected


# Every reason of this compiler is seen to fire


def _builder() -> tuple[GraphBuilder, str]:
    b = GraphBuilder(1)
    return b, b.input(6, 6, 4)


def _float_model() -> Graph:
    b, _ = _builder()
    b.tanh(b.input(4, dtype=DType.FLOAT32))
    b.tensors["tanh"] = dataclasses.replace(
        b.tensors["tanh"], dtype=DType.FLOAT32, quantization=None
    )
    b.inputs = b.inputs[-1:]
    del b.tensors["input0"]
    return b.build()


def _without_scale(name: str) -> Graph:
    b, x = _builder()
    b.conv2d(x, 4)
    b.tensors[name] = dataclasses.replace(b.tensors[name], quantization=None)
    return b.build()


def _wide() -> Graph:
    b, x = _builder()
    b.conv2d(x, 4)
    b.tensors["conv"] = dataclasses.replace(b.tensors["conv"], dtype=DType.INT16)
    return b.build()


def _scales_per_channel() -> Graph:
    b, x = _builder()
    b.conv2d(x, 4)
    scales = Quantization(np.full(4, 0.1, np.float32), np.zeros(4, np.int64), 3)
    b.tensors["conv"] = dataclasses.replace(b.tensors["conv"], quantization=scales)
    return b.build()


def _mixed_batch() -> Graph:
    b = GraphBuilder(1, batch=2)
    b.transpose(b.input(4), 1, 0)
    return b.build()


def _computed_weights() -> Graph:
    b, x = _builder()
    other = b.input(3, 3, 4)
    b.conv2d(x, 4)
    (op,) = b.operations
    assert isinstance(op, Conv2D)
    b.operations = [dataclasses.replace(op, weights=other)]
    return b.build()


def _folded() -> Graph:
    b, x = _builder()
    graph = b.build(b.conv2d(x, 4))
    folded = FoldedOperation(Location("built", 1, "SHAPE", "shape"))
    return dataclasses.replace(graph, folded=(folded,))


def _two_convolutions() -> Graph:
    b, x = _builder()
    x = b.conv2d(x, 4, kernel=1)
    return b.build(b.conv2d(b.tanh(x), 4))


def _two_names() -> Graph:
    b, x = _builder()
    x = b.conv2d(x, 4)
    return b.build(x, b.reshape(x, 6, 6, 4))


def _opaque() -> Graph:
    b, x = _builder()
    b.opaque(x, shape=(None, 6, 6, 4))
    return b.build()


def _built(build: Callable[[GraphBuilder, str], object]) -> Graph:
    b, x = _builder()
    build(b, x)
    return b.build()


def _deep() -> Graph:
    b = GraphBuilder(1)
    b.conv2d(b.input(7, 7, 200), 2, kernel=7, weights=np.full((2, 7, 7, 200), 127))
    return b.build()


def _long_sum() -> Graph:
    b = GraphBuilder(1)
    x = b.conv2d(b.input(12, 12, 128), 2, weights=np.full((2, 3, 3, 128), 127), scaling=(1e4, 0))
    return b.build(b.mean(x))


def _clamped() -> Graph:
    b, x = _builder()
    b.mean(b.conv2d(x, 4, activation=Activation.RELU_N1_TO_1, scaling=(0.3, 0)))
    return b.build()


def _clamped_vector_sum() -> Graph:
    b = GraphBuilder(1)
    x = b.fully_connected(b.input(8), 8)
    return b.build(b.add(x, b.fully_connected(x, 8), activation=Activation.RELU))


def _stem() -> Graph:
    b = GraphBuilder(1)
    b.conv2d(b.input(12, 10, 1), 4, kernel=(10, 4), stride=2)
    return b.build()


# code: (graph, options, index of the operator, what was found)
FIRES: dict[str, tuple[Graph, Options_, int, str]] = {
    "GRAPH-NOT-QUANTIZED": (_float_model(), {}, 0, "'input1' is float32"),
    "GRAPH-FLOAT-EDGE": (
        _built(lambda b, x: b.reshape(b.dequantize(x), 6, 24)),
        {},
        1,
        "'dequantize' is float32",
    ),
    "GRAPH-NO-QUANTIZATION": (_without_scale("conv"), {}, 0, "'conv' has no scale"),
    "GRAPH-NO-QUANTIZATION, weights": (
        _without_scale("conv_weights"),
        {},
        0,
        "'conv_weights' has no scale",
    ),
    "GRAPH-DTYPE": (_wide(), {}, 0, "'conv' is int16"),
    "GRAPH-DTYPE, per channel": (
        _scales_per_channel(),
        {},
        0,
        "'conv' has one scale per channel",
    ),
    "GRAPH-BATCH": (_mixed_batch(), {}, 0, "'transpose' has shape (4, 2), the batch is 2"),
    "OP-NO-LAYER": (_built(lambda b, x: b.tanh(x)), {}, 0, "TANH"),
    "OP-NOT-FUSED": (
        _built(lambda b, x: b.relu(x)),
        {},
        0,
        "RELU with no layer in front that could take it",
    ),
    "OP-OPAQUE": (_opaque(), {}, 0, "GATHER_ND is not modelled"),
    "OP-FOLDED": (_folded(), {}, 1, "computed from shapes and constants"),
    "OP-DYNAMIC-WEIGHTS": (
        _computed_weights(),
        {},
        0,
        "'input1' is computed while the model runs",
    ),
    "OP-LOCAL-AVERAGE": (
        _built(lambda b, x: b.average_pool(b.conv2d(x, 4), window=2)),
        {},
        1,
        "a 2x2 window on a 6x6 map with pads top 0, bottom 0, left 0, right 0",
    ),
    "OP-LOCAL-AVERAGE, mean": (
        _built(lambda b, x: b.mean(b.conv2d(x, 4), axes=(1,))),
        {},
        1,
        "a mean over axes (1,)",
    ),
    "LOWER-ACCUMULATOR": (
        _deep(),
        {},
        0,
        "filter 0 may reach 2^27.2, the buffer holds 2^27",
    ),
    "LOWER-POST-OP": (
        _long_sum(),
        {},
        1,
        "the pooled sum may reach 2^31.3, 32 bits hold 2^31",
    ),
    "LOWER-CLAMP": (_clamped(), {}, 0, "a clamp at -1"),
    "POLICY-DENIED": (
        _two_convolutions(),
        {"deny": ("name:conv", "type:TANH")},
        0,
        "denied by 'name:conv'",
    ),
    "POLICY-NOT-ALLOWED": (
        _two_convolutions(),
        {"allow": ("name:conv.1",)},
        0,
        "in no allow entry",
    ),
    "POLICY-MIN-MACS": (
        _two_convolutions(),
        {"min_partition_macs": 1000},
        0,
        "the segment has 576 MACs",
    ),
    "POLICY-MAX-PARTITIONS": (
        _two_convolutions(),
        {"max_partitions": 1},
        0,
        "2 segments, this one is the smallest",
    ),
    "POLICY-STRICT-HARDWARE": (
        _clamped_vector_sum(),
        {"strict_hardware": True},
        2,
        "Add with a ReLU of its own",
    ),
    "SEGMENT-EMPTY": (_two_names(), {}, 1, "stands next to no layer"),
    "SEGMENT-EMPTY, moving": (
        _built(lambda b, x: b.concatenation(x, x)),
        {},
        0,
        "no multiply-accumulate in reach",
    ),
    "REWRITE-HOST-HALF": (_stem(), {}, 0, "'input0/stacked' runs on the host"),
}


@pytest.mark.parametrize("case", FIRES)
def test_reason_fires(case: str) -> None:
    graph, options, index, found = FIRES[case]
    plan = compiled(graph, **options)
    given = {reason.code: reason for reason in row(plan, index).reasons}
    code = case.split(",")[0]
    assert code in given
    assert given[code].found == found
    assert given[code].rule
    assert given[code].remedy


HOST_ONLY: dict[str, Callable[[GraphBuilder, str], object]] = {
    "SUB": lambda b, x: b.sub(x, b.conv2d(x, 4)),
    "MAXIMUM": lambda b, x: b.maximum(x, b.conv2d(x, 4)),
    "MINIMUM": lambda b, x: b.minimum(x, b.conv2d(x, 4)),
    "MUL": lambda b, x: b.mul(x, b.conv2d(x, 4)),
    "PRELU": lambda b, x: b.prelu(b.conv2d(x, 4)),
    "TANH": lambda b, x: b.tanh(b.conv2d(x, 4)),
    "SOFTMAX": lambda b, x: b.softmax(b.conv2d(x, 4)),
    "PAD": lambda b, x: b.pad_image(b.conv2d(x, 4), Pads(1, 1, 1, 1)),
    "TRANSPOSE": lambda b, x: b.transpose(b.conv2d(x, 4), 0, 2, 1, 3),
    "STRIDED_SLICE": lambda b, x: b.strided_slice(
        b.conv2d(x, 4), slice(1, 3), slice(None), slice(None)
    ),
    "SPLIT": lambda b, x: b.split(b.conv2d(x, 4), 2, 2),
    "PACK": lambda b, x: b.pack(b.conv2d(x, 4), x),
    "UNPACK": lambda b, x: b.unpack(b.conv2d(x, 4)),
    "GATHER": lambda b, x: b.gather(b.conv2d(x, 4), [0, 2]),
    "RESIZE_BILINEAR": lambda b, x: b.resize_bilinear(b.conv2d(x, 4), 12),
    "RESIZE_NEAREST_NEIGHBOR": lambda b, x: b.resize_nearest(b.conv2d(x, 4), 18),
}


@pytest.mark.parametrize("kind", HOST_ONLY)
def test_an_operation_without_a_layer_says_so(kind: str) -> None:
    graph = _built(HOST_ONLY[kind])
    plan = compiled(graph)
    index = next(op.location.index for op in graph.operations if op.location.type == kind)
    assert reasons(plan, index) == {"OP-NO-LAYER": kind}
    assert all(placed.on_device for placed in plan.placement if placed.index != index)


@pytest.mark.parametrize(
    ("kind", "build", "code"),
    [
        pytest.param("ARG_MAX", lambda b, x: b.arg_max(x, axis=3), "GRAPH-DTYPE", id="ARG_MAX"),
        pytest.param("CAST", lambda b, x: b.cast(x, DType.INT32), "GRAPH-DTYPE", id="CAST"),
        pytest.param("SHAPE", lambda b, x: b.shape_of(x), "GRAPH-DTYPE", id="SHAPE"),
        pytest.param("DEQUANTIZE", lambda b, x: b.dequantize(x), "GRAPH-FLOAT-EDGE", id="float"),
    ],
)
def test_results_that_are_no_codes_say_so(
    kind: str, build: Callable[[GraphBuilder, str], object], code: str
) -> None:
    graph = _built(build)
    assert graph.operations[0].location.type == kind
    assert set(reasons(compiled(graph), 0)) == {code}


def test_every_reason_of_this_compiler_has_a_case() -> None:
    akida1 = {"OP-DEPTHWISE-HALF"}  # test_akida1_placement.py has it
    reported = {rule.id for rule in own_rules() if rule.check is Check.REPORTED} - akida1
    assert reported == {case.split(",")[0] for case in FIRES}


def test_a_limit_of_the_policy_is_named() -> None:
    graph, options, index, _ = FIRES["POLICY-MIN-MACS"]
    (reason,) = row(compiled(graph, **options), index).reasons
    assert reason.limit == 1000
    assert "1000" in reason.rule


def test_the_input_layer_has_no_global_average() -> None:
    b = GraphBuilder(1)
    b.mean(b.conv2d(b.input(6, 6, 3), 4))
    graph = b.build()
    placement = place(graph, AKIDA2, Options(), {})
    assert [v.code for v in placement.reasons["mean"]] == ["INCONV-GLOBAL-POOL"]
    assert layer_names(compiled(graph)) == ["InputConv2D", "Conv2D"]


def test_the_reason_of_the_layer_in_front_is_the_one_that_is_kept() -> None:
    b = GraphBuilder(1)
    b.max_pool(b.conv2d(b.input(6, 6, 4), 4), window=3)
    placement = place(b.build(), AKIDA2, Options(), {})
    codes = {v.code for v in placement.reasons["max_pool_2d"]}
    assert codes == {"V2-CONV-MAXPOOL-SIZE", "V2-CONV-MAXPOOL-STRIDE"}


def test_an_earlier_refusal_is_the_reason() -> None:
    b = GraphBuilder(1)
    b.relu(b.conv2d(b.input(6, 6, 4), 4))
    graph = b.build()
    plan = compiled(graph, deny=("type:CONV_2D",))
    assert set(reasons(plan, 0)) == {"POLICY-DENIED"}
    assert set(reasons(plan, 1)) == {"OP-NOT-FUSED"}


def test_every_operation_of_the_dialect_has_a_sentence_on_its_placement() -> None:
    for op_type, spec in SPEC_OF.items():
        assert spec.placement.endswith("."), op_type
        assert bool(spec.lower) <= bool(spec.layers), op_type
