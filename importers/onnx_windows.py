# SPDX-License-Identifier: Apache-2.0
"""ONNX pools and reductions."""

from __future__ import annotations

from akida_backend.graph import (
    NO_PADS,
    ONE,
    ArgMax,
    AveragePool2D,
    MaxPool2D,
    Mean,
    Pad,
    Pads,
    Reshape,
    Size2D,
)
from akida_backend.importers.onnx_units import Unit
from akida_backend.importers.onnx_values import (
    NotModelledError,
    file_order,
)
from akida_backend.importers.onnx_weighted import (
    image_shape,
    pads,
    pair,
)


def max_pool(unit: Unit) -> None:
    if unit.node.flag("storage_order") or (len(unit.targets) > 1 and unit.targets[1] is not None):
        raise NotModelledError("MaxPool with indices is not modelled")
    window, stride, border = _pool_window(unit, counts=False)
    if pair(unit, "dilations") != ONE:
        raise NotModelledError("MaxPool with dilations is not modelled")
    _write_max_pool(unit, window, stride, border)


def _write_max_pool(unit: Unit, window: Size2D, stride: Size2D, border: Pads) -> None:
    source = unit.image()
    unit.write_image(
        lambda output, activation: MaxPool2D(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            window=window,
            stride=stride,
            pads=border,
            activation=activation,
        ),
        fuses=unit.target.quantization is not None,
    )


def average_pool(unit: Unit) -> None:
    """AveragePool; cells of the border that count become a Pad in front."""
    x, _ = unit.coded(0)
    window, stride, border = _pool_window(unit, counts=True)
    if unit.node.has("dilations") and pair(unit, "dilations") != ONE:
        raise NotModelledError("AveragePool with dilations is not modelled")
    source = unit.image()
    if border != NO_PADS and unit.node.flag("count_include_pad"):
        padded = unit.builder.intermediate(f"{unit.target.name}/padded", x.dtype, x.quantization)
        unit.builder.add(
            Pad(
                location=unit.location,
                sources=(),
                input=source,
                output=padded,
                amounts=(
                    (0, 0),
                    (border.top, border.bottom),
                    (border.left, border.right),
                    (0, 0),
                ),
            )
        )
        source, border = padded, NO_PADS
    unit.write_image(
        lambda output, activation: AveragePool2D(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            window=window,
            stride=stride,
            pads=border,
            activation=activation,
        ),
        fuses=True,
    )


def _pool_window(unit: Unit, *, counts: bool) -> tuple[Size2D, Size2D, Pads]:
    """Window, stride and borders; rounding up becomes a longer border at the end."""
    size, _ = image_shape(unit)
    if not unit.node.has("kernel_shape"):
        raise unit.error("kernel_shape", "is missing")
    window, stride = pair(unit, "kernel_shape"), pair(unit, "strides")
    border = pads(unit, size, window, stride, ONE)
    if not unit.node.flag("ceil_mode"):
        return window, stride, border
    rows = _rounded_up(size.height, window.height, stride.height, border.top, border.bottom)
    columns = _rounded_up(size.width, window.width, stride.width, border.left, border.right)
    wider = Pads(border.top, border.bottom + rows, border.left, border.right + columns)
    if wider != border and counts and unit.node.flag("count_include_pad"):
        raise NotModelledError(f"{unit.kind} that rounds its size up is not modelled")
    return window, stride, wider


def _rounded_up(length: int, window: int, stride: int, before: int, after: int) -> int:
    """Cells to add at the end so that the last, partial window fits.

    Windows that would start behind the map and its leading border are left out.
    """
    total = length + before + after
    windows = -(-(total - window) // stride) + 1
    if (windows - 1) * stride >= length + before:
        windows -= 1
    return max((windows - 1) * stride + window - total, 0)


def global_average_pool(unit: Unit) -> None:
    unit.coded(0)
    source = unit.image()
    unit.write_image(
        lambda output, _: Mean(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            axes=(1, 2),
            keep_dims=True,
        ),
    )


def global_max_pool(unit: Unit) -> None:
    size, _ = image_shape(unit)
    _write_max_pool(unit, size, ONE, NO_PADS)


def axes_parameter(unit: Unit, position: int, since: int) -> tuple[int, ...] | None:
    """Axes given as an attribute before opset `since`, as an input from then on."""
    if unit.node.is_standard and unit.node.opset >= since:
        return unit.integers(position, "axes") if unit.has(position) else None
    return unit.node.integers("axes")


def reduce_mean(unit: Unit) -> None:
    x, _ = unit.coded(0)
    given = axes_parameter(unit, 1, 18)
    if not given:
        if unit.node.flag("noop_with_empty_axes"):
            raise NotModelledError("ReduceMean over no axis is not modelled")
        given = tuple(range(x.rank))
    dropped = {unit.axis(axis, x.rank) for axis in given}
    keep = unit.node.flag("keepdims", 1)
    layout = x.layout
    source = unit.tensor(0, layout)
    kept = [axis for axis in layout if axis not in dropped]
    after = layout if keep else tuple(sorted(kept).index(axis) for axis in kept)
    unit.write(
        lambda output, _: Mean(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            axes=tuple(sorted(layout.index(axis) for axis in dropped)),
            keep_dims=keep,
        ),
        after,
    )


def arg_max(unit: Unit) -> None:
    x = unit.operand(0)
    if x.quantization is None:
        raise NotModelledError(f"float operator {unit.kind}")
    if unit.node.flag("select_last_index"):
        raise NotModelledError("ArgMax of the last largest is not modelled")
    axis = unit.axis(unit.node.integer("axis", 0), x.rank)
    source = unit.tensor(0, file_order(x.rank))
    keep = unit.node.flag("keepdims", 1)
    target, builder = unit.target, unit.builder
    name = (
        builder.intermediate(f"{target.name}/index", target.dtype, None)
        if keep
        else builder.declare(target, file_order(x.rank - 1))
    )
    builder.add(
        ArgMax(location=unit.location, sources=unit.sources(), input=source, output=name, axis=axis)
    )
    rank = x.rank - 1
    if keep:
        rank = x.rank
        output = builder.declare(target, file_order(rank))
        builder.add(
            Reshape(location=unit.location, sources=(), input=name, output=output),
            {output: (*x.shape[:axis], 1, *x.shape[axis + 1 :])},
        )
        name = output
    builder.write(target, name, file_order(rank))
