# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that work value by value, or along one axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import (
    Activation,
    Add,
    DepthwiseConv2D,
    DType,
    HardSwish,
    LeakyRelu,
    Logistic,
    Maximum,
    Minimum,
    Mul,
    Operation,
    Prelu,
    Quantization,
    Relu,
    Softmax,
    Sub,
    Tanh,
)
from akida_backend.importers.onnx_units import Unit
from akida_backend.importers.onnx_values import (
    Layout,
    NotModelledError,
    Value,
    dequantized,
    file_order,
)
from akida_backend.importers.onnx_weighted import (
    accumulator_scale,
    image_shape,
)

_Binary = type[Add] | type[Sub] | type[Mul] | type[Maximum] | type[Minimum]


def binary(kind: _Binary, *, fuses: bool) -> Callable[[Unit], None]:
    def convert(unit: Unit) -> None:
        if len(unit.operands) != 2:
            raise NotModelledError(f"{unit.kind} of {len(unit.operands)} operands is not modelled")
        a, b = unit.operand(0), unit.operand(1)
        rank = max(a.rank, b.rank)
        activations = [v for v in (a, b) if v.data is None]
        if not activations:
            raise NotModelledError(f"{unit.kind} of two constants is not modelled")
        for position, value in enumerate((a, b)):
            if value.data is None:
                unit.coded(position)
        layout = common_layout(activations, rank)
        reference = activations[0]
        operands = [unit.recoded(position, reference.dtype) for position in range(2)]
        names = [
            unit.builder.tensor_of(
                value, layout if value.rank == rank else file_order(value.rank), unit.location
            )
            if value.data is None
            else _constant_operand(unit, value, reference, layout)
            for value in operands
        ]

        def make(output: str, activation: Activation) -> Operation:
            return kind(
                location=unit.location,
                sources=unit.sources(),
                a=names[0],
                b=names[1],
                output=output,
                activation=activation,
            )

        unit.write(make, layout, fuses=fuses)

    return convert


def common_layout(values: list[Value], rank: int) -> Layout:
    """A layout for operands that are combined element by element."""
    if any(value.rank != rank for value in values):
        return file_order(rank)
    for value in values:
        if value.layout != file_order(rank):
            return value.layout
    return file_order(rank)


def _constant_operand(unit: Unit, value: Value, other: Value, layout: Layout) -> str:
    """A constant beside an activation of `layout`, in the activation's type."""
    rank = len(layout)
    if value.quantization is None:
        value = with_scale(unit, value, other)
    elif value.dtype is not other.dtype or value.quantization.axis is not None:
        raise NotModelledError(
            f"{unit.kind} of {other.dtype.value} and a constant of {value.dtype.value} or with "
            "several scales is not modelled"
        )
    if layout == file_order(rank) or value.data is None or value.data.size == 1:
        return unit.builder.tensor_of(value, file_order(value.rank), unit.location)
    shape = (1,) * (rank - value.rank) + value.shape
    return unit.builder.constant(
        value,
        "operand" + "".join(map(str, layout)),
        lambda data: data.reshape(shape).transpose(layout),
        axis=None,
    )


def with_scale(unit: Unit, value: Value, other: Value) -> Value:
    """A constant of reals as integers on a scale, where that changes nothing.

    One real c is the integer 1 on the scale c; of several, the integers 0 and 1 hold two.
    """
    assert value.data is not None
    reals = np.unique(value.data.astype(np.float32))
    magnitudes = {abs(float(r)) for r in reals if r}
    if not value.dtype.is_float or not np.isfinite(reals).all() or len(magnitudes) > 1:
        raise NotModelledError(
            f"float operator {unit.kind}: constant '{value.name}' is not quantized"
        )
    scale = magnitudes.pop() if magnitudes else 1.0
    low, _ = other.dtype.code_range
    zero = 1 if low == 0 else 0
    scales = Quantization.per_tensor(scale, zero)
    if scales.scale[0] == 0:
        raise NotModelledError(f"{unit.kind} with a constant too small for a scale")
    codes = np.sign(value.data).astype(np.int64) + zero
    return Value(
        value.name,
        other.dtype,
        value.shape,
        data=codes.astype(other.dtype.numpy),
        quantization=scales,
    )


def div(unit: Unit) -> None:
    """Division by a constant, as multiplication with its reciprocal."""
    divisor = unit.constant(1, "divisor")
    reals = dequantized(divisor) if divisor.quantization is not None else divisor.data
    assert reals is not None
    if not divisor.dtype.is_float and divisor.quantization is None:
        raise NotModelledError("Div of integers is not modelled")
    with np.errstate(all="ignore"):
        reciprocal = (1.0 / reals.astype(np.float64)).astype(np.float32)
    if not np.isfinite(reciprocal).all():
        raise NotModelledError("Div by zero, or by less than has a reciprocal, is not modelled")
    inverse = Value(f"{divisor.name}/inverse", DType.FLOAT32, divisor.shape, data=reciprocal)
    unit.operands = (unit.operand(0), inverse)
    binary(Mul, fuses=True)(unit)


