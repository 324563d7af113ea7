# SPDX-License-Identifier: Apache-2.0
"""Operators between DequantizeLinear and QuantizeLinear, and those of the QOperator form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from akida_backend.graph import (
    DType,
)
from akida_backend.importers.onnx_context import Context
from akida_backend.importers.onnx_file import FileNode
from akida_backend.importers.onnx_operators import CONVERSIONS
from akida_backend.importers.onnx_patterns import ScaledSum, hard_swish, scaled_sum
from akida_backend.importers.onnx_qoperator import QOperator
from akida_backend.importers.onnx_scales import read_scale
from akida_backend.importers.onnx_tails import (
    Tail,
    bounds_of,
    clip_of_codes,
    find_clip,
    find_tail,
)
from akida_backend.importers.onnx_types import result_types
from akida_backend.importers.onnx_units import (
    CODE_TYPES,
    UNBOUNDED,
    Clamp,
    Unit,
    same_scale,
)
from akida_backend.importers.onnx_values import (
    NotModelledError,
    Target,
    Value,
)
from akida_backend.importers.onnx_weighted import accumulator_scale


def operator(context: Context, node: FileNode) -> None:
    """An operator of ONNX's own, on the integers its operands stand for."""
    conversion = CONVERSIONS[node.kind]
    fewest, most = conversion.inputs
    if not fewest <= len(node.inputs) <= most or len(node.outputs) > max(conversion.outputs, 1):
        raise node.error("input", f"{len(node.inputs)} inputs and {len(node.outputs)} outputs")
    given = [context.optional(node, i) for i in range(len(node.inputs))]
    first = given[0]
    if first is None:
        raise node.error("input", "input 0 is absent")
    if all(v is None or v.is_constant for v in given):
        raise NotModelledError(f"{node.kind} of constants is not modelled")
    clamp = UNBOUNDED
    if node.kind in ("Relu", "Clip") and first.codes is not None:
        clamp = _own_clamp(context, node)
    stored = tuple(None if v is None else v.stored for v in given)
    unit = Unit(
        builder=context.builder,
        node=node,
        kind=node.kind,
        operands=stored,
        targets=(),
        nodes=(*_pending(given), node.index),
        clamp=clamp,
    )
    if node.kind in ("Relu", "Clip") and first.codes is None and first.quantization:
        _clip_codes(context, unit, first)
    elif _moves(node, given):
        _move(context, unit, first)
    else:
        _compute(context, unit, given)
    context.mixes_batch |= unit.mixes_batch


def written_out(context: Context, position: int, node: FileNode) -> bool:
    """An operator in several nodes; False where the node starts none that can be taken."""
    file, consumers, reals = context.file, context.consumers, context.constant_reals
    if node.kind in ("HardSigmoid", "Add"):
        pattern = hard_swish(position, file, consumers, reals)
        if pattern is None:
            return False
        names = [n for n in node.inputs if n and reals(n) is None]
        if not names:
            return False
        return _as_unit(context, pattern.nodes, "HardSwish", [context.value(names[0])])
    if node.kind in ("MatMulInteger", "ConvInteger") and node.is_standard:
        if context.given(node, 0).quantization is None:
            raise NotModelledError(f"{node.kind}: no static activation scale")
        found = scaled_sum(position, file, consumers, reals)
        if found is None:
            raise NotModelledError(
                f"{node.kind}: its sums have no static scale, so the device cannot store them"
            )
        return _integer_product(context, node, found)
    return False


def _as_unit(context: Context, nodes: Sequence[int], kind: str, given: Sequence[Value]) -> bool:
    """Nodes that together compute one operator."""
    last = context.file.nodes[nodes[-1]]
    if given[0].codes is None:
        return False
    unit = Unit(
        builder=context.builder,
        node=last,
        kind=kind,
        operands=tuple(v.stored for v in given),
        targets=(),
        nodes=(*_pending(given), *(context.file.nodes[i].index for i in nodes)),
    )
    tail = find_tail(last, kind, context.file, context.consumers, context.lookup, given[0].rank)
    if tail.target is None or tail.target.dtype not in CODE_TYPES:
        return False
    _follow(context, unit, tail)
    _write(context, unit, tail)
    context.done.update(dict.fromkeys(nodes))
    return True


