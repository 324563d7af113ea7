# SPDX-License-Identifier: Apache-2.0
"""What follows an operator up to the quantization of its result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from akida_backend.graph import Activation, AnyArray, Location
from akida_backend.importers.onnx_file import FileNode, OnnxFile
from akida_backend.importers.onnx_types import outer_names
from akida_backend.importers.onnx_units import CODE_TYPES, UNBOUNDED, Affine, Clamp
from akida_backend.importers.onnx_values import Target, Value

QUANTIZE: Final = "QuantizeLinear"
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_PRODUCTS: Final = frozenset({"Gemm", "MatMul", "QLinearMatMul", "QGemm"})
_PASSES: Final = frozenset({QUANTIZE, "DequantizeLinear", "Identity", "Dropout"})


class Consumers:
    """Who reads each value of a file."""

    def __init__(self, file: OnnxFile) -> None:
        self._nodes = file.nodes
        self._outputs = frozenset(file.outputs)
        self._given = frozenset({*file.inputs, *file.constants.names})
        self._readers: dict[str, list[int]] = {}
        self._producers: dict[str, int] = {}
        for position, node in enumerate(file.nodes):
            for name in (*node.inputs, *outer_names(node.proto)):
                if name:
                    self._readers.setdefault(name, []).append(position)
            for name in node.outputs:
                if name:
                    self._producers[name] = position
        self._fallback = Location(file.label, 0, "", "")

    def is_read(self, name: str) -> bool:
        return bool(name) and (name in self._readers or name in self._outputs)

    def sole_reader(self, name: str) -> int | None:
        """Position of the one node that reads a value nobody else needs, or None."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def sole_quantize(self, name: str) -> int | None:
        """Position of the QuantizeLinear that alone reads a value."""
        reader = self.sole_reader(name)
        return reader if reader is not None and is_quantize(self._nodes[reader]) else None

    def producer(self, name: str) -> int | None:
        """Position of the node that writes a value."""
        return self._producers.get(name)

    def producer_location(self, name: str) -> Location:
        """Of the node that writes a value; of an input, a place without a node."""
        position = self._producers.get(name)
        if position is None:
            return Location(self._fallback.file, self._fallback.index, "", name)
        return self._nodes[position].location

    def only_products(self, name: str) -> bool:
        """Whether nothing but matrix products reads a value, codes and reals of it included."""
        pending, seen = [name], {name}
        found = False
        while pending:
            current = pending.pop()
            if current in self._outputs:
                return False
            for position in self._readers.get(current, []):
                node = self._nodes[position]
                if node.kind in _PRODUCTS and node.inputs[0] == current:
                    found = True
                elif node.kind in _PASSES and node.inputs[0] == current:
                    if node.outputs[0] not in seen:
                        seen.add(node.outputs[0])
                        pending.append(node.outputs[0])
                else:
                    return False
        return found


def is_quantize(node: FileNode) -> bool:
    return node.kind == QUANTIZE and node.domain in ("", "com.microsoft")


@dataclass(slots=True)
class Tail:
    """Nodes behind an operator.

    Attributes:
        target: What the last of them writes; None where the result is not quantized.
        moved: Whether the quantization stands behind moves: then the target has the name of the
            reals that are moved.
        nodes: Their positions.
        clamp: Bounds they put on the real result.
        affine: Constant factors and sums per channel they apply before the clamp.
        bias: A constant sum per channel directly behind a product without a bias of its own.
    """

    target: Target | None = None
    moved: bool = False
    nodes: tuple[int, ...] = ()
    clamp: Clamp = UNBOUNDED
    affine: tuple[Affine, ...] = ()
    bias: Value | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """How a tail looks at constants.

    Attributes:
        value: A value by name; only asked for constants.
        reals: Reals of a constant in float32, None for what is computed.
        target: What a QuantizeLinear of activations with so many axes writes.
    """

    value: Callable[[str], Value | None]
    reals: Callable[[str], AnyArray | None]
    target: Callable[[FileNode, int], Target | None]


