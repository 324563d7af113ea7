# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that move values."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import (
    Concatenation,
    Pad,
    Reshape,
    Split,
    StridedSlice,
)
from akida_backend.importers.onnx_elementwise import common_layout, with_scale
from akida_backend.importers.onnx_units import Unit, quantized
from akida_backend.importers.onnx_values import (
    CHANNELS_LAST,
    NotModelledError,
    Value,
    dequantized,
    file_order,
    values_in_order,
)
from akida_backend.importers.onnx_windows import axes_parameter
from akida_backend.importers.shape_inference import FixedShape

_NO_LIMIT: Final = 2**14


def concat(unit: Unit) -> None:
    values = [unit.operand(position) for position in range(len(unit.operands))]
    rank = values[0].rank
    if any(value.rank != rank for value in values):
        raise unit.error("input", "operands of different numbers of axes")
    activations = [value for value in values if value.data is None]
    axis = unit.axis(unit.node.integer("axis", 1), rank)
    layout = common_layout(activations, rank)
    names = []
    for position, value in enumerate(values):
        if value.data is not None and value.quantization is None and activations[0].quantization:
            value = with_scale(unit, value, activations[0])
        elif activations[0].quantization is not None:
            unit.coded(position)
        names.append(unit.builder.tensor_of(value, layout, unit.location))
    target = unit.target
    if target.quantization is None and activations[0].quantization is not None:
        raise NotModelledError("Concat of integers with and without scale is not modelled")
    unit.write(
        lambda output, activation: Concatenation(
            location=unit.location,
            sources=unit.sources(),
            operands=tuple(names),
            output=output,
            axis=layout.index(axis),
            activation=activation,
        ),
        layout,
        fuses=True,
    )


def reshape_to(unit: Unit, shape: FixedShape) -> None:
    """The same values under another shape."""
    x = unit.operand(0)
    if math.prod(shape) != math.prod(x.shape):
        raise unit.error(
            "shape", f"{math.prod(x.shape)} values of {list(x.shape)} do not fill {list(shape)}"
        )
    target, builder = unit.target, unit.builder
    layout = x.layout
    order: NDArray[np.int64] | None = None
    if x.data is None and x.forms and not values_in_order(x.shape, layout):
        flat = len(shape) == 2 and shape[0] == x.shape[0] and layout[0] == 0
        if unit.feeds_products and flat:
            whole = np.arange(shape[1], dtype=np.int64).reshape(x.shape[1:])
            order = whole.transpose([axis - 1 for axis in layout[1:]]).reshape(-1)
        else:
            layout = file_order(x.rank)
    elif x.data is None and not x.forms:
        layout = file_order(x.rank)
    source = unit.tensor(0, layout)
    name = builder.declare(target, file_order(len(shape)))
    builder.add(
        Reshape(location=unit.location, sources=unit.sources(), input=source, output=name),
        {name: shape},
    )
    value = builder.write(target, name, file_order(len(shape)))
    if order is not None:
        value.forms.clear()
        value.shuffled = name, order


def reshaped(unit: Unit) -> FixedShape:
    """Shape a Reshape, Flatten, Squeeze or Unsqueeze gives."""
    x = unit.operand(0)
    match unit.kind:
        case "Reshape":
            return _reshape_target(unit, x.shape)
        case "Flatten":
            axis = unit.node.integer("axis", 1)
            if not -x.rank <= axis <= x.rank:
                raise unit.error("axis", f"{axis} of {x.rank} axes")
            axis = axis + x.rank if axis < 0 else axis
            return math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
        case "Squeeze":
            given = axes_parameter(unit, 1, 13)
            axes = (
                {unit.axis(axis, x.rank) for axis in given}
                if given is not None
                else {axis for axis, length in enumerate(x.shape) if length == 1}
            )
            if any(x.shape[axis] != 1 for axis in axes):
                raise unit.error("axes", f"{sorted(axes)} of {list(x.shape)} are not all one")
            return tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
        case _:
            given = axes_parameter(unit, 1, 13)
            if given is None:
                raise unit.error("axes", "are missing")
            rank = x.rank + len(given)
            new = {unit.axis(axis, rank) for axis in given}
            if len(new) != len(given):
                raise unit.error("axes", f"{list(given)} repeat an axis")
            rest = iter(x.shape)
            return tuple(1 if axis in new else next(rest) for axis in range(rank))


def _reshape_target(unit: Unit, shape: FixedShape) -> FixedShape:
    target = list(unit.integers(1, "shape", batch_first=True))
    keeps_zero = unit.node.flag("allowzero")
    for axis, length in enumerate(target):
        if length == 0 and not keeps_zero:
            if axis >= len(shape):
                raise unit.error("shape", f"{target} copies axis {axis} of {list(shape)}")
            target[axis] = shape[axis]
    if min(target, default=1) < -1 or target.count(-1) > 1:
        raise unit.error("shape", f"{target} is not a shape")
    if -1 in target:
        rest = math.prod(length for length in target if length != -1)
        if rest == 0 or math.prod(shape) % rest:
            raise unit.error("shape", f"{math.prod(shape)} values do not fill {target}")
        target[target.index(-1)] = math.prod(shape) // rest
    return tuple(target)


