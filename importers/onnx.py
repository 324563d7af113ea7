# SPDX-License-Identifier: Apache-2.0
"""ONNX: model bytes in, Graph out.

The nodes are read in the file's order. A DequantizeLinear computes nothing by itself: its result
is remembered as the reals of some integers. An operator that reads such reals and whose result,
clamped or not, is quantized at once becomes one operation on integers, whatever the distance
between its nodes. Everything else works on reals: it stays as the file has it, opaque.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from akida_backend.errors import ImportModelError
from akida_backend.graph import (
    Arithmetic,
    DType,
    FoldedOperation,
    Graph,
    Opaque,
    Operation,
    Reshape,
    Tensor,
)
from akida_backend.graph_check import check_working_memory
from akida_backend.importers.flatbuffer_check import DAMAGED, Allowance
from akida_backend.importers.onnx_constants import folded
from akida_backend.importers.onnx_context import Context
from akida_backend.importers.onnx_file import FileNode, OnnxFile, read_file, self_contained
from akida_backend.importers.onnx_forms import keep_file_forms
from akida_backend.importers.onnx_operators import CONVERSIONS
from akida_backend.importers.onnx_plain import alias, cast, dequantize, quantize, transpose
from akida_backend.importers.onnx_qdq import operator, qoperator, written_out
from akida_backend.importers.onnx_qoperator import QOPERATORS
from akida_backend.importers.onnx_tidy import tidied
from akida_backend.importers.onnx_types import outer_names, result_types
from akida_backend.importers.onnx_values import (
    Builder,
    NotModelledError,
    Target,
    Value,
    file_order,
)
from akida_backend.importers.symbolic_batch import batch_is_separate
from akida_backend.importers.tflite_file import MAX_ALL_TENSOR_BYTES, byte_count

_MICROSOFT: Final = "com.microsoft"
_ALIASES: Final = frozenset({"Identity", "Dropout"})
_QUANTIZE: Final = "QuantizeLinear"
_DEQUANTIZE: Final = "DequantizeLinear"


def read_onnx(content: bytes, label: str, *, folder: Path | None = None) -> Graph:
    """Read an ONNX model.

    Args:
        content: The whole file.
        label: Label for messages and reports, usually the path.
        folder: Where constants in other files lie; None forbids them.

    Raises:
        ImportModelError: The file is damaged, or of a kind no Graph represents.
    """
    # Damaged numbers give infinities and not-a-numbers, which are refused where they matter.
    with np.errstate(all="ignore"):
        translation = _Translation(content, label, folder)
        graph = translation.graph()
    check_working_memory(graph)
    keep_file_forms(graph, translation.builder)
    return graph


class _Translation:
    """Values and operations as they become known, in the file's order."""

    def __init__(self, content: bytes, label: str, folder: Path | None) -> None:
        self._content = content
        self._label = label
        self._file: OnnxFile = read_file(content, label, folder=folder)
        reserved = {name for node in self._file.nodes for name in node.outputs}
        reserved |= {*self._file.inputs, *self._file.constants.names}
        self._builder = Builder(
            label,
            self._file.outputs,
            reserved - {""},
            self._file.originals,
            Allowance(min(8 * len(content) + 2**26, 2**30)),
        )
        self._context = Context(self._file, self._builder)

    @property
    def builder(self) -> Builder:
        """All values of the file, once they are known."""
        return self._builder

    def graph(self) -> Graph:
        builder, file = self._builder, self._file
        for name, kind in file.inputs.items():
            shape = tuple(length for length in kind.shape or () if length is not None)
            builder.input(Value(name, kind.dtype, shape))
        self._translate_constants()
        for position, node in enumerate(file.nodes):
            if position not in self._context.done:
                self._translate(position, node)
        self._finish_outputs()
        inputs, outputs = tuple(file.inputs), file.outputs
        operations, tensors = tidied(builder.operations, builder.tensors, inputs, outputs)
        self._check(tensors)
        separate = self._batch_is_separate(operations, tensors)
        if separate:
            tensors = {name: _with_symbolic_batch(tensor) for name, tensor in tensors.items()}
        standing = {index for op in operations for index in op.sources}
        return Graph(
            name=self._label,
            format="onnx",
            sha256=hashlib.sha256(self._content).hexdigest(),
            arithmetic=Arithmetic.ONNX,
            tensors=tensors,
            operations=operations,
            inputs=inputs,
            outputs=outputs,
            folded=tuple(
                FoldedOperation(location)
                for location in file.originals
                if location.index not in standing
            ),
            batch=None if separate else file.batch,
            source=self_contained(self._content, file),
        )

    def _translate_constants(self) -> None:
        """What depends on constants alone comes first: its readers look ahead for it."""
        known = set(self._file.constants.names)
        for position, node in enumerate(self._file.nodes):
            if node.has_subgraph or not known.issuperset(name for name in node.inputs if name):
                continue
            self._translate(position, node)
            self._context.done[position] = None
            for name in node.outputs:
                value = self._builder.values.get(name)
                if value is not None and value.is_constant:
                    known.add(name)

    def _check(self, tensors: dict[str, Tensor]) -> None:
        total = sum(byte_count(t.dtype, tuple(n or 1 for n in t.shape)) for t in tensors.values())
        if total > MAX_ALL_TENSOR_BYTES:
            raise ImportModelError(
                f"{self._label}, field graph",
                f"the shapes add up to {total} bytes, more than {MAX_ALL_TENSOR_BYTES}",
                remedy=DAMAGED,
            )

    def _batch_is_separate(
        self, operations: Sequence[Operation], tensors: dict[str, Tensor]
    ) -> bool:
        batch = self._file.batch
        if self._context.mixes_batch or not self._file.inputs:
            return False
        shapes = {name: tuple(n or 0 for n in t.shape) for name, t in tensors.items()}
        if any(shapes[name][:1] != (batch,) for name in self._file.inputs):
            return False
        read = {name for op in operations for name in op.inputs}
        read.update(self._file.outputs)
        values = self._builder.values.values()
        if any(v.other_batch is not None and read.intersection(v.forms.values()) for v in values):
            return False
        return batch_is_separate(operations, tensors, lambda name: shapes[name], batch)

    def _finish_outputs(self) -> None:
        """A tensor in the file's layout, under its own name, for each output."""
        builder = self._builder
        for name in self._file.outputs:
            value = self._context.value(name)
            location = self._context.consumers.producer_location(name)
            tensor = builder.tensor_of(value, file_order(value.rank), location)
            if tensor != name:
                wanted = builder.tensors[tensor]
                builder.tensors[name] = dataclasses.replace(wanted, name=name, data=None)
                builder.add(
                    Reshape(
                        location=location,
                        sources=builder.sources(value.pending_nodes()),
                        input=tensor,
                        output=name,
                    ),
                    {name: builder.shape_of(tensor)},
                )

    def _translate(self, position: int, node: FileNode) -> None:
        if folded(self._context, node):
            return
        if node.is_standard and node.kind in _ALIASES and alias(self._context, node):
            return
        builder = self._builder
        mark = builder.mark()
        done = len(self._context.done)
        try:
            self._modelled(position, node)
        except NotModelledError as reason:
            builder.rollback(mark)
            while len(self._context.done) > done:
                self._context.done.popitem()
            self._opaque(node, str(reason))

    def _modelled(self, position: int, node: FileNode) -> None:
        domain_is_known = node.is_standard or node.domain == _MICROSOFT
        if domain_is_known and node.kind == _QUANTIZE:
            quantize(self._context, node)
        elif domain_is_known and node.kind == _DEQUANTIZE:
            dequantize(self._context, node)
        elif node.is_standard and node.kind == "Transpose":
            transpose(self._context, node)
        elif node.is_standard and node.kind == "Cast":
            cast(self._context, node)
        elif domain_is_known and node.kind in QOPERATORS:
            qoperator(self._context, node, QOPERATORS[node.kind])
        elif written_out(self._context, position, node):
            pass
        elif node.is_standard and node.kind in CONVERSIONS:
            operator(self._context, node)
        else:
            raise NotModelledError(_why_not(node))

    def _opaque(self, node: FileNode, reason: str) -> None:
        builder = self._builder
        operands = []
        for name in opaque_operands(node, {*builder.values, *self._file.constants.names}):
            value = self._context.value(name)
            if value.dtype is DType.OTHER and value.is_constant:
                continue
            operands.append(builder.tensor_of(value, file_order(value.rank), node.location))
        types = result_types(node, self._file, builder.values)
        names = []
        shapes = {}
        for name, (dtype, shape) in types.items():
            builder.tensors[name] = Tensor(name, dtype, ())
            names.append(name)
            shapes[name] = shape
        builder.add(
            Opaque(
                location=node.location,
                sources=builder.sources((node.index,)),
                operands=tuple(operands),
                results=tuple(names),
                reason=reason,
            ),
            shapes,
        )
        for name, (dtype, _) in types.items():
            builder.write(Target(name, dtype, None), name, file_order(len(shapes[name])))


def opaque_operands(node: FileNode, known: set[str]) -> tuple[str, ...]:
    """Names of the values a node reads, those read inside its own graphs included."""
    outer = (name for name in outer_names(node.proto) if name in known)
    return tuple(dict.fromkeys(name for name in (*node.inputs, *outer) if name))


def _why_not(node: FileNode) -> str:
    if node.not_modelled:
        return node.not_modelled
    if node.has_subgraph:
        return f"{node.kind} runs another graph, which is not modelled"
    if node.kind in ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"):
        return f"{node.kind}: no static activation scale"
    kind = node.kind if node.is_standard else f"{node.domain}::{node.kind}"
    return f"{kind} is not modelled"


def _with_symbolic_batch(tensor: Tensor) -> Tensor:
    if tensor.is_constant:
        return tensor
    return dataclasses.replace(tensor, shape=(None, *tensor.shape[1:]))