def _integer_product(context: Context, node: FileNode, found: ScaledSum) -> bool:
    """Integers whose sums are scaled to reals by constants and quantized again."""
    x, weights = context.given(node, 0), context.given(node, 1)
    zero_x, zero_w = context.optional(node, 2), context.optional(node, 3)
    scales = x.quantization
    if x.is_constant or scales is None:
        raise NotModelledError(f"{node.kind}: no static activation scale")
    kind = node.kind.removesuffix("Integer")
    axis = 0 if kind == "Conv" else -1
    step = Value("", DType.FLOAT32, (1,), data=scales.scale)
    given = read_scale(node, step, zero_x, x.dtype, axis=0, rank=x.rank)
    if weights.data is None or given.single_zero_point != scales.single_zero_point:
        raise NotModelledError(
            f"{node.kind} with computed weights, or another zero point than its input's"
        )
    factor = found.scale.reshape(-1).astype(np.float32) / scales.scale
    channels = weights.shape[axis]
    zeros = np.zeros(1) if zero_w is None or zero_w.data is None else zero_w.data.reshape(-1)
    if factor.size not in (1, channels) or zeros.size not in (1, channels):
        raise NotModelledError(f"{node.kind} with scales that are not one per channel")
    size = max(factor.size, zeros.size)
    coded = read_scale(
        node,
        Value("", DType.FLOAT32, (size,), data=np.broadcast_to(factor, size).copy()),
        Value("", weights.dtype, (size,), data=np.broadcast_to(zeros, size).copy()),
        weights.dtype,
        axis=axis,
        rank=weights.rank,
    )
    last = context.file.nodes[found.nodes[-1]]
    tail = find_tail(last, kind, context.file, context.consumers, context.lookup, x.rank)
    if tail.target is None or tail.target.dtype not in CODE_TYPES:
        raise NotModelledError(f"{node.kind}: its scaled result is not quantized")
    indices = [context.file.nodes[i].index for i in found.nodes]
    unit = Unit(
        builder=context.builder,
        node=node,
        kind=kind,
        operands=(
            x,
            dataclasses.replace(weights, quantization=coded, forms={}),
            None if tail.bias is None else tail.bias.stored,
        ),
        targets=(),
        nodes=(*_pending((x, weights)), *indices),
    )
    _follow(context, unit, tail)
    _write(context, unit, tail)
    context.done.update(dict.fromkeys(found.nodes))
    return True


def _own_clamp(context: Context, node: FileNode) -> Clamp:
    bounds = bounds_of(node, context.constant_reals)
    if bounds is None:
        raise NotModelledError(f"{node.kind} with computed or crossed bounds is not modelled")
    return bounds


def _clip_codes(context: Context, unit: Unit, value: Value) -> None:
    """A clamp of stored integers."""
    node = unit.node
    target = Target(node.outputs[0], value.dtype, value.quantization)
    bounds = clip_of_codes(node, target, context.constant_reals)
    if bounds is None or value.dtype not in CODE_TYPES:
        raise NotModelledError(f"{node.kind} of {value.dtype.value} is not modelled")
    unit.clamp, unit.targets = bounds, (target,)
    CONVERSIONS[node.kind].convert(unit)


def _moves(node: FileNode, given: Sequence[Value | None]) -> bool:
    """Whether the node moves stored values as they are."""
    first = given[0]
    assert first is not None
    if node.kind == "Concat":
        stored = [v.stored for v in given if v is not None]
        activations = [v for v in stored if v.data is None]
        return all(
            v.dtype is activations[0].dtype
            and same_scale(v.quantization, activations[0].quantization)
            for v in stored
        )
    if node.kind == "Resize":
        return node.text("mode", "nearest") == "nearest"
    if node.kind == "ArgMax":
        return False
    return CONVERSIONS[node.kind].moves


