# SPDX-License-Identifier: Apache-2.0
"""Operators that exporters write out in several nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from akida_backend.graph import AnyArray
from akida_backend.importers.onnx_file import FileNode, OnnxFile
from akida_backend.importers.onnx_tails import Consumers, bounds_of

Reals = Callable[[str], AnyArray | None]

_SIXTH: Final = 1.0 / 6.0
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Pattern:
    """Positions of the nodes, the last of which writes the result."""

    nodes: tuple[int, ...]


def hard_swish(position: int, file: OnnxFile, consumers: Consumers, reals: Reals) -> Pattern | None:
    """``x * clip(x + 3, 0, 6) / 6`` or ``x * HardSigmoid(x)``, from its first node on."""
    node = file.nodes[position]
    if not node.is_standard or not node.inputs:
        return None
    gated = divided = False
    if node.kind == "HardSigmoid":
        alpha, beta = node.real("alpha", 0.2), node.real("beta", 0.5)
        if not (math.isclose(alpha, _SIXTH, rel_tol=_TOLERANCE) and beta == 0.5):
            return None
        source = node.inputs[0]
        gated = divided = True
    elif node.kind == "Add":
        summand = _beside(node, 3.0, reals)
        if summand is None:
            return None
        source = summand
    else:
        return None
    found, name, multiplied = [position], node.outputs[0], False
    while not (gated and divided and multiplied):
        following = consumers.sole_reader(name)
        if following is None or not file.nodes[following].is_standard:
            return None
        step = file.nodes[following]
        other = [n for n in step.inputs if n != name]
        if not gated:
            gated = step.kind == "Clip" and bounds_of(step, reals) == (0.0, 6.0)
            if not gated or step.inputs[0] != name:
                return None
        elif step.kind == "Mul" and len(other) == 1 and _same(other[0], source, consumers, file):
            if multiplied:
                return None
            multiplied = True
        elif not divided and _divides(step, name, reals):
            divided = True
        else:
            return None
        found.append(following)
        name = step.outputs[0]
    return Pattern(tuple(found))


def _single(values: AnyArray | None) -> float | None:
    if values is None or values.size != 1 or values.dtype.kind != "f":
        return None
    return float(values.reshape(()).astype(np.float64))


def _beside(node: FileNode, constant: float, reals: Reals) -> str | None:
    """The operand of a sum whose other operand is this constant."""
    if len(node.inputs) != 2:
        return None
    for name, other in (node.inputs, node.inputs[::-1]):
        if _single(reals(other)) == constant:
            return name
    return None


def _divides(node: FileNode, name: str, reals: Reals) -> bool:
    """Whether a node divides by six."""
    if len(node.inputs) != 2 or name not in node.inputs:
        return False
    if node.kind == "Div":
        return node.inputs[0] == name and _single(reals(node.inputs[1])) == 6.0
    other = node.inputs[1] if node.inputs[0] == name else node.inputs[0]
    value = _single(reals(other))
    return (
        node.kind == "Mul" and value is not None and math.isclose(value, _SIXTH, rel_tol=_TOLERANCE)
    )


def _same(a: str, b: str, consumers: Consumers, file: OnnxFile) -> bool:
    """Whether two names are one value, or the reals of the same integers."""
    if a == b:
        return True
    origins = []
    for name in (a, b):
        position = consumers.producer(name)
        if position is None or file.nodes[position].kind != "DequantizeLinear":
            return False
        origins.append(file.nodes[position].inputs)
    return origins[0][0] == origins[1][0]


@dataclass(frozen=True, slots=True)
class ScaledSum:
    """An integer product with the scale of its sums behind it.

    Attributes:
        nodes: Positions of the product, the Cast and the Mul.
        scale: Reals that one step of a sum stands for, one or one per output channel.
    """

    nodes: tuple[int, ...]
    scale: AnyArray


def scaled_sum(
    position: int, file: OnnxFile, consumers: Consumers, reals: Reals
) -> ScaledSum | None:
    """MatMulInteger or ConvInteger, Cast to reals, Mul with constants."""
    cast = consumers.sole_reader(file.nodes[position].outputs[0])
    if cast is None or file.nodes[cast].kind != "Cast" or not file.nodes[cast].is_standard:
        return None
    if file.nodes[cast].integer("to", 0) != 1:
        return None
    name = file.nodes[cast].outputs[0]
    multiply = consumers.sole_reader(name)
    if multiply is None or file.nodes[multiply].kind != "Mul":
        return None
    node = file.nodes[multiply]
    if not node.is_standard or len(node.inputs) != 2:
        return None
    other = node.inputs[1] if node.inputs[0] == name else node.inputs[0]
    scale = reals(other)
    if scale is None or scale.dtype != np.float32:
        return None
    return ScaledSum((position, cast, multiply), scale)
