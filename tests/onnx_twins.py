# SPDX-License-Identifier: Apache-2.0
"""Graphs in ONNX arithmetic, one per operation, and onnxruntime as their judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnx
import pytest

from akida_backend.graph import Activation, AnyArray, DType, Graph, Pads, Quantization
from builders import GraphBuilder

RELU6: Final = Activation.RELU6
Build = Callable[[GraphBuilder], str]
Network = Callable[[DType], Graph]

OPERATIONS: Final[Mapping[str, Build]] = {
    "conv": lambda b: b.conv2d(b.input(9, 8, 5), 7, kernel=3),
    "conv-stride": lambda b: b.conv2d(b.input(9, 8, 5), 7, kernel=(3, 5), stride=2),
    "conv-pads": lambda b: b.conv2d(b.input(9, 8, 5), 7, kernel=3, padding=Pads(2, 0, 1, 2)),
    "conv-dilation": lambda b: b.conv2d(b.input(9, 8, 5), 7, kernel=3, dilation=2),
    "conv-without-bias": lambda b: b.conv2d(b.input(9, 8, 5), 7, bias=False),
    "conv-relu": lambda b: b.conv2d(b.input(6, 6, 3), 4, activation=Activation.RELU),
    "conv-relu6": lambda b: b.conv2d(b.input(6, 6, 3), 4, activation=RELU6),
    "conv-relu1": lambda b: b.conv2d(b.input(6, 6, 3), 4, activation=Activation.RELU_N1_TO_1),
    "depthwise": lambda b: b.depthwise(b.input(9, 8, 5), kernel=3, stride=2),
    "depthwise-multiplier": lambda b: b.depthwise(b.input(9, 8, 5), multiplier=2),
    "dense": lambda b: b.fully_connected(b.input(40), 9),
    "dense-per-channel": lambda b: b.fully_connected(b.input(40), 9, per_channel=True),
    "dense-without-bias": lambda b: b.fully_connected(b.input(40), 9, bias=False),
    "dense-on-map": lambda b: b.fully_connected(b.input(3, 4, 5), 9),
    "transpose-depthwise": lambda b: b.transpose_conv(b.input(5, 4, 3), 3, depthwise=True),
    "transpose-conv": lambda b: b.transpose_conv(b.input(5, 4, 3), 6),
    "add": lambda b: b.add(b.input(5, 4, 3), b.input(5, 4, 3)),
    "add-relu": lambda b: b.add(b.input(5, 4, 3), b.input(5, 4, 3), activation=Activation.RELU),
    "add-channels": lambda b: b.add(b.input(5, 4, 3), _constant(b, 3)),
    "add-to-channels": lambda b: b.add(_constant(b, 3), b.input(5, 4, 3)),
    "add-scalar": lambda b: b.add(b.input(5, 4, 3), _constant(b, 1)),
    "sub": lambda b: b.sub(b.input(5, 4, 3), b.input(5, 4, 3)),
    "mul": lambda b: b.mul(b.input(5, 4, 3), b.input(5, 4, 3)),
    "mul-channels": lambda b: b.mul(b.input(5, 4, 3), _constant(b, 3)),
    "maximum": lambda b: b.maximum(b.input(5, 4, 3), b.input(5, 4, 3)),
    "minimum": lambda b: b.minimum(b.input(5, 4, 3), b.input(5, 4, 3)),
    "concatenation": lambda b: b.concatenation(
        b.input(5, 4, 3, scaling=(0.1, 3)), b.input(5, 4, 2, scaling=(0.1, 3)), axis=3
    ),
    "concatenation-rescaled": lambda b: b.concatenation(
        b.input(5, 4, 3, scaling=(0.1, 3)), b.input(5, 4, 2, scaling=(0.07, 9)), axis=3
    ),
    "max-pool": lambda b: b.max_pool(b.input(7, 6, 3), window=3, stride=2),
    "average-pool": lambda b: b.average_pool(b.input(7, 6, 3), window=3, stride=2, padding="same"),
    "average-of-all": lambda b: b.average_pool(b.input(7, 6, 3)),
    "mean": lambda b: b.mean(b.input(7, 6, 3)),
    "mean-kept": lambda b: b.mean(b.input(7, 6, 3), keep_dims=True),
    "pad": lambda b: b.pad(b.input(5, 4, 3), [(0, 0), (1, 2), (0, 1), (0, 3)]),
    "flatten": lambda b: b.flatten(b.input(3, 4, 5)),
    "to-image": lambda b: b.reshape(b.input(24), 2, 3, 4),
    "transpose": lambda b: b.transpose(b.input(3, 4, 5), 0, 3, 1, 2),
    "slice": lambda b: b.strided_slice(b.input(6, 5, 4), slice(1, 5), slice(4, None, -2), 1),
    "softmax": lambda b: b.softmax(b.input(10)),
    "logistic": lambda b: b.logistic(b.input(6, 5, 4)),
    "tanh": lambda b: b.tanh(b.input(6, 5, 4)),
    "leaky-relu": lambda b: b.leaky_relu(b.input(6, 5, 4)),
    "prelu": lambda b: b.prelu(b.input(6, 5, 4)),
    "hard-swish": lambda b: b.hard_swish(b.input(6, 5, 4)),
    "relu": lambda b: b.relu(b.input(6, 5, 4), bound=RELU6),
    "quantize": lambda b: b.quantize(b.input(6, 5, 4)),
    "dequantize": lambda b: b.dequantize(b.input(6, 5, 4)),
    "resize-nearest": lambda b: b.resize_nearest(b.input(6, 5, 4), (12, 10)),
    "resize-bilinear": lambda b: b.resize_bilinear(b.input(6, 5, 4), (12, 10)),
    "pack": lambda b: b.pack(
        b.input(6, 5, scaling=(0.1, 3)), b.input(6, 5, scaling=(0.1, 3)), axis=1
    ),
    "unpack": lambda b: b.unpack(b.input(2, 6, 5), axis=1)[1],
    "split": lambda b: b.split(b.input(4, 6, 5), 2, 4, axis=2)[1],
    "arg-max": lambda b: b.arg_max(b.input(4, 6, 5), axis=3),
}


def has_corrected_kernels() -> bool:
    """Whether onnxruntime is as new as the kernels that the reference follows.

    Seen in 1.23 to 1.25: QLinearSoftmax of int8 wraps round beyond 127 instead of saturating, and
    a bilinear Resize between quantizers ends one code off.
    """
    runtime = pytest.importorskip("onnxruntime")
    major, minor, *_ = runtime.__version__.split(".")
    return (int(major), int(minor)) >= (1, 31)


def _constant(b: GraphBuilder, length: int) -> str:
    low, high = b.dtype.code_range
    return b.constant(b.random.integers(low, high + 1, length), scaling=(0.03, low + 133))


def with_scales_of_two(graph: Graph) -> Graph:
    """The graph with every scale a power of two: real values meet the ties between codes."""
    tensors = {}
    for name, tensor in graph.tensors.items():
        scales = tensor.quantization
        if scales is not None:
            exact = np.exp2(np.rint(np.log2(scales.scale))).astype(np.float32)
            scales = Quantization(exact, scales.zero_point, scales.axis)
        tensors[name] = dataclasses.replace(tensor, quantization=scales)
    return dataclasses.replace(graph, tensors=tensors)


def through_onnxruntime(
    content: bytes,
    feeds: Mapping[str, AnyArray],
    *,
    optimized: bool = True,
    int8_kernels: bool = True,
) -> dict[str, AnyArray]:
    """All outputs of an ONNX file from onnxruntime's CPU kernels.

    Without `int8_kernels`, its default on x86, onnxruntime turns int8 between operators into
    uint8; an operator that keeps int8 on one side, at the edge of the graph, runs in float32.
    """
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if int8_kernels:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if not optimized:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def kinds(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(content).graph.node]