def _move(context: Context, unit: Unit, first: Value) -> None:
    """Stored values go on as they are; reals stay reals of the moved integers."""
    node, stored = unit.node, first.stored
    targets: list[Target | None] = []
    views: list[tuple[str, str]] = []
    tail: list[int] = []
    for name in node.outputs:
        if not name:
            targets.append(None)
            continue
        written = name
        if first.codes is not None:
            quantize = context.consumers.sole_quantize(name)
            if quantize is not None and _keeps_scale(context, quantize, stored):
                reader = context.file.nodes[quantize]
                written = reader.outputs[0]
                tail.append(reader.index)
                context.done[quantize] = None
            else:
                # An output of the graph keeps its name for its reals.
                written = f"{name}/codes" if name in context.file.outputs else name
                views.append((name, written))
        targets.append(Target(written, stored.dtype, stored.quantization))
    unit.targets = tuple(targets)
    unit.tail = tuple(tail)
    unit.feeds_products = context.consumers.only_products(node.outputs[0])
    CONVERSIONS[node.kind].convert(unit)
    for name, written in views:
        codes = context.builder.values.pop(written)
        context.builder.add_value(Value(name, first.dtype, codes.shape, codes=codes))


def _keeps_scale(context: Context, position: int, stored: Value) -> bool:
    found = context.quantize_target(context.file.nodes[position], stored.rank)
    return (
        found is not None
        and found.dtype is stored.dtype
        and same_scale(found.quantization, stored.quantization)
    )


def _compute(context: Context, unit: Unit, given: Sequence[Value | None]) -> None:
    """An operator between reals: its operands and its result have to have scales."""
    node = unit.node
    if node.kind == "ArgMax":
        dtype = result_types(node, context.file, context.builder.values)[node.outputs[0]][0]
        unit.targets = (Target(node.outputs[0], dtype, None),)
        CONVERSIONS[node.kind].convert(unit)
        return
    for value in given[:1]:
        assert value is not None
        if value.codes is None and value.data is None:
            raise NotModelledError(
                f"float operator {node.kind}: input '{value.name}' is not quantized"
                if value.dtype.is_float
                else f"{node.kind} of {value.dtype.value} is not modelled"
            )
    rank = max(v.rank for v in given if v is not None)
    tail = find_tail(node, node.kind, context.file, context.consumers, context.lookup, rank)
    if tail.target is None and _writes_sums(context, unit, rank):
        return
    if tail.target is None:
        raise NotModelledError(
            f"float operator {node.kind}: its result '{node.outputs[0]}' is not quantized"
        )
    if tail.target.dtype not in CODE_TYPES:
        raise NotModelledError(
            f"{node.kind} with a result of {tail.target.dtype.value} is not modelled"
        )
    _follow(context, unit, tail)
    if tail.bias is not None:
        unit.operands = (*unit.operands[:2], tail.bias.stored)
        unit.tail = (*unit.tail, *tail.bias.pending_nodes())
    _write(context, unit, tail)


def _writes_sums(context: Context, unit: Unit, rank: int) -> bool:
    """Write a depthwise convolution whose reals a pointwise one alone reads: as int32 sums.

    They are exact, where runtimes sum reals in float32.
    """
    node = unit.node
    position = context.consumers.sole_reader(node.outputs[0])
    if node.kind != "Conv" or position is None:
        return False
    x, weights = unit.operand(0), unit.operand(1)
    scales = (x.quantization, weights.quantization)
    if (
        x.dtype not in (DType.INT8, DType.UINT8)
        or scales[0] is None
        or scales[1] is None
        or not scales[1].is_per_tensor
        or weights.rank != rank
        or weights.shape[:2] != (node.integer("group", 1), 1)
        or not _is_pointwise(context, context.file.nodes[position], node.outputs[0], rank)
    ):
        return False
    written = context.builder.unused_name(f"{node.outputs[0]}/sums")
    unit.targets = (Target(written, DType.INT32, accumulator_scale(unit, scales[0], scales[1])),)
    CONVERSIONS[node.kind].convert(unit)
    sums = context.builder.values.pop(written)
    context.builder.add_value(Value(node.outputs[0], DType.FLOAT32, sums.shape, codes=sums))
    return True


