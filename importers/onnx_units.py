# SPDX-License-Identifier: Apache-2.0
"""A unit: one operator with its dequantized operands and its quantized results.

In QDQ form a unit is an operator between DequantizeLinear and QuantizeLinear nodes, with the
clamps behind it; in QOperator form it is one node that says the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.errors import ImportModelError
from akida_backend.graph import (
    Activation,
    AnyArray,
    DType,
    Location,
    Maximum,
    Minimum,
    Operation,
    Quantization,
    Quantize,
    Relu,
    Reshape,
)
from akida_backend.importers.onnx_file import FileNode
from akida_backend.importers.onnx_values import (
    CHANNELS_LAST,
    Builder,
    Layout,
    NotModelledError,
    Target,
    Value,
    dequantized,
    file_order,
)
from akida_backend.importers.shape_inference import FixedShape
from akida_backend.importers.tflite_file import MAX_RANK

Clamp = tuple[float, float]
UNBOUNDED: Final[Clamp] = (-math.inf, math.inf)

CODE_TYPES: Final = (DType.INT8, DType.UINT8, DType.INT4, DType.UINT4)

_ACTIVATIONS: Final[Mapping[Clamp, Activation]] = {a.real_range: a for a in Activation}


@dataclass(frozen=True, slots=True)
class Affine:
    """``gain * x + offset`` per output channel behind an operator with weights (float64)."""

    gain: NDArray[np.float64]
    offset: NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Unit:
    """One operator to be written as operations of the Graph.

    Attributes:
        builder: Where they go.
        node: For names and attributes.
        kind: ONNX operator it computes; of a QLinear node the plain one.
        operands: Stored integers with their scale, or plain values; None where absent.
        targets: Results, by position; None for those nobody wants.
        nodes: Nodes of the file it stands for, up to the operator.
        tail: Nodes behind the operator: clamps and the quantization of the result.
        clamp: Of the real result.
        affine: Constant sums and factors behind the operator, to be folded into its weights.
        channels_last: Whether the node says that its maps are NHWC in the file.
        feeds_products: Whether only matrix products by constants read the result.
        mixes_batch: Set when a parameter depends on the batch other than on axis 0.
    """

    builder: Builder
    node: FileNode
    kind: str
    operands: tuple[Value | None, ...]
    targets: tuple[Target | None, ...]
    nodes: tuple[int, ...]
    tail: tuple[int, ...] = ()
    clamp: Clamp = UNBOUNDED
    affine: tuple[Affine, ...] = ()
    channels_last: bool = False
    feeds_products: bool = False
    mixes_batch: bool = False

    @property
    def location(self) -> Location:
        return self.node.location

    @property
    def target(self) -> Target:
        target = self.targets[0]
        if target is None:
            raise NotModelledError(f"{self.kind} without its first result is not modelled")
        return target

    def error(self, field_name: str, problem: str) -> ImportModelError:
        return self.node.error(field_name, problem)

    # Operands

    def has(self, position: int) -> bool:
        return position < len(self.operands) and self.operands[position] is not None

    def operand(self, position: int) -> Value:
        value = self.operands[position] if position < len(self.operands) else None
        if value is None:
            raise self.error("input", f"input {position} is absent")
        return value

    def coded(self, position: int, *others: DType) -> tuple[Value, Quantization]:
        """An operand that stands for reals on one scale, of a code type or one of `others`."""
        value = self.operand(position)
        if value.quantization is None or value.dtype not in (*CODE_TYPES, *others):
            raise NotModelledError(
                f"float operator {self.kind}: input '{value.name}' is not quantized to 8 or 4 bits"
                if value.dtype.is_float
                else f"{self.kind} of {value.dtype.value} is not modelled"
            )
        return value, value.quantization

    def tensor(self, position: int, layout: Layout) -> str:
        return self.builder.tensor_of(self.operand(position), layout, self.location)

    def image(self, position: int = 0) -> str:
        """An operand as a map of channels-last rows and columns."""
        value = self.operand(position)
        if value.rank == 4:
            return self.tensor(position, self.image_layout)
        if value.rank != 3:
            raise NotModelledError(f"{self.kind} of {value.rank} axes is not modelled")
        row = self.tensor(position, self.row_layout)
        batch, length, channels = self.builder.shape_of(row)
        name = self.builder.intermediate(f"{value.name}/image", value.dtype, value.quantization)
        self.builder.add(
            Reshape(location=self.location, sources=(), input=row, output=name),
            {name: (batch, 1, length, channels)},
        )
        return name

    @property
    def image_layout(self) -> Layout:
        """What makes a four-dimensional value of the file NHWC."""
        return file_order(4) if self.channels_last else CHANNELS_LAST

    @property
    def row_layout(self) -> Layout:
        """What makes a three-dimensional value of the file (batch, length, channels)."""
        return file_order(3) if self.channels_last else (0, 2, 1)

    def constant(self, position: int, role: str) -> Value:
        value = self.operand(position)
        if value.data is None:
            raise NotModelledError(f"{self.kind} with computed {role} is not modelled")
        return value

    def integers(
        self, position: int, role: str, *, most: int = 2 * MAX_RANK, batch_first: bool = False
    ) -> tuple[int, ...]:
        """A constant parameter, flattened."""
        value = self.constant(position, role)
        assert value.data is not None
        if value.data.dtype not in (np.int32, np.int64):
            raise self.error("input", f"{role} '{value.name}' is of type {value.dtype.value}")
        if value.data.size > most:
            raise self.error("input", f"{role} '{value.name}' has {value.data.size} values")
        values = tuple(int(v) for v in value.data.ravel())
        other = value.other_batch
        if other is not None and not (
            batch_first and tuple(int(v) for v in other.ravel()[1:]) == values[1:]
        ):
            self.mixes_batch = True
        return values

    def reals(self, position: int, role: str) -> NDArray[np.float64]:
        """A constant of reals, in float64."""
        return real_values(self.constant(position, role), role)

    def axis(self, axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise self.error("axis", f"axis {axis} of a tensor with {rank} axes")
        return axis % rank

    # Results

    def sources(self, *, last: bool = True) -> tuple[int, ...]:
        return self.builder.sources((*self.nodes, *(self.tail if last else ())))

    def write(
        self,
        make: Callable[[str, Activation], Operation],
        layout: Layout,
        *,
        fuses: bool = False,
        shape: FixedShape | None = None,
    ) -> None:
        """Add the operation that computes the first result, and its clamps.

        Args:
            make: The operation, from the tensor it writes and the activation it holds.
            layout: Of the tensor it writes.
            fuses: Whether the operation can hold an activation.
            shape: Of the tensor, where the operation does not tell.
        """
        target = self.target
        builder = self.builder
        kind = self.operand(0).dtype
        if {kind, target.dtype} == {DType.INT8, DType.UINT8}:
            self._write_recoded(make, layout, kind, fuses=fuses, shape=shape)
            return
        activation, bounds = split_clamp(self.clamp, target)
        direct = bounds == UNBOUNDED and (fuses or activation is Activation.NONE)
        if direct:
            name = builder.declare(target, layout)
            builder.add(make(name, activation), {} if shape is None else {name: shape})
            builder.write(target, name, layout)
            return
        wanted = f"{target.name}/unclamped"
        name = builder.intermediate(wanted, target.dtype, target.quantization)
        builder.add(
            make(name, activation if fuses else Activation.NONE),
            {} if shape is None else {name: shape},
        )
        if activation is not Activation.NONE and not fuses:
            output = builder.declare(target, layout)
            builder.add(
                Relu(
                    location=self.location,
                    sources=self.sources(),
                    input=name,
                    output=output,
                    bound=activation,
                )
            )
            builder.write(target, output, layout)
            return
        self._bounded(name, bounds, layout)

    def write_image(
        self, make: Callable[[str, Activation], Operation], *, fuses: bool = False
    ) -> None:
        """Add an operation on the map that `image` gives; a row has height one in the Graph."""
        if self.operand(0).rank == 4:
            self.write(make, self.image_layout, fuses=fuses)
            return
        target, builder = self.target, self.builder
        inner = dataclasses.replace(target, name=builder.unused_name(f"{target.name}/image"))
        self.targets = (inner,)
        self.write(make, file_order(4), fuses=fuses)
        written = builder.values.pop(inner.name).forms[file_order(4)]
        batch, _, length, channels = builder.shape_of(written)
        name = builder.declare(target, self.row_layout)
        builder.add(
            Reshape(location=self.location, sources=(), input=written, output=name),
            {name: (batch, length, channels)},
        )
        builder.write(target, name, self.row_layout)

    def _write_recoded(
        self,
        make: Callable[[str, Activation], Operation],
        layout: Layout,
        dtype: DType,
        *,
        fuses: bool,
        shape: FixedShape | None,
    ) -> None:
        """Operations keep the type of what they read: the other one is 128 codes away."""
        target, builder = self.target, self.builder
        inner = Target(
            builder.unused_name(f"{target.name}/{dtype.value}"),
            dtype,
            shifted(target.quantization, target.dtype, dtype),
        )
        self.targets = (inner,)
        self.write(make, layout, fuses=fuses, shape=shape)
        written = builder.values.pop(inner.name)
        output = builder.declare(target, layout)
        builder.add(
            Quantize(location=self.location, sources=(), input=written.forms[layout], output=output)
        )
        builder.write(target, output, layout)

    def recoded(self, position: int, dtype: DType) -> Value:
        """An operand with the other 8-bit type; the same reals."""
        value = self.operand(position)
        if value.dtype is dtype or {value.dtype, dtype} != {DType.INT8, DType.UINT8}:
            return value
        scales = shifted(value.quantization, value.dtype, dtype)
        if value.data is not None:
            offset = dtype.code_range[0] - value.dtype.code_range[0]
            data = (value.data.astype(np.int16) + offset).astype(dtype.numpy)
            name = f"{value.name}/{dtype.value}"
            return dataclasses.replace(
                value, name=name, dtype=dtype, data=data, quantization=scales, forms={}
            )
        layout = value.layout
        source = self.builder.tensor_of(value, layout, self.location)
        name = self.builder.intermediate(f"{value.name}/{dtype.value}", dtype, scales)
        self.builder.add(Quantize(location=self.location, sources=(), input=source, output=name))
        return dataclasses.replace(
            value, dtype=dtype, quantization=scales, forms={layout: name}, shuffled=None
        )

    def _bounded(self, name: str, bounds: Clamp, layout: Layout) -> None:
        """Clamps no activation names, on stored integers: rounding is monotone, so they commute."""
        target, builder = self.target, self.builder
        kinds = [
            (kind, bound)
            for kind, bound in ((Maximum, bounds[0]), (Minimum, bounds[1]))
            if math.isfinite(bound)
        ]
        for position, (kind, bound) in enumerate(kinds):
            code = quantized(np.array(bound), target.dtype, target.quantization)
            limit = builder.new_constant(
                f"{target.name}/bound", target.dtype, code, target.quantization
            )
            final = position == len(kinds) - 1
            output = (
                builder.declare(target, layout)
                if final
                else builder.intermediate(f"{target.name}/low", target.dtype, target.quantization)
            )
            builder.add(
                kind(
                    location=self.location,
                    sources=self.sources() if final else (),
                    a=name,
                    b=limit,
                    output=output,
                )
            )
            name = output
        builder.write(target, name, layout)


def split_clamp(clamp: Clamp, target: Target) -> tuple[Activation, Clamp]:
    """A clamp as an activation, or as bounds that none has.

    Bounds beyond what the result's integers stand for do nothing and are left out.
    """
    if clamp in _ACTIVATIONS:
        return _ACTIVATIONS[clamp], UNBOUNDED
    low, high = clamp
    scales = target.quantization
    if scales is not None and not target.dtype.is_float:
        first, last = target.dtype.code_range
        zero, scale = scales.single_zero_point, scales.single_scale
        if low <= scale * (first - zero):
            low = -math.inf
        if high >= scale * (last - zero):
            high = math.inf
    if (low, high) in _ACTIVATIONS:
        return _ACTIVATIONS[low, high], UNBOUNDED
    return Activation.NONE, (low, high)


def quantized(values: AnyArray, dtype: DType, scales: Quantization | None) -> AnyArray:
    """Codes of reals as QuantizeLinear gives them: float32 division, ties to even."""
    assert scales is not None
    shape = [1] * values.ndim
    if scales.axis is not None:
        shape[scales.axis] = -1
    scale = scales.scale.reshape(shape) if values.ndim else scales.scale[0]
    zero = scales.zero_point.reshape(shape) if values.ndim else scales.zero_point[0]
    with np.errstate(all="ignore"):
        steps = np.rint(values.astype(np.float32) / scale).astype(np.float64)
    low, high = dtype.code_range
    codes: AnyArray = np.clip(np.nan_to_num(steps) + zero, low, high)
    return codes.astype(dtype.numpy)


def real_values(value: Value, role: str) -> NDArray[np.float64]:
    """A constant's reals in float64, whether it is stored as reals or as integers on a scale."""
    stored = value.stored
    if stored.data is None:
        raise NotModelledError(f"computed {role} is not modelled")
    if stored.quantization is not None:
        return dequantized(stored).astype(np.float64)
    return stored.data.astype(np.float64)


def same_scale(a: Quantization | None, b: Quantization | None) -> bool:
    if a is None or b is None:
        return a is b
    return (
        a.axis == b.axis
        and np.array_equal(a.scale, b.scale)
        and np.array_equal(a.zero_point, b.zero_point)
    )


def shifted(scales: Quantization | None, before: DType, after: DType) -> Quantization | None:
    """Scales of the same reals in the other 8-bit type."""
    if scales is None:
        return None
    offset = after.code_range[0] - before.code_range[0]
    return dataclasses.replace(scales, zero_point=scales.zero_point + offset)