def pad(unit: Unit) -> None:
    x = unit.operand(0)
    mode = unit.node.text("mode", "constant")
    if mode != "constant":
        raise NotModelledError(f"Pad in mode '{mode}' is not modelled")
    if unit.node.opset >= 11 or not unit.node.is_standard:
        flat = unit.integers(1, "pads")
    else:
        flat = unit.node.integers("pads") or ()
    axes = tuple(range(x.rank))
    if unit.has(3):
        axes = tuple(unit.axis(axis, x.rank) for axis in unit.integers(3, "axes"))
    if len(flat) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise unit.error("pads", f"{len(flat)} pads for {len(axes)} axes")
    if min(flat, default=0) < 0:
        raise NotModelledError("Pad that cuts is not modelled")
    by_axis = {axis: (flat[i], flat[i + len(axes)]) for i, axis in enumerate(axes)}
    grown = {axis for axis, amounts in by_axis.items() if any(amounts)}
    # The border of an image, which convolutions take over where they have its layout.
    layout = CHANNELS_LAST if x.rank == 4 and grown <= {2, 3} else x.layout
    source = unit.tensor(0, layout)
    value = _pad_value(unit, x)
    unit.write(
        lambda output, _: Pad(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            amounts=tuple(by_axis.get(axis, (0, 0)) for axis in layout),
            value=value,
        ),
        layout,
    )


def _pad_value(unit: Unit, x: Value) -> int | float | None:
    """The stored border value; None for real zero."""
    if unit.has(2):
        given = unit.constant(2, "border value")
        assert given.data is not None
        if given.data.size != 1:
            raise unit.error("input", f"border value '{given.name}' is not one value")
        real_or_code = given.data.reshape(())
        if given.quantization is not None:
            real_or_code = dequantized(given).reshape(())
    elif unit.node.has("value"):
        real_or_code = np.array(unit.node.real("value", 0.0), np.float32)
    else:
        return None if x.quantization is not None or x.dtype.is_float else 0
    if x.quantization is None:
        return float(real_or_code) if x.dtype.is_float else int(real_or_code)
    if real_or_code.dtype.kind != "f":  # codes are moved as they are
        code = int(real_or_code)
    else:
        code = int(quantized(real_or_code, x.dtype, x.quantization))
        back = (code - x.quantization.single_zero_point) * x.quantization.scale[0]
        if np.float32(back) != np.float32(real_or_code):
            raise NotModelledError(
                f"Pad with {float(real_or_code):g}, which no code of '{x.name}' stands for"
            )
    return None if code == x.quantization.single_zero_point else code


def slice_values(unit: Unit) -> None:
    x = unit.operand(0)
    begins, ends = unit.integers(1, "starts"), unit.integers(2, "ends")
    axes = unit.integers(3, "axes") if unit.has(3) else tuple(range(len(begins)))
    steps = unit.integers(4, "steps") if unit.has(4) else (1,) * len(begins)
    if not len(begins) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise unit.error("input", f"{len(begins)} starts, {len(ends)} ends, {len(axes)} axes")
    windows: dict[int, tuple[int | None, int | None, int]] = {}
    for begin, end, axis, step in zip(begins, ends, axes, steps, strict=True):
        axis = unit.axis(axis, x.rank)
        if axis in windows:
            raise unit.error("input", f"axis {axis} is sliced twice")
        length = x.shape[axis]
        first, last, stride = slice(begin, end, step).indices(length)
        if not len(range(first, last, stride)):
            raise NotModelledError("Slice that leaves nothing is not modelled")
        whole = (first, last, stride) == (0, length, 1)
        windows[axis] = (None, None, 1) if whole else (first, None if last < 0 else last, stride)
    layout = x.layout
    source = unit.tensor(0, layout)
    ordered = [windows.get(axis, (None, None, 1)) for axis in layout]
    unit.write(
        lambda output, _: StridedSlice(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            begin=tuple(begin for begin, _, _ in ordered),
            end=tuple(end for _, end, _ in ordered),
            step=tuple(step for _, _, step in ordered),
        ),
        layout,
    )


def split(unit: Unit) -> None:
    x = unit.operand(0)
    axis = unit.axis(unit.node.integer("axis", 0), x.rank)
    length, parts = x.shape[axis], len(unit.targets)
    if unit.node.opset >= 13 and unit.has(1):
        sizes = unit.integers(1, "sizes", most=_NO_LIMIT)
    else:
        sizes = unit.node.integers("split", most=_NO_LIMIT) or ()
    if not sizes:
        step = -(-length // parts)
        sizes = tuple(min(step, length - step * i) for i in range(parts))
    if min(sizes, default=1) == 0:
        raise NotModelledError("Split into empty parts is not modelled")
    if len(sizes) != parts or min(sizes) < 1 or sum(sizes) != length:
        raise unit.error("split", f"sizes {list(sizes)} of axis {axis} in {list(x.shape)}")
    layout = x.layout
    source = unit.tensor(0, layout)
    builder = unit.builder
    targets = [t for t in unit.targets if t is not None]
    if len(targets) != parts:
        raise NotModelledError("Split with parts that nobody wants is not modelled")
    names = tuple(builder.declare(target, layout) for target in targets)
    builder.add(
        Split(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            parts=names,
            axis=layout.index(axis),
            sizes=sizes,
        )
    )
    for target, name in zip(targets, names, strict=True):
        builder.write(target, name, layout)