def find_tail(
    node: FileNode, kind: str, file: OnnxFile, consumers: Consumers, lookup: Lookup, rank: int
) -> Tail:
    """Follow the only readers of a result through constant sums and clamps to a QuantizeLinear.

    Args:
        node: Whose first result it is.
        kind: Operator it computes.
        file: All nodes.
        consumers: Who reads what.
        lookup: Constants.
        rank: Axes of the result.
    """
    tail = Tail()
    weighted = kind in _WEIGHTED
    has_bias = kind != "MatMul" and len(node.inputs) > 2 and node.inputs[2] != ""
    name = node.outputs[0]
    clamped = False
    while (position := consumers.sole_reader(name)) is not None:
        reader = file.nodes[position]
        if is_quantize(reader) and reader.inputs[0] == name:
            target = lookup.target(reader, rank)
            if target is None:
                return Tail()
            tail.target, tail.nodes = target, (*tail.nodes, position)
            return tail
        if not reader.is_standard or reader.inputs[0] != name:
            swapped = reader.is_standard and reader.kind == "Add" and name in reader.inputs
            if not swapped:
                return Tail()
        if reader.kind in ("Relu", "Clip"):
            bounds = bounds_of(reader, lookup.reals)
            if bounds is None:
                return Tail()
            tail.clamp = max(tail.clamp[0], bounds[0]), min(tail.clamp[1], bounds[1])
            if tail.clamp[0] > tail.clamp[1]:
                return Tail()
            clamped = True
        elif reader.kind == "Add" and weighted and not clamped:
            if not _joins_as_bias(kind, reader, name, tail, lookup, has_bias=has_bias):
                return Tail()
        elif reader.kind == "BatchNormalization" and weighted and not clamped:
            step = _normalization(reader, lookup)
            if step is None:
                return Tail()
            tail.affine = (*tail.affine, step)
        elif reader.kind in MOVES:
            later = find_scale(name, file, consumers, lookup, rank)
            if later is None:
                return Tail()
            tail.target, tail.moved = dataclasses.replace(later, name=name), True
            return tail
        elif reader.kind not in ("Identity", "Dropout"):
            return Tail()
        tail.nodes = (*tail.nodes, position)
        name = reader.outputs[0]
    return Tail()


