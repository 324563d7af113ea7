# SPDX-License-Identifier: Apache-2.0
"""Whole small networks for tests of what users touch."""

from __future__ import annotations

import numpy as np
import raw_tflite
from tflite import BuiltinOperator

from akida_backend.graph import Activation, AnyArray, Arithmetic, DType, Graph
from builders import GraphBuilder


def classifier(
    seed: int = 3,
    *,
    dtype: DType = DType.INT8,
    batch: int | None = None,
    arithmetic: Arithmetic = Arithmetic.TFLITE,
) -> Graph:
    """Convolutions, a residual Add, a dense layer; only the softmax has no layer."""
    name = "classifier.tflite"
    b = GraphBuilder(seed, dtype=dtype, name=name, batch=batch, arithmetic=arithmetic)
    x = b.conv2d(b.input(8, 8, 3, name="image"), 8, stride=2, activation=Activation.RELU)
    x = b.depthwise(x, activation=Activation.RELU)
    x = b.add(x, b.conv2d(x, 8, kernel=1))
    x = b.conv2d(x, 8, kernel=1, activation=Activation.RELU)
    x = b.fully_connected(b.flatten(x), 6)
    return b.build(b.softmax(x))


def interrupted(seed: int = 5) -> Graph:
    """Two device parts with a TANH between them, two outputs."""
    b = GraphBuilder(seed, name="interrupted.tflite")
    x = b.conv2d(b.input(6, 6, 4), 8, activation=Activation.RELU)
    middle = b.tanh(x)
    x = b.conv2d(middle, 5, kernel=1)
    return b.build(x, middle)


def strided_stem(seed: int = 7) -> Graph:
    """A stem whose 10x4 kernel only fits once the host has stacked blocks of the input."""
    b = GraphBuilder(seed, name="stem.tflite")
    x = b.conv2d(b.input(24, 10, 1), 8, kernel=(10, 4), stride=2, activation=Activation.RELU)
    x = b.conv2d(x, 8, kernel=1, activation=Activation.RELU)
    return b.build(b.fully_connected(b.flatten(x), 4))


def adjacent() -> Graph:
    """A map that two others read: three parts behind one another, nothing between them."""
    b = GraphBuilder(2, name="adjacent")
    x = b.conv2d(b.input(9, 9, 3), 8, activation=Activation.RELU)
    left = b.conv2d(x, 8, kernel=1)
    right = b.conv2d(x, 8, kernel=1, activation=Activation.RELU)
    return b.build(b.conv2d(left, 6), b.conv2d(right, 4), right)


def branches() -> Graph:
    """Two parts that do not depend on each other."""
    b = GraphBuilder(3, name="branches")
    x = b.input(6, 6, 4, name="x")
    return b.build(b.conv2d(x, 8, activation=Activation.RELU), b.conv2d(x, 5, kernel=1))


def diamond() -> Graph:
    """One path round a host operator, one through it."""
    b = GraphBuilder(4, name="diamond")
    x = b.conv2d(b.input(6, 6, 4), 8, activation=Activation.RELU)
    through = b.conv2d(b.tanh(x), 8, kernel=1)
    around = b.conv2d(x, 8, kernel=1, activation=Activation.RELU)
    return b.build(b.mul(through, around))


def two_inputs(seed: int = 9) -> Graph:
    b = GraphBuilder(seed, name="two.tflite")
    left, right = b.input(4, 4, 2, name="left"), b.input(4, 4, 2, name="right")
    total = b.add(left, right)
    return b.build(b.sub(left, right), total)


def fixed_batch(batch: int = 2) -> Graph:
    """A transposition that mixes the batch with the channels."""
    b = GraphBuilder(1, batch=batch, name="fixed.tflite")
    x = b.transpose(b.input(3, name="x"), 1, 0)
    return b.build(b.transpose(x, 1, 0))


def absolute_file() -> bytes:
    """ABS, which stays opaque, in front of a RESHAPE to [1, 2, 2]."""
    tensors = [
        raw_tflite.activation(1, 4, name="x"),
        raw_tflite.activation(1, 4, name="magnitude"),
        raw_tflite.constant([1, 2, 2], name="shape"),
        raw_tflite.activation(1, 2, 2, name="y"),
    ]
    operators = [
        raw_tflite.RawOperator(BuiltinOperator.ABS, [0], [1]),
        raw_tflite.RawOperator(BuiltinOperator.RESHAPE, [1, 2], [3], "ReshapeOptions"),
    ]
    return raw_tflite.RawModel(tensors, operators, [0], [3]).to_bytes()


def codes(graph: Graph, samples: int, seed: int = 0) -> dict[str, AnyArray]:
    """Random stored values for every input."""
    random = np.random.default_rng(seed)
    feeds: dict[str, AnyArray] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        low, high = tensor.dtype.code_range
        shape = (samples, *(length or 1 for length in tensor.shape[1:]))
        feeds[name] = random.integers(low, high + 1, shape).astype(tensor.dtype.numpy)
    return feeds
