# SPDX-License-Identifier: Apache-2.0
"""Small ONNX models, written node by node, for tests of the importer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from akida_backend.execute import run_source
from akida_backend.graph import AnyArray, DType, Graph, Opaque, Operation
from akida_backend.graph_check import graph_problems
from akida_backend.loading import load

Attribute = int | float | str | Sequence[int] | Sequence[float] | onnx.TensorProto

MICROSOFT = "com.microsoft"


@dataclass
class OnnxBuilder:
    """A model that grows node by node; values are known by their names."""

    opset: int = 17
    ir_version: int = 8
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    number: int = 0

    def name(self, wanted: str) -> str:
        self.number += 1
        return f"{wanted}_{self.number}"

    def input(
        self, shape: Sequence[int | str], dtype: type[np.generic] = np.float32, name: str = "x"
    ) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, name: str, dtype: type[np.generic] = np.float32) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))
        return name

    def constant(self, values: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        name = self.name("constant")
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(
        self,
        kind: str,
        *inputs: str,
        domain: str = "",
        count: int = 1,
        name: str | None = None,
        **attributes: Attribute,
    ) -> str:
        """Add a node; gives the name of its first result, others end in ``.1`` and so on."""
        output = self.name(kind.lower())
        outputs = [output, *(f"{output}.{i}" for i in range(1, count))]
        node = helper.make_node(kind, list(inputs), outputs, name=name or f"{output}_node")
        node.domain = domain
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return output

    # Quantization

    def scales(
        self, scale: ArrayLike, zero_point: ArrayLike, dtype: type[np.generic]
    ) -> tuple[str, str]:
        return self.constant(scale), self.constant(zero_point, dtype)

    def quantize(
        self, real: str, scale: float, zero_point: int = 0, dtype: type[np.generic] = np.uint8
    ) -> str:
        return self.node("QuantizeLinear", real, *self.scales(scale, zero_point, dtype))

    def dequantize(
        self, codes: str, scale: float, zero_point: int = 0, dtype: type[np.generic] = np.uint8
    ) -> str:
        return self.node("DequantizeLinear", codes, *self.scales(scale, zero_point, dtype))

    def real_input(
        self,
        shape: Sequence[int | str],
        scale: float = 0.5,
        zero_point: int = 128,
        dtype: type[np.generic] = np.uint8,
        name: str = "x",
    ) -> str:
        """Reals of an input of stored integers."""
        return self.dequantize(self.input(shape, dtype, name), scale, zero_point, dtype)

    def finish(
        self,
        real: str,
        scale: float = 0.5,
        zero_point: int = 128,
        dtype: type[np.generic] = np.uint8,
    ) -> str:
        """Quantize reals as an output."""
        return self.output(self.quantize(real, scale, zero_point, dtype), dtype)

    def weights(
        self,
        values: ArrayLike,
        scale: ArrayLike,
        zero_point: ArrayLike | None = None,
        axis: int | None = None,
        dtype: type[np.generic] = np.int8,
    ) -> str:
        """Reals of constant integers."""
        scale = np.asarray(scale, np.float32)
        zero = np.zeros(scale.shape) if zero_point is None else zero_point
        names = self.scales(scale, zero, dtype)
        keys: dict[str, Any] = {} if axis is None else {"axis": axis}
        return self.node("DequantizeLinear", self.constant(values, dtype), *names, **keys)

    # The whole

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, self.constants)
        domains = {"": self.opset, **{n.domain: 1 for n in self.nodes if n.domain}}
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(d, v) for d, v in domains.items()],
            ir_version=self.ir_version,
        )

    def content(self) -> bytes:
        return bytes(self.model().SerializeToString())

    def graph(self) -> Graph:
        graph = load(self.content(), name="m.onnx")
        assert list(graph_problems(graph)) == []
        return graph


def computing(graph: Graph) -> list[Operation]:
    """Operations without those that only import inserted."""
    return [op for op in graph.operations if op.sources]


def kinds(graph: Graph) -> list[str]:
    return [type(op).__name__ for op in graph.operations]


def opaque(graph: Graph) -> dict[str, str]:
    """Reasons by operator type."""
    return {op.location.type: op.reason for op in graph.operations if isinstance(op, Opaque)}


def feeds_of(graph: Graph, samples: int = 1, seed: int = 0) -> dict[str, AnyArray]:
    random = np.random.default_rng(seed)
    feeds: dict[str, AnyArray] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = [samples if n is None else n for n in tensor.shape]
        if tensor.dtype.is_float:
            feeds[name] = random.uniform(-60, 60, shape).astype(tensor.dtype.numpy)
        elif tensor.dtype is DType.BOOL:
            feeds[name] = random.integers(0, 2, shape).astype(np.bool_)
        else:
            low, high = tensor.dtype.code_range if tensor.is_quantized else (0, 4)
            feeds[name] = random.integers(low, high + 1, shape).astype(tensor.dtype.numpy)
    return feeds


def in_onnxruntime(
    content: bytes, feeds: dict[str, AnyArray], *, optimised: bool = True
) -> list[AnyArray]:
    """Results of onnxruntime's CPU kernels, one thread."""
    module = pytest.importorskip("onnxruntime")
    options = module.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    levels = module.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    session = module.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    results: list[AnyArray] = session.run(None, feeds)
    return results


def assert_equals_onnxruntime(builder: OnnxBuilder, *, optimised: bool = True) -> Graph:
    """Import and compare every element of every output, on the file's own batch."""
    graph, content = builder.graph(), builder.content()
    feeds = feeds_of(graph)
    expected = in_onnxruntime(content, feeds, optimised=optimised)
    found = run_source(graph, feeds)
    for name, values in zip(graph.outputs, expected, strict=True):
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
        assert np.unique(values).size > 1 or values.size == 1, "a constant output proves nothing"
    return graph