# Rounding to codes keeps the order of values, so these may as well move the codes.
MOVES: Final = frozenset(
    {
        "Flatten",
        "GlobalMaxPool",
        "MaxPool",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)


def find_scale(
    name: str, file: OnnxFile, consumers: Consumers, lookup: Lookup, rank: int
) -> Target | None:
    """The quantization of a result that is only moved before it; None where there are no moves.

    Clamps may stand in front of the moves, and between them.
    """
    moved = False
    while (position := consumers.sole_reader(name)) is not None:
        reader = file.nodes[position]
        if is_quantize(reader) and reader.inputs[0] == name:
            target = lookup.target(reader, rank)
            return target if moved and target is not None and target.dtype in CODE_TYPES else None
        if not reader.is_standard or reader.inputs[0] != name:
            return None
        if reader.kind in MOVES and len([n for n in reader.outputs if n]) == 1:
            moved = True
        elif reader.kind not in ("Relu", "Clip", "Identity", "Dropout"):
            return None
        name = reader.outputs[0]
    return None


def bounds_of(node: FileNode, reals: Callable[[str], AnyArray | None]) -> Clamp | None:
    """Bounds of a Relu or Clip; None where they are computed."""
    if node.kind == "Relu":
        return 0.0, math.inf
    if node.opset < 11:
        low = node.real("min", -math.inf) if node.has("min") else -math.inf
        high = node.real("max", math.inf) if node.has("max") else math.inf
        return _bounds(low, high)
    found = [-math.inf, math.inf]
    for position in (1, 2):
        name = node.inputs[position] if position < len(node.inputs) else ""
        if not name:
            continue
        values = reals(name)
        if values is None or values.size != 1 or np.isnan(values).any():
            return None
        found[position - 1] = float(values.reshape(())[()])
    return _bounds(*found)


def clip_of_codes(
    node: FileNode, target: Target, reals: Callable[[str], AnyArray | None]
) -> Clamp | None:
    """Real bounds of a Relu or Clip of stored integers; None where they are computed.

    Bounds that an activation has in these integers are given as that activation's.
    """
    scales = target.quantization
    bounds = bounds_of(node, reals)
    if scales is None or bounds is None:
        return None
    low, high = target.dtype.code_range
    zero, scale = scales.single_zero_point, scales.scale[0]
    codes = (max(low, bounds[0]), min(high, bounds[1]))
    if codes[0] > codes[1]:
        return None
    for activation in Activation:
        limits = [
            min(max(zero + float(np.rint(np.float32(real) / scale)), low), high)
            for real in activation.real_range
        ]
        if (limits[0], limits[1]) == codes:
            return activation.real_range
    return (
        -math.inf if codes[0] == low else float(scale) * (codes[0] - zero),
        math.inf if codes[1] == high else float(scale) * (codes[1] - zero),
    )


def find_clip(
    file: OnnxFile, consumers: Consumers, lookup: Lookup, target: Target
) -> tuple[int, Clamp] | None:
    """Position and real bounds of a Clip that alone reads the stored integers of a result."""
    position = consumers.sole_reader(target.name)
    if position is None:
        return None
    node = file.nodes[position]
    if not node.is_standard or node.kind not in ("Relu", "Clip") or node.inputs[0] != target.name:
        return None
    bounds = clip_of_codes(node, target, lookup.reals)
    return None if bounds is None else (position, bounds)


def _bounds(low: float, high: float) -> Clamp | None:
    largest = float(np.finfo(np.float32).max)  # how exporters write "no bound"
    low, high = (-math.inf if low <= -largest else low), (math.inf if high >= largest else high)
    return (low, high) if low <= high else None


def _joins_as_bias(
    kind: str, add: FileNode, name: str, tail: Tail, lookup: Lookup, *, has_bias: bool
) -> bool:
    """Take a constant summand per output channel; False where it is none."""
    if len(add.inputs) != 2:
        return False
    other = add.inputs[1] if add.inputs[0] == name else add.inputs[0]
    reals = lookup.reals(other)
    if reals is None:
        return False
    channels_axis = 1 if kind in ("Conv", "ConvTranspose") else None
    flat = _per_channel(reals, channels_axis)
    if flat is None:
        return False
    value = lookup.value(other)
    if not has_bias and not tail.affine and tail.bias is None and value is not None:
        tail.bias = value
    else:
        tail.affine = (*tail.affine, Affine(np.ones(1), flat.astype(np.float64)))
    return True


def _per_channel(values: AnyArray, axis: int | None) -> AnyArray | None:
    """A constant that varies along the channels only, flat; None for any other."""
    if values.size == 1:
        return values.reshape(-1)
    if axis is None:
        return values.reshape(-1) if values.size == values.shape[-1] else None
    # Behind a convolution (N, C, H, W): trailing axes of a summand count from the end.
    position = values.ndim - 3
    if position < 0 or values.size != values.shape[position]:
        return None
    return values.reshape(-1)


def _normalization(node: FileNode, lookup: Lookup) -> Affine | None:
    if len(node.inputs) != 5 or node.flag("training_mode"):
        return None
    parameters = [lookup.reals(name) for name in node.inputs[1:]]
    if any(values is None for values in parameters):
        return None
    scale, bias, mean, variance = (
        np.zeros(0) if p is None else p.reshape(-1).astype(np.float64) for p in parameters
    )
    if not scale.size == bias.size == mean.size == variance.size:
        return None
    with np.errstate(all="ignore"):
        gain = scale / np.sqrt(variance + node.real("epsilon", 1e-5))
        offset = bias - mean * gain
    if not (np.isfinite(gain).all() and np.isfinite(offset).all()):
        return None
    return Affine(gain, offset)
