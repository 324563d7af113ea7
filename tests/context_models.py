# SPDX-License-Identifier: Apache-2.0
"""Models for the execution provider: EPContext nodes written by hand, and a whole network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from program_samples import sound

from akida_backend.epcontext import DOMAIN, Boundary, Compiled
from akida_backend.graph import Activation, Graph
from akida_backend.program import Add, Concatenate, Program
from builders import GraphBuilder

SOURCE_SHA256 = "5" * 64


def residual(seed: int = 3) -> Graph:
    """Convolutions, a residual Add, a dense layer; all of it has layers."""
    b = GraphBuilder(seed)
    x = b.conv2d(b.input(8, 8, 3, name="image"), 8, stride=2, activation=Activation.RELU)
    x = b.depthwise(x, activation=Activation.RELU)
    x = b.add(x, b.conv2d(x, 8, kernel=1))
    return b.build(b.fully_connected(b.flatten(x), 6))


def program() -> Program:
    """That of `sound`, with weights that make different results of different images."""
    random, made = np.random.default_rng(2), sound()
    layers = tuple(
        layer
        if isinstance(layer, Add | Concatenate)
        else replace(layer, weights=random.integers(-4, 5, layer.weights.shape, dtype=np.int8))
        for layer in made.layers
    )
    return replace(
        made, layers=layers, output=replace(made.output, factor=np.full(5, 0.03), zero_point=-50)
    )


def compiled(input: str = "x", output: str = "y") -> Compiled:
    """An image of the file, channels first, becomes five values."""
    return Compiled(
        program(),
        SOURCE_SHA256,
        Boundary(input, (None, 3, 8, 8), (3, 64)),
        Boundary(output, (None, 5)),
    )


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """As the file has them."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def channels_last(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As the program has them."""
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1))


def single() -> onnx.ModelProto:
    """One EPContext node, alone."""
    return model([compiled().node("segment")], {"y": TensorProto.INT8})


def with_cast() -> onnx.ModelProto:
    """An EPContext node and one that the CPU runs."""
    cast = helper.make_node("Cast", ["y"], ["z"], name="cast", to=TensorProto.INT32)
    built = model([compiled().node("segment"), cast], {"z": TensorProto.INT32})
    built.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.INT8, ["N", 5]))
    return built


def model(nodes: list[onnx.NodeProto], outputs: dict[str, int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "compiled",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(name, kind, ["N", 5]) for name, kind in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def attribute(built: onnx.ModelProto, name: str) -> onnx.AttributeProto:
    """Of the first node."""
    found: onnx.AttributeProto
    (found,) = (each for each in built.graph.node[0].attribute if each.name == name)
    return found