def _is_pointwise(context: Context, node: FileNode, source: str, rank: int) -> bool:
    """Whether a node is a 1x1 convolution with constant weights and a quantized result."""
    if not node.is_standard or node.kind != "Conv" or node.inputs[:1] != (source,):
        return False
    name = "".join(node.inputs[1:2])
    while (before := context.consumers.producer(name)) is not None:
        reader = context.file.nodes[before]
        if reader.kind not in ("DequantizeLinear", "QuantizeLinear", "Clip") or not reader.inputs:
            return False
        name = reader.inputs[0]
    if name not in context.file.constants.names:
        return False
    kernel = context.value(name).shape[2:]
    apart = (*(node.integers("strides") or ()), *(node.integers("dilations") or ()))
    tail = find_tail(node, node.kind, context.file, context.consumers, context.lookup, rank)
    return (
        all(length == 1 for length in (*kernel, *apart))
        and not any(node.integers("pads") or ())
        and node.integer("group", 1) == 1
        and tail.target is not None
        and tail.target.dtype in CODE_TYPES
    )


def _follow(context: Context, unit: Unit, tail: Tail) -> None:
    """Take what stands behind an operator into its unit."""
    unit.targets = (tail.target,)
    unit.tail = tuple(context.file.nodes[i].index for i in tail.nodes)
    unit.clamp = _intersection(unit.clamp, tail.clamp)
    unit.affine = tail.affine


def _write(context: Context, unit: Unit, tail: Tail) -> None:
    """Write a unit up to its quantization, or as integers that are moved before it."""
    if not tail.moved:
        _join_clip(context, unit)
        CONVERSIONS[unit.kind].convert(unit)
    else:
        name = unit.target.name
        written = f"{name}/codes" if name in context.file.outputs else name
        unit.targets = (dataclasses.replace(unit.target, name=written),)
        CONVERSIONS[unit.kind].convert(unit)
        codes = context.builder.values.pop(written)
        context.builder.add_value(Value(name, DType.FLOAT32, codes.shape, codes=codes))
    context.done.update(dict.fromkeys(tail.nodes))


def _join_clip(context: Context, unit: Unit) -> None:
    """Take a clamp of the result's stored integers into the unit."""
    found = find_clip(context.file, context.consumers, context.lookup, unit.target)
    if found is None:
        return
    position, bounds = found
    clip = context.file.nodes[position]
    unit.clamp = _intersection(unit.clamp, bounds)
    unit.targets = (dataclasses.replace(unit.target, name=clip.outputs[0]),)
    unit.tail = (*unit.tail, clip.index)
    context.done[position] = None


def qoperator(context: Context, node: FileNode, form: QOperator) -> None:
    unit = form.unit(
        context.builder,
        node,
        lambda position: context.optional(node, position),
        lambda value, scales: context.coded(node, value, scales),
    )
    _join_clip(context, unit)
    CONVERSIONS[form.kind].convert(unit)
    context.mixes_batch |= unit.mixes_batch


def _intersection(a: Clamp, b: Clamp) -> Clamp:
    low, high = max(a[0], b[0]), min(a[1], b[1])
    if low > high:
        raise NotModelledError("clamps that leave nothing are not modelled")
    return low, high


def _pending(given: Sequence[Value | None]) -> tuple[int, ...]:
    return tuple(index for v in given if v is not None for index in v.pending_nodes())