def prelu(unit: Unit) -> None:
    x, _ = unit.coded(0)
    slope = unit.constant(1, "slope")
    name = unit.tensor(0, x.layout)
    alpha = _constant_operand(unit, slope, x, x.layout)
    unit.write(
        lambda output, _: Prelu(
            location=unit.location, sources=unit.sources(), input=name, alpha=alpha, output=output
        ),
        x.layout,
    )


def batch_normalization(unit: Unit) -> None:
    """A factor and a sum per channel: a depthwise convolution of one tap.

    The weights are 1 or -1 on the scale of the factor, which is exact.
    """
    _, entry = unit.coded(0)
    _, channels = image_shape(unit)
    gain, offset = normalization(unit, channels)
    scale = np.where(gain == 0, 1.0, np.abs(gain)).astype(np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise NotModelledError("BatchNormalization with factors out of range is not modelled")
    scales = Quantization(scale, np.zeros(channels, np.int64), 3 if channels > 1 else None)
    weights = unit.builder.new_constant(
        f"{unit.target.name}/factor",
        DType.INT8,
        np.sign(gain).astype(np.int8).reshape(1, 1, 1, channels),
        scales,
    )
    total = accumulator_scale(unit, entry, scales)
    codes = np.rint(offset / total.scale.astype(np.float64))
    if not (np.abs(codes) < 2**31).all():
        raise NotModelledError("BatchNormalization with a sum beyond 32 bits is not modelled")
    bias = unit.builder.new_constant(
        f"{unit.target.name}/bias",
        DType.INT32,
        codes.astype(np.int32),
        total,
    )
    source = unit.image()
    unit.write_image(
        lambda output, activation: DepthwiseConv2D(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            weights=weights,
            bias=bias,
            output=output,
            activation=activation,
        ),
        fuses=True,
    )


def normalization(unit: Unit, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and sum per channel of a BatchNormalization."""
    if unit.node.flag("training_mode"):
        raise NotModelledError("BatchNormalization that trains is not modelled")
    parameters = [
        unit.reals(position, role).reshape(-1)
        for position, role in ((1, "scale"), (2, "bias"), (3, "mean"), (4, "variance"))
    ]
    if any(values.size != channels for values in parameters):
        raise unit.error("input", f"parameters of another number of channels than {channels}")
    scale, bias, mean, variance = parameters
    with np.errstate(all="ignore"):
        gain = scale / np.sqrt(variance + unit.node.real("epsilon", 1e-5))
    offset = bias - mean * gain
    if not (np.isfinite(gain).all() and np.isfinite(offset).all()):
        raise unit.error("input", "parameters that give no finite factors")
    return gain, offset


_Unary = type[Logistic] | type[Tanh] | type[HardSwish]


def unary(kind: _Unary) -> Callable[[Unit], None]:
    def convert(unit: Unit) -> None:
        x, _ = unit.coded(0)
        source = unit.tensor(0, x.layout)
        unit.write(
            lambda output, _: kind(
                location=unit.location, sources=unit.sources(), input=source, output=output
            ),
            x.layout,
        )

    return convert


def leaky_relu(unit: Unit) -> None:
    x, _ = unit.coded(0)
    source = unit.tensor(0, x.layout)
    unit.write(
        lambda output, _: LeakyRelu(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            alpha=unit.node.real("alpha", 0.01),
        ),
        x.layout,
    )


def clamp(unit: Unit) -> None:
    """Relu and Clip as operators of their own; the unit carries their bounds."""
    x, _ = unit.coded(0)
    source = unit.tensor(0, x.layout)
    unit.write(
        lambda output, activation: Relu(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            bound=activation,
        ),
        x.layout,
        fuses=True,
    )


def softmax(unit: Unit) -> None:
    x, _ = unit.coded(0)
    flattens = (unit.node.is_standard and unit.node.opset < 13) or (
        not unit.node.is_standard and unit.node.integer("opset", 13) < 13
    )
    axis = unit.axis(unit.node.integer("axis", 1 if flattens else -1), x.rank)
    if flattens and any(length != 1 for length in x.shape[axis + 1 :]):
        raise NotModelledError("Softmax over several axes is not modelled")
    layout = x.layout
    source = unit.tensor(0, layout)
    position = layout.index(axis)
    unit.write(
        lambda output, _: Softmax(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            beta=1.0,
            axis=-1 if position == x.rank - 1 else position,
        ),
        layout,
    )
