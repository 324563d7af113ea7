# SPDX-License-Identifier: Apache-2.0
"""Every rule is seen to fire by its code, and not to fire at the last accepted value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from akida_backend.constraint_rules import read_rules
from akida_backend.constraints import (
    Decides,
    LayerFacts,
    LayerType,
    Limit,
    Origin,
    Rule,
    Scope,
    graph_violation,
    own_rules,
    padding_kind,
    placement_rules,
    pool_pads_kind,
    rules_of,
    violations,
)
from akida_backend.devices import device
from akida_backend.graph import Pads, Size2D
from akida_backend.toml_rows import read_rows

Changes = dict[str, object]
Edge = tuple[tuple[Changes, ...], tuple[Changes, ...]]  # accepted, refused


@dataclass(frozen=True)
class Case:
    """Facts at the edge of one rule: the last ones accepted and the first ones refused."""

    code: str
    bases: tuple[LayerFacts, ...]
    accepted: tuple[Changes, ...]
    refused: tuple[Changes, ...]


def size(height: int, width: int | None = None) -> Size2D:
    return Size2D(height, height if width is None else width)


def each(name: str, *values: object) -> tuple[Changes, ...]:
    return tuple({name: value} for value in values)


def sides(name: str, *values: int) -> tuple[Changes, ...]:
    return tuple({name: size(value)} for value in values)


def on_each_axis(name: str, good: int, bad: int) -> tuple[Changes, ...]:
    """A refused number on both axes, and on either beside an accepted one."""
    return each(name, size(bad), size(bad, good), size(good, bad))


def max_pool(side: Size2D, stride: Size2D, **more: object) -> Changes:
    border = {"pool_type": "max", "pool_pads": "same_on_conv_output"}
    return {**border, "pool_size": side, "pool_stride": stride, **more}


def global_average(height: int, width: int, **more: object) -> Changes:
    return {"pool_type": "average", "conv_output_size": size(height, width), **more}


def case(
    code: str,
    bases: LayerFacts | tuple[LayerFacts, ...],
    accepted: Sequence[Changes],
    refused: Sequence[Changes],
) -> Case:
    bases = bases if isinstance(bases, tuple) else (bases,)
    return Case(code, bases, tuple(accepted), tuple(refused))


POOL_2X2: Changes = max_pool(size(2), size(2))

# ---------------------------------------------------------------- Akida 2.0: smallest layers

INPUT_CONV2D = LayerFacts(
    layer=LayerType.INPUT_CONV2D,
    input_size=size(5),
    input_channels=1,
    kernel_size=size(3),
    kernel_stride=size(1),
    dilation=size(1),
    groups=1,
    padding="same",
    filters=1,
    pool_type="none",
    activation="none",
    conv_output_size=size(5),
    input_bits=8,
    weights_bits=8,
    output_bits=4,
)
CONV2D = replace(
    INPUT_CONV2D,
    layer=LayerType.CONV2D,
    input_size=size(1),
    kernel_size=size(1),
    conv_output_size=size(1),
    input_bits=4,
    weights_bits=4,
)
DEPTHWISE = replace(CONV2D, layer=LayerType.DEPTHWISE_CONV2D, kernel_size=size(3))
TRANSPOSE = replace(
    CONV2D,
    layer=LayerType.CONV2D_TRANSPOSE,
    kernel_size=size(3),
    kernel_stride=size(2),
    pads=Pads(0, 1, 0, 1),
    input_bits=8,
    weights_bits=8,
    output_bits=8,
)
DEPTHWISE_TRANSPOSE = replace(TRANSPOSE, layer=LayerType.DEPTHWISE_CONV2D_TRANSPOSE)
TRANSPOSES = (TRANSPOSE, DEPTHWISE_TRANSPOSE)
DENSE1D = LayerFacts(
    layer=LayerType.DENSE1D,
    input_size=size(1),
    input_channels=1,
    filters=1,
    activation="none",
    input_bits=4,
    weights_bits=4,
    output_bits=4,
)
TEMPORAL = LayerFacts(
    layer=LayerType.BUFFER_TEMP_CONV,
    input_size=size(1),
    input_channels=1,
    fifo_size=2,
    filters=1,
    activation="none",
    input_bits=8,
    weights_bits=8,
    output_bits=8,
)
TEMPORALS = (TEMPORAL, replace(TEMPORAL, layer=LayerType.DEPTHWISE_BUFFER_TEMP_CONV))
ADD = LayerFacts(layer=LayerType.ADD, operands="two_different_tensors")
CONCATENATE = LayerFacts(
    layer=LayerType.CONCATENATE,
    concat_axis=2,
    operand_count=2,
    operands="two_different_tensors",
)

IN_4_8: Edge = (each("input_bits", 4, 8), each("input_bits", 2, 3, 16))
WEIGHTS_4_8: Edge = (each("weights_bits", 4, 8), each("weights_bits", 2, 5, 16))
OUT_4_8: Edge = (each("output_bits", 4, 8), each("output_bits", 1, 5, 16))
ONLY_8: dict[str, Edge] = {
    name: (each(name, 8), each(name, 4, 7, 16))
    for name in ("input_bits", "weights_bits", "output_bits")
}
AXIS0_4096: Edge = (
    ({"input_size": size(4096, 1)}, {"input_size": size(1, 1)}),
    ({"input_size": size(4097, 1)},),
)
AXIS1_4096: Edge = (({"input_size": size(1, 4096)},), ({"input_size": size(1, 4097)},))
NOT_DILATED: Edge = (sides("dilation", 1), on_each_axis("dilation", 1, 2))
STRIDE2_3X3: Edge = (
    ({"kernel_stride": size(2), "kernel_size": size(3)},),
    ({"kernel_stride": size(2), "kernel_size": size(5)}, {"kernel_stride": size(2, 1)}),
)
SAME_ONLY: Edge = (each("padding", "same"), each("padding", "valid", "same_upper", "explicit"))
NO_LUT: Edge = (each("activation", "relu", "bounded_relu"), each("activation", "lut"))
LUT_NOT_POOLED: Edge = (
    ({"activation": "lut"}, {**POOL_2X2, "activation": "relu"}),
    ({**POOL_2X2, "activation": "lut"},),
)
GAP_64: Edge = ((global_average(1, 64), global_average(2, 64)), (global_average(1, 65),))
GAP_144: Edge = (
    (global_average(12, 12), global_average(3, 48)),
    (global_average(12, 13), global_average(29, 5)),
)
NEXT_2: Edge = (
    (
        {**POOL_2X2, "consumers": ("Conv2D",)},
        {**POOL_2X2, "consumers": ("DepthwiseConv2D", "Conv2D")},
    ),
    (
        {**POOL_2X2, "consumers": ("Dense1D",)},
        {**POOL_2X2, "consumers": ("Conv2D", "host")},
        {**POOL_2X2, "consumers": ("output",)},
        {**POOL_2X2, "consumers": ()},
    ),
)
POOL_STRIDE_1_2: Edge = (
    (max_pool(size(2), size(1)), max_pool(size(2), size(2))),
    tuple(max_pool(size(2), step) for step in (size(3), size(3, 2), size(2, 3))),
)
POOL_STRIDE_LE_SIZE: Edge = (
    (max_pool(size(2), size(2)),),
    (max_pool(size(2), size(3)), max_pool(size(2), size(1, 3))),
)
POOL_2X2_ONLY: Edge = (
    (max_pool(size(2), size(1)),),
    (max_pool(size(1), size(1)), max_pool(size(3), size(2)), max_pool(size(2, 1), size(1))),
)

AKIDA2_CASES = (
    case(
        "V2-INCONV-INPUT-LINE",
        INPUT_CONV2D,
        each("input_size", size(5, 5), size(5, 384)),
        each("input_size", size(5, 4), size(5, 385)),
    ),
    case(
        "V2-INCONV-INPUT-ROWS",
        INPUT_CONV2D,
        each("input_size", size(5, 5), size(4096, 5)),
        each("input_size", size(4, 5)),
    ),
    case(
        "V2-INCONV-INPUT-CHANNELS",
        INPUT_CONV2D,
        each("input_channels", 1, 3),
        each("input_channels", 2, 4),
    ),
    case(
        "V2-INCONV-KERNEL",
        INPUT_CONV2D,
        sides("kernel_size", 3, 4, 5, 7),
        (*sides("kernel_size", 1, 2, 6, 8), {"kernel_size": size(3, 5)}),
    ),
    case(
        "V2-INCONV-STRIDE",
        INPUT_CONV2D,
        [
            {"kernel_size": size(kernel), "kernel_stride": size(stride)}
            for kernel, last in ((3, 3), (4, 4), (5, 5), (7, 6))
            for stride in (1, last)
        ],
        [
            {"kernel_size": size(kernel), **changes}
            for kernel, first in ((3, 4), (4, 5), (5, 6), (7, 7))
            for changes in on_each_axis("kernel_stride", 1, first)
        ],
    ),
    case(
        "V2-INCONV-PADDING",
        INPUT_CONV2D,
        each("padding", "same", "valid"),
        each("padding", "same_upper", "explicit"),
    ),
    case("V2-INCONV-FILTERS", INPUT_CONV2D, each("filters", 1, 512), each("filters", 513)),
    case("V2-INCONV-DILATION", INPUT_CONV2D, *NOT_DILATED),
    case("V2-INCONV-GROUPS", INPUT_CONV2D, each("groups", 1), each("groups", 3)),
    case(
        "V2-INCONV-MAXPOOL",
        INPUT_CONV2D,
        (max_pool(size(2), size(2)), max_pool(size(3), size(2))),
        (
            max_pool(size(2), size(1)),
            max_pool(size(3), size(3)),
            max_pool(size(4), size(2)),
            max_pool(size(2, 3), size(2)),
        ),
    ),
    case("V2-INCONV-LUT-MAXPOOL", INPUT_CONV2D, *LUT_NOT_POOLED),
    case("V2-INCONV-INPUT-BITS", INPUT_CONV2D, *ONLY_8["input_bits"]),
    case("V2-INCONV-WEIGHT-BITS", INPUT_CONV2D, *ONLY_8["weights_bits"]),
    case("V2-INCONV-ACT-BITS", INPUT_CONV2D, *OUT_4_8),
    case("V2-CONV-INPUT-AXIS0", CONV2D, *AXIS0_4096),
    case("V2-CONV-INPUT-AXIS1", CONV2D, *AXIS1_4096),
    case(
        "V2-CONV-INPUT-CHANNELS", CONV2D, each("input_channels", 2048), each("input_channels", 2049)
    ),
    case(
        "V2-CONV-KERNEL",
        CONV2D,
        sides("kernel_size", 1, 3, 5, 7),
        (*sides("kernel_size", 2, 4, 6, 9), {"kernel_size": size(1, 3)}),
    ),
    case(
        "V2-CONV-STRIDE",
        replace(CONV2D, kernel_size=size(3)),
        sides("kernel_stride", 1, 2),
        on_each_axis("kernel_stride", 1, 3),
    ),
    case("V2-CONV-STRIDE2-KERNEL", CONV2D, *STRIDE2_3X3),
    case("V2-CONV-PADDING", CONV2D, *SAME_ONLY),
    case("V2-CONV-DILATION", CONV2D, *NOT_DILATED),
    case("V2-CONV-GROUPS", CONV2D, each("groups", 1), each("groups", 2)),
    case("V2-CONV-MAXPOOL-SIZE", CONV2D, *POOL_2X2_ONLY),
    case("V2-CONV-MAXPOOL-STRIDE", CONV2D, *POOL_STRIDE_1_2),
    case("V2-CONV-MAXPOOL-STRIDE-SIZE", CONV2D, *POOL_STRIDE_LE_SIZE),
    case("V2-CONV-MAXPOOL-NEXT", CONV2D, *NEXT_2),
    case("V2-CONV-LUT-MAXPOOL", CONV2D, *LUT_NOT_POOLED),
    case("V2-CONV-GAP-LINE", CONV2D, *GAP_64),
    case("V2-CONV-GAP-AREA", CONV2D, *GAP_144),
    case(
        "V2-CONV-GAP-MIN",
        CONV2D,
        (global_average(1, 1),),
        (global_average(0, 1), global_average(1, 0)),
    ),
    case("V2-CONV-INPUT-BITS", CONV2D, *IN_4_8),
    case("V2-CONV-WEIGHT-BITS", CONV2D, *WEIGHTS_4_8),
    case("V2-CONV-ACT-BITS", CONV2D, *OUT_4_8),
    case("V2-DWCONV-INPUT-AXIS0", DEPTHWISE, *AXIS0_4096),
    case("V2-DWCONV-INPUT-AXIS1", DEPTHWISE, *AXIS1_4096),
    case(
        "V2-DWCONV-INPUT-CHANNELS",
        DEPTHWISE,
        ({"input_channels": 2048, "groups": 2048},),
        ({"input_channels": 2049, "groups": 2049},),
    ),
    case(
        "V2-DWCONV-KERNEL",
        DEPTHWISE,
        sides("kernel_size", 3, 5, 7),
        (*sides("kernel_size", 1, 4, 9), {"kernel_size": size(5, 3)}),
    ),
    case(
        "V2-DWCONV-STRIDE",
        DEPTHWISE,
        sides("kernel_stride", 1, 2),
        on_each_axis("kernel_stride", 1, 3),
    ),
    case(
        "V2-DWCONV-STRIDE2-KERNEL",
        DEPTHWISE,
        ({"kernel_stride": size(2)}, {"kernel_size": size(7)}),
        ({"kernel_stride": size(2), "kernel_size": size(5)},),
    ),
    case("V2-DWCONV-PADDING", DEPTHWISE, *SAME_ONLY),
    case("V2-DWCONV-DILATION", DEPTHWISE, *NOT_DILATED),
    case(
        "V2-DWCONV-GROUPS",
        DEPTHWISE,
        ({"groups": 1, "input_channels": 1}, {"groups": 16, "input_channels": 16}),
        ({"groups": 8, "input_channels": 16}, {"groups": 1, "input_channels": 2}),
    ),
    case("V2-DWCONV-MAXPOOL-SIZE", DEPTHWISE, *POOL_2X2_ONLY),
    case("V2-DWCONV-MAXPOOL-STRIDE", DEPTHWISE, *POOL_STRIDE_1_2),
    case("V2-DWCONV-MAXPOOL-STRIDE-SIZE", DEPTHWISE, *POOL_STRIDE_LE_SIZE),
    case("V2-DWCONV-MAXPOOL-NEXT", DEPTHWISE, *NEXT_2),
    case("V2-DWCONV-LUT-MAXPOOL", DEPTHWISE, *LUT_NOT_POOLED),
    case("V2-DWCONV-GAP-LINE", DEPTHWISE, *GAP_64),
    case("V2-DWCONV-GAP-AREA", DEPTHWISE, *GAP_144),
    case(
        "V2-DWCONV-GAP-MIN",
        DEPTHWISE,
        (global_average(1, 1),),
        (global_average(0, 1), global_average(1, 0)),
    ),
    case("V2-DWCONV-INPUT-BITS", DEPTHWISE, *IN_4_8),
    case("V2-DWCONV-WEIGHT-BITS", DEPTHWISE, *WEIGHTS_4_8),
    case("V2-DWCONV-ACT-BITS", DEPTHWISE, *OUT_4_8),
    case("V2-TCONV-INPUT-AXIS0", TRANSPOSES, *AXIS0_4096),
    case("V2-TCONV-INPUT-AXIS1", TRANSPOSES, *AXIS1_4096),
    case(
        "V2-TCONV-INPUT-CHANNELS",
        TRANSPOSE,
        each("input_channels", 2048),
        each("input_channels", 2049),
    ),
    case(
        "V2-TCONV-KERNEL",
        TRANSPOSES,
        ({"kernel_size": size(3)}, {"kernel_size": size(4), "pads": Pads(1, 1, 1, 1)}),
        sides("kernel_size", 2, 5),
    ),
    case(
        "V2-TCONV-STRIDE",
        TRANSPOSES,
        sides("kernel_stride", 2),
        on_each_axis("kernel_stride", 2, 1),
    ),
    case("V2-TCONV-PADDING", TRANSPOSES, *SAME_ONLY),
    case("V2-TCONV-DILATION", TRANSPOSES, *NOT_DILATED),
    case(
        "V2-TCONV-GROUPS",
        TRANSPOSE,
        ({"groups": 1, "input_channels": 8},),
        ({"groups": 8, "input_channels": 8},),
    ),
    case(
        "V2-TCONV-GROUPS",
        DEPTHWISE_TRANSPOSE,
        ({"groups": 8, "input_channels": 8},),
        ({"groups": 1, "input_channels": 8},),
    ),
    case("V2-TCONV-POOL", TRANSPOSES, each("pool_type", "none"), (POOL_2X2, global_average(1, 1))),
    case("V2-TCONV-INPUT-BITS", TRANSPOSES, *ONLY_8["input_bits"]),
    case("V2-TCONV-WEIGHT-BITS", TRANSPOSES, *ONLY_8["weights_bits"]),
    case("V2-TCONV-ACT-BITS", TRANSPOSES, *ONLY_8["output_bits"]),
    case("V2-DENSE-INPUT-AXIS0", DENSE1D, sides("input_size", 1), each("input_size", size(2, 1))),
    case("V2-DENSE-INPUT-AXIS1", DENSE1D, sides("input_size", 1), each("input_size", size(1, 2))),
    case(
        "V2-DENSE-INPUT-SIZE", DENSE1D, each("input_channels", 2048), each("input_channels", 2049)
    ),
    case("V2-DENSE-INPUT-BITS", DENSE1D, *IN_4_8),
    case("V2-DENSE-WEIGHT-BITS", DENSE1D, *WEIGHTS_4_8),
    case(
        "V2-DENSE-ACT-BITS",
        DENSE1D,
        (*OUT_4_8[0], {"output_bits": 32}, {"output_bits": 32, "consumers": ("host", "output")}),
        (*OUT_4_8[1], {"output_bits": 32, "consumers": ("Dense1D",)}),
    ),
    case("V2-DENSE-NO-LUT", DENSE1D, *NO_LUT),
    case("V2-BTC-INPUT-AXIS0", TEMPORALS, *AXIS0_4096),
    case("V2-BTC-INPUT-AXIS1", TEMPORALS, *AXIS1_4096),
    case(
        "V2-BTC-INPUT-CHANNELS",
        TEMPORALS,
        each("input_channels", 2048),
        each("input_channels", 2049),
    ),
    case("V2-BTC-FIFO", TEMPORALS, each("fifo_size", 2, 10), each("fifo_size", 1, 11)),
    case("V2-BTC-FILTERS", TEMPORALS, each("filters", 2048), each("filters", 2049)),
    case("V2-BTC-INPUT-BITS", TEMPORALS, *ONLY_8["input_bits"]),
    case("V2-BTC-WEIGHT-BITS", TEMPORALS, *ONLY_8["weights_bits"]),
    case("V2-BTC-ACT-BITS", TEMPORALS, *ONLY_8["output_bits"]),
    case("V2-BTC-NO-LUT", TEMPORALS, *NO_LUT),
    case(
        "V2-CNV-SQUARE",
        (CONV2D, DEPTHWISE),
        sides("kernel_size", 3),
        (
            {"kernel_size": size(1, 3)},
            {"kernel_stride": size(1, 2)},
            max_pool(size(1, 2), size(1)),
            max_pool(size(2), size(1, 2)),
        ),
    ),
    case(
        "V2-CNV-TCONV-PADS",
        TRANSPOSES,
        (
            {"kernel_size": size(3), "pads": Pads(0, 1, 0, 1)},
            {"kernel_size": size(4), "pads": Pads(1, 1, 1, 1)},
        ),
        (
            {"kernel_size": size(3), "pads": Pads(1, 0, 1, 0)},
            {"kernel_size": size(3), "pads": Pads(0, 1, 0, 0)},
            {"kernel_size": size(4), "pads": Pads(0, 2, 0, 2)},
        ),
    ),
    case(
        "V2-CNV-POOL-PADS",
        (INPUT_CONV2D, CONV2D),
        ({**POOL_2X2, "pool_pads": "zero"}, POOL_2X2),
        ({**POOL_2X2, "pool_pads": "other"},),
    ),
    case(
        "V2-CNV-ADD-OPERANDS",
        ADD,
        each("operands", "two_different_tensors"),
        each("operands", "same_tensor", "constant", "broadcast", "different_code"),
    ),
    case(
        "V2-CNV-ADD-SCALES",
        ADD,
        each("input_scales", "power_of_two"),
        each("input_scales", "power_of_two_ratio", "other"),
    ),
    case(
        "V2-CNV-ADD-SHIFTS",
        ADD,
        each("shifts", (0, 0), (0, 7), (3, 0)),
        each("shifts", (1, 1), (-1, 0), (0, -1)),
    ),
    case("V2-CNV-CONCAT-AXIS", CONCATENATE, each("concat_axis", 2), each("concat_axis", 0, 1, 3)),
    case(
        "V2-CNV-CONCAT-OPERANDS",
        CONCATENATE,
        each("operands", "two_different_tensors", "same_tensor"),
        (
            *each("operand_count", 1, 3),
            *each("operands", "constant", "broadcast", "different_code"),
        ),
    ),
    case(
        "V2-CNV-PADDING-VALUE",
        INPUT_CONV2D,
        each("padding_value", (0,), (255,), (0, 128, 255)),
        each("padding_value", (-1,), (256,), (0, 0, 300)),
    ),
    case(
        "V2-CNV-DOWNSCALE",
        (CONV2D, DENSE1D, ADD),
        each("output_shift", (-32,), (31,), (-32, 31)),
        each("output_shift", (-33,), (32,), (-33, 0)),
    ),
    case(
        "V2-CNV-LEFT-SHIFT",
        CONV2D,
        (
            {"net_left_shift": 7, "consumers": ("Add",)},
            {"net_left_shift": 8, "consumers": ("Conv2D",)},
        ),
        ({"net_left_shift": 8, "consumers": ("Conv2D", "Add")},),
    ),
    case(
        "INCONV-GLOBAL-POOL",
        INPUT_CONV2D,
        ({}, POOL_2X2),
        (global_average(1, 1),),
    ),
)

# ---------------------------------------------------------------- Akida 1.0: smallest layers

INPUT_CONVOLUTIONAL = LayerFacts(
    layer=LayerType.INPUT_CONVOLUTIONAL,
    input_size=size(5),
    input_channels=1,
    kernel_size=size(3),
    kernel_stride=size(1),
    dilation=size(1),
    groups=1,
    padding="same",
    filters=1,
    pool_type="none",
    activation="bounded_relu",
    conv_output_size=size(5),
    input_bits=8,
    weights_bits=8,
    output_bits=1,
    position="first",
)
CONVOLUTIONAL = replace(
    INPUT_CONVOLUTIONAL,
    layer=LayerType.CONVOLUTIONAL,
    kernel_size=size(1),
    input_bits=1,
    weights_bits=1,
    position="inner",
)
SEPARABLE = replace(
    CONVOLUTIONAL,
    layer=LayerType.SEPARABLE_CONVOLUTIONAL,
    kernel_size=size(3),
    weights_bits=2,
    pointwise_weights_bits=2,
)
FULLY_CONNECTED = LayerFacts(
    layer=LayerType.FULLY_CONNECTED,
    input_size=size(1),
    input_channels=1,
    filters=1,
    activation="bounded_relu",
    input_bits=1,
    weights_bits=1,
    output_bits=1,
)
INNER_1 = (CONVOLUTIONAL, SEPARABLE)

IN_124: Edge = (each("input_bits", 1, 2, 4), each("input_bits", 0, 3, 8))
OUT_124: Edge = (
    (*each("output_bits", 1, 2, 4), {"output_bits": 32, "activation": "none"}),
    (
        *each("output_bits", 3, 8),
        {"output_bits": 32},
        {"output_bits": 32, "activation": "none", "consumers": ("FullyConnected",)},
    ),
)
WEIGHTS_124: Edge = (each("weights_bits", 1, 2, 4), each("weights_bits", 3, 8))
WEIGHTS_12: Edge = (each("weights_bits", 1, 2), each("weights_bits", 4, 8))
SEPARABLE_WEIGHTS: Edge = (
    tuple({"weights_bits": n, "pointwise_weights_bits": n} for n in (2, 4)),
    tuple({"weights_bits": n, "pointwise_weights_bits": n} for n in (1, 8)),
)
NEXT_1: Edge = (
    tuple(
        {**POOL_2X2, "consumers": (name,)} for name in ("Convolutional", "SeparableConvolutional")
    ),
    tuple({**POOL_2X2, "consumers": (name,)} for name in ("FullyConnected", "host", "output")),
)
INPUT_KERNEL_1: Edge = (sides("kernel_size", 3, 5, 7), sides("kernel_size", 1, 4, 9))
KERNEL_1: Edge = (sides("kernel_size", 1, 3, 5, 7), sides("kernel_size", 2, 4, 9))
SEPARABLE_KERNEL_1: Edge = (sides("kernel_size", 3, 5, 7), sides("kernel_size", 1, 4, 9))
ANY_POOL_1_2_3: Edge = (
    (max_pool(size(1), size(1)), max_pool(size(3), size(3)), max_pool(size(2), size(1))),
    (max_pool(size(4), size(2)), max_pool(size(2, 1), size(1))),
)
POOL_STRIDE_1_2_3: Edge = (
    tuple(max_pool(size(3), size(step)) for step in (1, 2, 3)),
    tuple(max_pool(size(3), step) for step in (size(4), size(4, 3), size(3, 4))),
)
POOL_STRIDE_1_2_OF_2: Edge = (
    (max_pool(size(2), size(1)), max_pool(size(2), size(2))),
    tuple(max_pool(size(2), step) for step in (size(3), size(3, 2), size(2, 3))),
)
MOST_FILTERS = {(1, 3): 512, (1, 5): 192, (1, 7): 96, (3, 3): 192, (3, 5): 64, (3, 7): 32}


def filters_beyond_most(more: int) -> tuple[Changes, ...]:
    return tuple(
        {"input_channels": channels, "kernel_size": size(side), "filters": most + more}
        for (channels, side), most in MOST_FILTERS.items()
    )


CONVERSION1_CASES = (
    case(
        "V1-GRAPH-INCONV-FIRST",
        INPUT_CONVOLUTIONAL,
        each("position", "first"),
        each("position", "inner"),
    ),
    case(
        "V1-CNV-RELU",
        (*INNER_1, FULLY_CONNECTED),
        (
            {"consumers": ("Convolutional",)},
            {"activation": "none", "consumers": ("host", "output")},
        ),
        (
            {"activation": "none", "consumers": ("Convolutional",)},
            {"activation": "relu", "consumers": ("FullyConnected", "output")},
        ),
    ),
    case(
        "V1-CNV-POOL-ORDER",
        INNER_1,
        each("pooling", "conv_then_pool_then_activation"),
        each("pooling", "conv_then_activation_then_pool"),
    ),
    case(
        "V1-CNV-POOL-PADDING",
        INPUT_CONVOLUTIONAL,
        (
            {**POOL_2X2, "conv_output_size": size(5)},
            {**POOL_2X2, "padding": "valid", "pool_pads": "zero"},
            # On an even map Same has no border either, so one parameter serves both.
            {**POOL_2X2, "padding": "valid", "conv_output_size": size(4)},
        ),
        (
            {**POOL_2X2, "pool_pads": "zero"},
            {**POOL_2X2, "padding": "valid", "conv_output_size": size(5)},
            {**POOL_2X2, "pool_pads": "other"},
        ),
    ),
    case(
        "V1-CNV-GAP-AREA",
        INNER_1,
        (global_average(16, 16), global_average(8, 32)),
        (global_average(257, 1), global_average(16, 24)),
    ),
    case(
        "V1-CNV-SEP-BITS",
        SEPARABLE,
        ({"weights_bits": 4, "pointwise_weights_bits": 4}, {"pointwise_weights_bits": None}),
        ({"weights_bits": 2, "pointwise_weights_bits": 4},),
    ),
    case(
        "V1-CNV-PADDING-VALUE",
        INPUT_CONVOLUTIONAL,
        each("padding_value", (128,), (7, 7, 7)),
        each("padding_value", (7, 7, 8)),
    ),
    case(
        "INCONV-GLOBAL-POOL",
        INPUT_CONVOLUTIONAL,
        ({}, POOL_2X2),
        (global_average(8, 8),),
    ),
)

NSOC_CASES = (
    case("V1-CONV-KERNEL", CONVOLUTIONAL, *KERNEL_1),
    case("V1-CONV-PADDING", CONVOLUTIONAL, *SAME_ONLY),
    case("V1-CONV-MAXPOOL-SIZE", CONVOLUTIONAL, *ANY_POOL_1_2_3),
    case("V1-CONV-MAXPOOL-STRIDE", CONVOLUTIONAL, *POOL_STRIDE_1_2_3),
    case("V1-CONV-MAXPOOL-STRIDE-SIZE", CONVOLUTIONAL, *POOL_STRIDE_LE_SIZE),
    case("V1-CONV-MAXPOOL-NEXT", CONVOLUTIONAL, *NEXT_1),
    case("V1-CONV-INPUT-BITS", CONVOLUTIONAL, *IN_124),
    case("V1-CONV-ACT-BITS", CONVOLUTIONAL, *OUT_124),
    case("V1-SEPCONV-KERNEL", SEPARABLE, *SEPARABLE_KERNEL_1),
    case("V1-SEPCONV-PADDING", SEPARABLE, *SAME_ONLY),
    case("V1-SEPCONV-MAXPOOL-SIZE", SEPARABLE, *ANY_POOL_1_2_3),
    case("V1-SEPCONV-MAXPOOL-STRIDE", SEPARABLE, *POOL_STRIDE_1_2_3),
    case("V1-SEPCONV-MAXPOOL-STRIDE-SIZE", SEPARABLE, *POOL_STRIDE_LE_SIZE),
    case("V1-SEPCONV-MAXPOOL-NEXT", SEPARABLE, *NEXT_1),
    case("V1-SEPCONV-INPUT-BITS", SEPARABLE, *IN_124),
    case("V1-SEPCONV-WEIGHT-BITS", SEPARABLE, *SEPARABLE_WEIGHTS),
    case("V1-SEPCONV-ACT-BITS", SEPARABLE, *OUT_124),
    case(
        "V1-FC-INPUT-AXIS0", FULLY_CONNECTED, sides("input_size", 1), each("input_size", size(2, 1))
    ),
    case(
        "V1-FC-INPUT-AXIS1", FULLY_CONNECTED, sides("input_size", 1), each("input_size", size(1, 2))
    ),
    case(
        "V1-FC-INPUT-SIZE",
        FULLY_CONNECTED,
        each("input_channels", 81920),
        each("input_channels", 81921),
    ),
    case("V1-FC-ACT-BITS", FULLY_CONNECTED, *OUT_124),
)

PRE_LINE: Edge = (
    tuple(global_average(8, width) for width in (8, 16, 24, 32)),
    tuple(global_average(8, width) for width in (1, 7, 9, 20, 40)),
)
PRE_ROWS: Edge = (
    tuple(global_average(height, 8) for height in (8, 16, 32)),
    tuple(global_average(height, 8) for height in (1, 7, 9, 20)),
)
POOL_FITS_INPUT: Edge = (
    (max_pool(size(3), size(1), input_size=size(3)),),
    (max_pool(size(3), size(1), input_size=size(2, 3)),),
)
KERNEL_FITS_INPUT: Edge = (
    (max_pool(size(1), size(1), kernel_size=size(5), input_size=size(5)),),
    (max_pool(size(1), size(1), kernel_size=size(7), input_size=size(6, 7)),),
)
PREPRODUCTION_CASES = (
    *NSOC_CASES,
    *CONVERSION1_CASES,
    case("V1-INCONV-SUPPORTED", INPUT_CONVOLUTIONAL, (), ({},)),
    case(
        "V1-CONV-STRIDE",
        CONVOLUTIONAL,
        sides("kernel_stride", 1),
        on_each_axis("kernel_stride", 1, 2),
    ),
    case("V1-CONV-MAXPOOL-SIZE-INPUT", CONVOLUTIONAL, *POOL_FITS_INPUT),
    case("V1-CONV-MAXPOOL-KERNEL-INPUT", CONVOLUTIONAL, *KERNEL_FITS_INPUT),
    case("V1-CONV-AVGPOOL-LINE", CONVOLUTIONAL, *PRE_LINE),
    case("V1-CONV-AVGPOOL-ROWS", CONVOLUTIONAL, *PRE_ROWS),
    case("V1-CONV-WEIGHT-BITS", CONVOLUTIONAL, *WEIGHTS_12),
    case(
        "V1-SEPCONV-STRIDE",
        SEPARABLE,
        sides("kernel_stride", 1),
        on_each_axis("kernel_stride", 1, 2),
    ),
    case("V1-SEPCONV-MAXPOOL-SIZE-INPUT", SEPARABLE, *POOL_FITS_INPUT),
    case("V1-SEPCONV-MAXPOOL-KERNEL-INPUT", SEPARABLE, *KERNEL_FITS_INPUT),
    case("V1-SEPCONV-AVGPOOL-LINE", SEPARABLE, *PRE_LINE),
    case("V1-SEPCONV-AVGPOOL-ROWS", SEPARABLE, *PRE_ROWS),
    case("V1-FC-INPUT-BITS", FULLY_CONNECTED, each("input_bits", 1, 2), each("input_bits", 4, 8)),
    case("V1-FC-WEIGHT-BITS", FULLY_CONNECTED, *WEIGHTS_12),
)

# The input layer and the strides are the same on both pages of the production chip.
CHIP_CASES = (
    case(
        "V1-INCONV-INPUT-LINE",
        INPUT_CONVOLUTIONAL,
        each("input_size", size(5, 5), size(5, 256)),
        each("input_size", size(5, 4), size(5, 257)),
    ),
    case(
        "V1-INCONV-INPUT-ROWS",
        INPUT_CONVOLUTIONAL,
        each("input_size", size(5, 5), size(9999, 5)),
        each("input_size", size(4, 5)),
    ),
    case(
        "V1-INCONV-INPUT-CHANNELS",
        INPUT_CONVOLUTIONAL,
        each("input_channels", 1, 3),
        each("input_channels", 2, 4),
    ),
    case("V1-INCONV-KERNEL", INPUT_CONVOLUTIONAL, *INPUT_KERNEL_1),
    case(
        "V1-INCONV-STRIDE",
        INPUT_CONVOLUTIONAL,
        sides("kernel_stride", 1, 2, 3),
        on_each_axis("kernel_stride", 1, 4),
    ),
    case(
        "V1-INCONV-PADDING",
        INPUT_CONVOLUTIONAL,
        each("padding", "same", "valid"),
        each("padding", "same_upper", "explicit"),
    ),
    case("V1-INCONV-FILTERS", INPUT_CONVOLUTIONAL, filters_beyond_most(0), filters_beyond_most(1)),
    case("V1-INCONV-INPUT-BITS", INPUT_CONVOLUTIONAL, *ONLY_8["input_bits"]),
    case("V1-INCONV-ACT-BITS", INPUT_CONVOLUTIONAL, *OUT_124),
    case(
        "V1-CONV-STRIDE",
        replace(CONVOLUTIONAL, kernel_size=size(3)),
        sides("kernel_stride", 1, 2),
        on_each_axis("kernel_stride", 1, 3),
    ),
    case("V1-CONV-STRIDE2-KERNEL", CONVOLUTIONAL, *STRIDE2_3X3),
    case("V1-CONV-WEIGHT-BITS", CONVOLUTIONAL, *WEIGHTS_124),
    case(
        "V1-SEPCONV-STRIDE",
        SEPARABLE,
        sides("kernel_stride", 1, 2),
        on_each_axis("kernel_stride", 1, 3),
    ),
    case(
        "V1-SEPCONV-STRIDE2-KERNEL",
        SEPARABLE,
        ({"kernel_stride": size(2)}, {"kernel_size": size(5)}),
        ({"kernel_stride": size(2), "kernel_size": size(5)},),
    ),
    case("V1-FC-INPUT-BITS", FULLY_CONNECTED, *IN_124),
    case("V1-FC-WEIGHT-BITS", FULLY_CONNECTED, *WEIGHTS_124),
)
PRODUCTION_LINE: Edge = (
    (global_average(1, 1), global_average(8, 32)),
    (global_average(8, 0), global_average(1, 33)),
)
PRODUCTION_CASES = (
    *NSOC_CASES,
    *CONVERSION1_CASES,
    *CHIP_CASES,
    case(
        "V1-INCONV-MAXPOOL-SIZE",
        INPUT_CONVOLUTIONAL,
        [max_pool(pool, size(2)) for pool in (size(1), size(1, 2), size(2, 1), size(2))],
        [max_pool(pool, size(2)) for pool in (size(3), size(2, 3))],
    ),
    case(
        "V1-INCONV-MAXPOOL-STRIDE",
        INPUT_CONVOLUTIONAL,
        (max_pool(size(2), size(2)),),
        [max_pool(size(2), step) for step in (size(1), size(3), size(1, 2), size(2, 1))],
    ),
    case(
        "V1-INCONV-WEIGHT-BITS",
        INPUT_CONVOLUTIONAL,
        each("weights_bits", 1, 8),
        each("weights_bits", 0, 9),
    ),
    case("V1-CONV-AVGPOOL-LINE", CONVOLUTIONAL, *PRODUCTION_LINE),
    case("V1-SEPCONV-AVGPOOL-LINE", SEPARABLE, *PRODUCTION_LINE),
)
LINE_32: Edge = ((global_average(8, 32), global_average(3, 3)), (global_average(3, 33),))
AT_LEAST_3X3: Edge = (
    (global_average(3, 3),),
    (global_average(2, 3), global_average(3, 2)),
)
AKD1000_CASES = (
    *CONVERSION1_CASES,
    *CHIP_CASES,
    case("V1-INCONV-DILATION", INPUT_CONVOLUTIONAL, *NOT_DILATED),
    case("V1-INCONV-GROUPS", INPUT_CONVOLUTIONAL, each("groups", 1), each("groups", 3)),
    case(
        "V1-INCONV-MAXPOOL-SIZE",
        INPUT_CONVOLUTIONAL,
        [max_pool(pool, pool) for pool in (size(1, 2), size(2, 1), size(2))],
        [max_pool(pool, pool) for pool in (size(1), size(3))],
    ),
    case(
        "V1-INCONV-MAXPOOL-STRIDE",
        INPUT_CONVOLUTIONAL,
        (max_pool(size(2), size(2)), max_pool(size(1, 2), size(1, 2))),
        (max_pool(size(2), size(1)), max_pool(size(1, 2), size(2))),
    ),
    case("V1-INCONV-WEIGHT-BITS", INPUT_CONVOLUTIONAL, *ONLY_8["weights_bits"]),
    case("V1-CONV-INPUT-AXIS0", CONVOLUTIONAL, *AXIS0_4096),
    case("V1-CONV-INPUT-AXIS1", CONVOLUTIONAL, *AXIS1_4096),
    case(
        "V1-CONV-INPUT-CHANNELS",
        CONVOLUTIONAL,
        each("input_channels", 2048),
        each("input_channels", 2049),
    ),
    case("V1-CONV-KERNEL", CONVOLUTIONAL, *KERNEL_1),
    case("V1-CONV-PADDING", CONVOLUTIONAL, *SAME_ONLY),
    case("V1-CONV-DILATION", CONVOLUTIONAL, *NOT_DILATED),
    case("V1-CONV-GROUPS", CONVOLUTIONAL, each("groups", 1), each("groups", 2)),
    case("V1-CONV-MAXPOOL-SIZE", CONVOLUTIONAL, *POOL_2X2_ONLY),
    case("V1-CONV-MAXPOOL-STRIDE", CONVOLUTIONAL, *POOL_STRIDE_1_2_OF_2),
    case("V1-CONV-MAXPOOL-STRIDE-SIZE", CONVOLUTIONAL, *POOL_STRIDE_LE_SIZE),
    case("V1-CONV-MAXPOOL-NEXT", CONVOLUTIONAL, *NEXT_1),
    case("V1-CONV-AVGPOOL-LINE", CONVOLUTIONAL, *LINE_32),
    case("V1-CONV-AVGPOOL-MIN", CONVOLUTIONAL, *AT_LEAST_3X3),
    case("V1-CONV-INPUT-BITS", CONVOLUTIONAL, *IN_124),
    case("V1-CONV-ACT-BITS", CONVOLUTIONAL, *OUT_124),
    case("V1-SEPCONV-INPUT-AXIS0", SEPARABLE, *AXIS0_4096),
    case("V1-SEPCONV-INPUT-AXIS1", SEPARABLE, *AXIS1_4096),
    case(
        "V1-SEPCONV-INPUT-CHANNELS",
        SEPARABLE,
        each("input_channels", 2048),
        each("input_channels", 2049),
    ),
    case(
        "V1-SEPCONV-INPUT-NOT-1X1",
        SEPARABLE,
        (global_average(3, 3, input_size=size(1, 2)), {"input_size": size(1)}),
        (global_average(1, 1, input_size=size(1)),),
    ),
    case("V1-SEPCONV-KERNEL", SEPARABLE, *SEPARABLE_KERNEL_1),
    case("V1-SEPCONV-PADDING", SEPARABLE, *SAME_ONLY),
    case("V1-SEPCONV-DILATION", SEPARABLE, *NOT_DILATED),
    case("V1-SEPCONV-MAXPOOL-SIZE", SEPARABLE, *POOL_2X2_ONLY),
    case("V1-SEPCONV-MAXPOOL-STRIDE", SEPARABLE, *POOL_STRIDE_1_2_OF_2),
    case("V1-SEPCONV-MAXPOOL-STRIDE-SIZE", SEPARABLE, *POOL_STRIDE_LE_SIZE),
    case("V1-SEPCONV-MAXPOOL-NEXT", SEPARABLE, *NEXT_1),
    case("V1-SEPCONV-AVGPOOL-LINE", SEPARABLE, *LINE_32),
    case("V1-SEPCONV-AVGPOOL-MIN", SEPARABLE, *AT_LEAST_3X3),
    case("V1-SEPCONV-INPUT-BITS", SEPARABLE, *IN_124),
    case("V1-SEPCONV-WEIGHT-BITS", SEPARABLE, *SEPARABLE_WEIGHTS),
    case("V1-SEPCONV-ACT-BITS", SEPARABLE, *OUT_124),
    case(
        "V1-FC-INPUT-AXIS0", FULLY_CONNECTED, sides("input_size", 1), each("input_size", size(2, 1))
    ),
    case(
        "V1-FC-INPUT-AXIS1", FULLY_CONNECTED, sides("input_size", 1), each("input_size", size(1, 2))
    ),
    case(
        "V1-FC-INPUT-SIZE",
        FULLY_CONNECTED,
        each("input_channels", 57334),
        each("input_channels", 57335),
    ),
    case("V1-FC-ACT-BITS", FULLY_CONNECTED, *OUT_124),
)

CASES = {
    "akida2": AKIDA2_CASES,
    "akd1000": AKD1000_CASES,
    "akd1500": AKD1000_CASES,
    "nsoc-production": PRODUCTION_CASES,
    "nsoc-preproduction": PREPRODUCTION_CASES,
}
EVERY_CASE = [
    pytest.param(name, each_case, id=f"{name}-{each_case.code}-{each_case.bases[0].layer}")
    for name, cases in CASES.items()
    for each_case in cases
]
BASES = {
    2: (INPUT_CONV2D, CONV2D, DEPTHWISE, *TRANSPOSES, DENSE1D, *TEMPORALS, ADD, CONCATENATE),
    1: (INPUT_CONVOLUTIONAL, CONVOLUTIONAL, SEPARABLE, FULLY_CONNECTED),
}


def changed(base: LayerFacts, changes: Changes) -> LayerFacts:
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_smallest_layers_break_no_rule(name: str) -> None:
    target = device(name)
    for facts in BASES[target.generation]:
        codes = [v.code for v in violations(facts, target, strict=True)]
        unsupported = name == "nsoc-preproduction" and facts is INPUT_CONVOLUTIONAL
        assert codes == (["V1-INCONV-SUPPORTED"] if unsupported else [])


@pytest.mark.parametrize(("name", "edge"), EVERY_CASE)
def test_last_accepted_value_breaks_no_rule(name: str, edge: Case) -> None:
    target = device(name)
    assert edge.accepted or edge.code == "V1-INCONV-SUPPORTED"
    for base in edge.bases:
        for changes in edge.accepted:
            codes = {v.code for v in violations(changed(base, changes), target, strict=True)}
            assert codes <= {"V1-INCONV-SUPPORTED"}, changes


@pytest.mark.parametrize(("name", "edge"), EVERY_CASE)
def test_first_refused_value_breaks_the_rule_by_its_code(name: str, edge: Case) -> None:
    target = device(name)
    assert edge.refused
    for base in edge.bases:
        for changes in edge.refused:
            broken = violations(changed(base, changes), target, strict=True)
            assert edge.code in [v.code for v in broken], changes
            for violation in broken:
                texts = (violation.rule, violation.found, violation.source, violation.remedy)
                assert all(texts)
                assert not any("None" in text or "{" in text for text in texts), texts
                assert json.loads(json.dumps(violation.limit)) is not None


@pytest.mark.parametrize("name", CASES)
def test_every_evaluated_rule_has_a_case(name: str) -> None:
    evaluated = {rule.id for rule in placement_rules(device(name), strict=True)}
    assert {edge.code for edge in CASES[name]} == evaluated


# ---------------------------------------------------------------- texts and behaviour


@pytest.mark.parametrize(
    ("name", "base", "changes", "code", "rule", "found", "limit", "remedy"),
    [
        pytest.param(
            "akida2",
            CONV2D,
            {"kernel_size": size(5), "kernel_stride": size(2)},
            "V2-CONV-STRIDE2-KERNEL",
            "Stride 2 needs a 3x3 kernel.",
            "a 5x5 kernel with stride 2",
            ((3, 3),),
            "Use a 3x3 kernel with stride 2, or stride 1.",
            id="sizes",
        ),
        pytest.param(
            "akida2",
            INPUT_CONV2D,
            {"input_size": size(480, 640)},
            "V2-INCONV-INPUT-LINE",
            "Axis 1 of the input is 5 to 384.",
            "axis 1 of the input is 640",
            (5, 384),
            "Resize or crop the image so that axis 1 is 5 to 384, or swap rows and columns when "
            "axis 0 is the short one.",
            id="range",
        ),
        pytest.param(
            "akida2",
            INPUT_CONV2D,
            {"kernel_stride": size(4)},
            "V2-INCONV-STRIDE",
            "A 3x3 kernel takes stride 1, 2 or 3; 4x4 takes 1, 2, 3 or 4; 5x5 takes 1, 2, 3, 4 or "
            "5; 7x7 takes 1, 2, 3, 4, 5 or 6.",
            "stride 4 with a 3x3 kernel",
            (1, 2, 3),
            "Use a stride listed for this kernel, or a larger kernel.",
            id="row-of-a-table",
        ),
        pytest.param(
            "akd1000",
            INPUT_CONVOLUTIONAL,
            {"input_channels": 3, "kernel_size": size(5), "filters": 65},
            "V1-INCONV-FILTERS",
            "With 1 input channel there are at most 512 filters for a 3x3 kernel, 192 for 5x5 and "
            "96 for 7x7; with 3 input channels 192, 64 and 32.",
            "65 filters with 3 input channels and a 5x5 kernel",
            64,
            "Use fewer filters, or a smaller kernel.",
            id="table-of-tables",
        ),
        pytest.param(
            "akida2",
            CONV2D,
            max_pool(size(2), size(3)),
            "V2-CONV-MAXPOOL-STRIDE-SIZE",
            "The pooling stride is not greater than the pooling size.",
            "a 2x2 max pool with stride 3",
            (2, 2),
            "Use a pooling stride no larger than the pool.",
            id="against-another-fact",
        ),
        pytest.param(
            "akida2",
            DEPTHWISE,
            {"groups": 1, "input_channels": 8},
            "V2-DWCONV-GROUPS",
            "The number of groups equals the number of channels.",
            "1 group with 8 input channels",
            8,
            "Use one filter per channel; an ungrouped convolution with zero weights computes a "
            "depth multiplier.",
            id="equal-to-another-fact",
        ),
        pytest.param(
            "akida2",
            CONV2D,
            {"padding": "explicit", "pads": Pads(1, 1, 1, 1)},
            "V2-CONV-PADDING",
            "The padding is Same.",
            "explicit padding (top 1, bottom 1, left 1, right 1)",
            ("same",),
            "Use Same padding; a separate padding operation that makes the same border is joined "
            "to the layer.",
            id="padding",
        ),
        pytest.param(
            "akida2",
            CONV2D,
            {**POOL_2X2, "consumers": ("Dense1D", "output")},
            "V2-CONV-MAXPOOL-NEXT",
            "A layer with max pooling is followed by a Conv2D or DepthwiseConv2D layer.",
            "followed by Dense1D and the host",
            ("Conv2D", "DepthwiseConv2D"),
            "Let a Conv2D or DepthwiseConv2D layer follow (an identity convolution will do), or "
            "use a stride instead of the max pool.",
            id="next-layer",
        ),
    ],
)
def test_violation_says_what_is_wanted_found_and_possible(
    name: str,
    base: LayerFacts,
    changes: Changes,
    code: str,
    rule: str,
    found: str,
    limit: Limit,
    remedy: str,
) -> None:
    broken = {v.code: v for v in violations(changed(base, changes), device(name))}
    violation = broken[code]
    assert (violation.rule, violation.found) == (rule, found)
    assert (violation.limit, violation.remedy) == (limit, remedy)
    assert violation.origin == "device"


def test_source_names_profile_page_and_place() -> None:
    (violation,) = violations(replace(CONV2D, kernel_size=size(2)), device("akida2"))
    assert violation.source == (
        "akida2: Akida 2.0 hardware page of BrainChip's MetaTF documentation "
        "(doc.brainchipinc.com/user_guide/hardware), Conv2D / Convolution parameters"
    )


def test_source_names_a_conflict_between_publications() -> None:
    three = changed(CONVOLUTIONAL, max_pool(size(3), size(2)))
    (newest,) = violations(three, device("akd1000"))
    assert newest.code == "V1-CONV-MAXPOOL-SIZE"
    assert newest.source.endswith("(sources conflict: the NSoC constraints page also allows 3x3)")
    assert violations(three, device("nsoc-production")) == ()


def test_all_violations_are_reported_in_data_order() -> None:
    facts = replace(
        CONV2D,
        input_size=size(5000),
        kernel_size=size(9),
        kernel_stride=size(3),
        padding="valid",
        dilation=size(2),
        input_bits=16,
    )
    assert [v.code for v in violations(facts, device("akida2"))] == [
        "V2-CONV-INPUT-AXIS0",
        "V2-CONV-INPUT-AXIS1",
        "V2-CONV-KERNEL",
        "V2-CONV-STRIDE",
        "V2-CONV-PADDING",
        "V2-CONV-DILATION",
        "V2-CONV-INPUT-BITS",
    ]


def test_rule_of_the_converter_that_programs_do_not_need_decides_only_when_strict() -> None:
    facts = replace(ADD, input_scales="power_of_two_ratio")
    assert violations(facts, device("akida2")) == ()
    (violation,) = violations(facts, device("akida2"), strict=True)
    assert (violation.code, violation.origin) == ("V2-CNV-ADD-SCALES", "converter")


def test_rules_that_never_decide_can_be_asked_by_name() -> None:
    target = device("akida2")
    asked = [r for r in rules_of(target) if r.id in ("V2-CNV-PADDING", "V2-CNV-DW-POOL")]
    facts = changed(DEPTHWISE, {**POOL_2X2, "padding": "explicit"})
    codes = [v.code for v in violations(facts, target, rules=asked)]
    assert codes == ["V2-CNV-PADDING", "V2-CNV-DW-POOL"]


@pytest.mark.parametrize("side", [size(8), size(3, 5)])
def test_kernel_that_no_table_lists_is_refused_by_the_rule_on_kernels(side: Size2D) -> None:
    facts = replace(INPUT_CONV2D, kernel_size=side, kernel_stride=size(9))
    codes = [v.code for v in violations(facts, device("akida2"))]
    assert codes[0] == "V2-INCONV-KERNEL"
    assert "V2-INCONV-STRIDE" not in codes


@pytest.mark.parametrize(
    ("base", "missing"),
    [
        pytest.param(CONV2D, "kernel_size", id="kernel"),
        pytest.param(CONV2D, "pool_type", id="condition"),
        pytest.param(CONV2D, "kernel_stride", id="stride"),
        pytest.param(TRANSPOSE, "kernel_size", id="key-of-a-table"),
        pytest.param(DEPTHWISE, "input_channels", id="compared"),
        pytest.param(DENSE1D, "output_bits", id="bits"),
        pytest.param(ADD, "operands", id="operands"),
    ],
)
def test_fact_left_out_is_an_error_not_a_pass(base: LayerFacts, missing: str) -> None:
    with pytest.raises(ValueError, match=rf"{base.layer} lack '{missing}'"):
        violations(changed(base, {missing: None}), device("akida2"))


def test_pooled_layer_without_pool_border_is_an_error() -> None:
    with pytest.raises(ValueError, match="lack 'pool_pads', which V2-CNV-POOL-PADS needs"):
        violations(changed(CONV2D, {**POOL_2X2, "pool_pads": None}), device("akida2"))


def test_layer_of_the_other_generation_is_an_error() -> None:
    with pytest.raises(ValueError, match="Conv2D is no layer of 'akd1000'"):
        violations(CONV2D, device("akd1000"))


def test_misspelt_word_in_facts_is_an_error() -> None:
    with pytest.raises(ValueError, match="padding is 'SAME', not one of same, valid"):
        replace(CONV2D, padding="SAME")


# ---------------------------------------------------------------- rules of the graph


@pytest.mark.parametrize("name", CASES)
def test_every_rule_of_the_graph_can_be_reported(name: str) -> None:
    target = device(name)
    rules = [r for r in (*rules_of(target), *own_rules()) if r.scope is Scope.GRAPH]
    assert len(rules) > 15
    for rule in rules:
        violation = graph_violation(rule.id, "two inputs", target)
        assert (violation.code, violation.found) == (rule.id, "two inputs")
        assert violation.rule.endswith(".")
        assert violation.remedy.endswith(".")
        assert "{" not in violation.rule + violation.remedy
        assert violation.origin is rule.origin
        json.dumps(violation.limit)


def test_reported_limit_fills_the_sentence() -> None:
    violation = graph_violation("LOWER-ACCUMULATOR", "33 bits", device("akida2"), limit=32)
    assert violation.rule == "The largest accumulator that any input can cause fits 32 bits."
    assert (violation.limit, violation.origin) == (32, Origin.EXACTNESS)


def test_reported_remedy_can_be_closer_to_the_case() -> None:
    violation = graph_violation("OP-NO-LAYER", "TANH", device("akida2"), remedy="Use ReLU.")
    assert (violation.remedy, violation.limit) == ("Use ReLU.", None)


def test_reporting_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rule 'V2-GRAPH-IO' for device 'akd1000'"):
        graph_violation("V2-GRAPH-IO", "two inputs", device("akd1000"))


# ---------------------------------------------------------------- which rules decide

NEVER = {
    "V1-GRAPH-FIRST",
    "V1-GRAPH-FC-INPUT",
    "V1-GRAPH-CONV-PADDING",
    "V1-CNV-OUTPUT-PER-TENSOR",
    "V1-CNV-FLATTEN",
    "V1-CNV-RESHAPE",
    "V1-CNV-INCONV-WEIGHT-BITS",
    "V1-CNV-ONNX",
    "V1-EDGE-LAYER",
    "V2-CNV-PADDING",
    "V2-CNV-SAMEUPPER",
    "V2-CNV-GEMM",
    "V2-CNV-DW-POOL",
    "V2-CNV-ONNX-BITS",
}


@pytest.mark.parametrize("name", ["akida2", "akd1000"])
def test_every_rule_of_the_converter_says_whether_it_decides_and_why(name: str) -> None:
    target = device(name)
    rules = [r for r in rules_of(target) if r.id.startswith(("V1-CNV", "V2-CNV"))]
    rules += [r for r in rules_of(target) if r.id.startswith(("V1-GRAPH", "V2-GRAPH", "V1-EDGE"))]
    assert len(rules) == {1: 19, 2: 18}[target.generation]
    for rule in rules:
        assert rule.reason, rule.id
        assert (rule.decides is Decides.NEVER) == (rule.id in NEVER)
        assert (rule.decides is Decides.STRICT) == (rule.id == "V2-CNV-ADD-SCALES")
        assert rule.origin is Origin.CONVERTER or "-CNV-" not in rule.id


def test_rules_of_the_vendors_front_end_never_decide() -> None:
    for name in CASES:
        assert not NEVER & {rule.id for rule in placement_rules(device(name), strict=True)}


def test_every_rule_of_a_profile_decides_and_is_the_devices() -> None:
    for name in CASES:
        for rule in rules_of(device(name)):
            if rule.reason is None:
                assert rule.decides is Decides.ALWAYS
                assert rule.origin is Origin.DEVICE
                assert rule.scope is Scope.LAYER


# ---------------------------------------------------------------- borders


@pytest.mark.parametrize(
    ("pads", "length", "kernel", "stride", "dilation", "expected"),
    [
        pytest.param(Pads(1, 1, 1, 1), 8, 3, 1, 1, "same", id="same"),
        pytest.param(Pads(0, 1, 0, 1), 8, 3, 2, 1, "same", id="same-stride-2-even"),
        pytest.param(Pads(1, 1, 1, 1), 7, 3, 2, 1, "same", id="same-stride-2-odd"),
        pytest.param(Pads(2, 2, 2, 2), 8, 3, 1, 2, "same", id="same-dilated"),
        pytest.param(Pads(), 8, 1, 1, 1, "same", id="no-border-either-way"),
        pytest.param(Pads(), 8, 3, 1, 1, "valid", id="valid"),
        pytest.param(Pads(1, 0, 1, 0), 8, 3, 2, 1, "same_upper", id="larger-half-before"),
        pytest.param(Pads(1, 1, 1, 1), 8, 3, 2, 1, "same_upper", id="symmetric"),
        pytest.param(Pads(2, 1, 1, 1), 8, 3, 1, 1, "explicit", id="explicit"),
    ],
)
def test_padding_kind_names_a_border(
    pads: Pads, length: int, kernel: int, stride: int, dilation: int, expected: str
) -> None:
    sizes = (size(length), size(kernel), size(stride), size(dilation))
    assert padding_kind(pads, *sizes) == expected


@pytest.mark.parametrize(
    ("pads", "length", "expected"),
    [
        pytest.param(Pads(), 8, "same_on_conv_output", id="even-no-border"),
        pytest.param(Pads(0, 1, 0, 1), 7, "same_on_conv_output", id="odd-same"),
        pytest.param(Pads(), 7, "zero", id="odd-valid"),
        pytest.param(Pads(1, 1, 1, 1), 7, "other", id="other"),
    ],
)
def test_pool_pads_kind_names_a_border(pads: Pads, length: int, expected: str) -> None:
    assert pool_pads_kind(pads, size(length), size(2), size(2)) == expected


# ---------------------------------------------------------------- the data


def same_data(rule: Rule, row: Mapping[str, object]) -> bool:
    """Whether a rule states what a row of the collected specification states."""

    def frozen(value: object) -> object:
        if isinstance(value, dict):
            return {key: frozen(item) for key, item in value.items()}
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    axis = row.get("axis", [])
    axis = axis if isinstance(axis, list) else [axis]
    return (
        rule.layer.value == row["layer"]
        and rule.also == tuple(frozen(row.get("also", [])))  # type: ignore[arg-type]
        and rule.what == row["what"]
        and rule.check.value == row["check"]
        and rule.value == frozen(row["value"])
        and rule.axis == tuple(axis)
        and rule.when == row.get("when")
        and rule.src == row["src"]
        and rule.mark == row.get("mark")
    )


def test_profiles_hold_the_collected_specification(shared: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = (shared / "spec" / "constraints.yaml").read_text(encoding="utf-8")
    collected = yaml.safe_load(text)
    for name, profile in collected["profiles"].items():
        rules = rules_of(device(name))[: len(profile["rules"])]
        assert [rule.id for rule in rules] == [row["id"] for row in profile["rules"]]
        for rule, row in zip(rules, profile["rules"], strict=True):
            assert same_data(rule, row), rule.id
    for generation, rows in collected["conversion"].items():
        rules = rules_of(device({1: "akd1000", 2: "akida2"}[generation]))[-len(rows) :]
        assert [rule.id for rule in rules] == [row["id"] for row in rows]
        for rule, row in zip(rules, rows, strict=True):
            assert same_data(rule, row), rule.id


def test_codes_are_unique_per_device() -> None:
    for name in CASES:
        codes = [rule.id for rule in (*rules_of(device(name)), *own_rules())]
        assert len(codes) == len(set(codes))


GOOD_RULE = """
label = "test"
title = "Test"
[[rule]]
id = "A"
layer = "Conv2D"
what = "filters"
check = "max"
value = 4
rule = "At most {value}."
remedy = "Use {value}."
src = "HW2 Conv2D"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param('id = "A"\n', "", "rule .*'id' is missing", id="no-id"),
        pytest.param('"Conv2D"\nwhat', '"Conv3D"\nwhat', "'layer' is 'Conv3D'", id="layer"),
        pytest.param('"filters"', '"filter"', "'filter' is no fact of a layer", id="fact"),
        pytest.param('"max"', '"maximum"', "'check' is 'maximum'", id="check"),
        pytest.param("= 4", "= [4]", r"'value' \(4,\) does not fit the check 'max'", id="value"),
        pytest.param("= 4", "= 4.5", "'value' holds 4.5", id="value-type"),
        pytest.param("value = 4\n", "", "'value' is missing", id="no-value"),
        pytest.param("{value}.", "{limit}.", "a sentence cannot be filled", id="sentence"),
        pytest.param('"HW2 Conv2D"', '"HW9 x"', "unknown publication 'HW9'", id="source"),
        pytest.param("remedy =", "cure =", "'remedy' is missing", id="no-remedy"),
        pytest.param("value = 4", "value = 4\nextra = 1", "unknown key 'extra'", id="unknown-key"),
        pytest.param("value = 4", 'value = 4\nwhen = "rain"', "condition 'rain'", id="condition"),
        pytest.param("value = 4", 'value = 4\nmark = "INF"', "has no note", id="mark"),
    ],
)
def test_malformed_rule_is_refused_on_load(old: str, new: str, message: str) -> None:
    assert len(read_rules(read_rows("test.toml", GOOD_RULE))) == 1
    with pytest.raises(ValueError, match=message) as caught:
        read_rules(read_rows("test.toml", GOOD_RULE.replace(old, new, 1)))
    assert str(caught.value).startswith("test.toml: rule ")


def test_two_rules_of_one_code_are_refused_on_load() -> None:
    twice = GOOD_RULE + GOOD_RULE[GOOD_RULE.index("[[rule]]") :]
    with pytest.raises(ValueError, match="two rules 'A'"):
        read_rules(read_rows("test.toml", twice))
