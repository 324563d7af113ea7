# SPDX-License-Identifier: Apache-2.0
"""TFLite: model bytes in, Graph out."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Final

from akida_backend.errors import ImportModelError
from akida_backend.graph import (
    AnyArray,
    Arithmetic,
    FoldedOperation,
    Gather,
    Graph,
    Opaque,
    Operation,
    ShapeOf,
    Tensor,
    nominal_shape,
)
from akida_backend.graph_check import check_working_memory
from akida_backend.importers.flatbuffer_check import DAMAGED
from akida_backend.importers.shape_folding import evaluate
from akida_backend.importers.shape_inference import (
    FixedShape,
    InconsistentShapesError,
    output_shapes,
)
from akida_backend.importers.symbolic_batch import batch_is_separate
from akida_backend.importers.tflite_file import (
    MAX_ALL_TENSOR_BYTES,
    MAX_TENSOR_BYTES,
    FileOperator,
    TfliteFile,
    byte_count,
    read_file,
)
from akida_backend.importers.tflite_operators import (
    Arguments,
    NotModelledError,
    convert,
)
from akida_backend.importers.type_rules import mixes_types, type_problem

# Added to the batch to see which shape arithmetic depends on it; no axis is that long by chance.
_OTHER_BATCH: Final = 1_000_003

_FIXED_SIZES: Final = "Convert the model with fixed input sizes; only the batch may stay open."


def read_tflite(data: bytes, name: str) -> Graph:
    """Read a TFLite model.

    Args:
        data: The whole file.
        name: Label for messages and reports, usually the path.

    Raises:
        ImportModelError: The file is damaged, or of a kind no Graph represents.
    """
    graph = _Translation(data, name).graph()
    check_working_memory(graph)
    return graph


class _Translation:
    """Tensors and operations as they become known, in the file's order."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._file: TfliteFile = read_file(data, name)
        self._tensors = {e.tensor.name: e.tensor for e in self._file.tensors}
        self._other_batch: dict[str, AnyArray] = {}
        self._operations: list[Operation] = []
        self._folded: list[FoldedOperation] = []
        self._mixes_batch = False
        self._batch = self._nominal_batch()

    def graph(self) -> Graph:
        for operator in self._file.operators:
            self._translate(operator)
        inputs, outputs = self._names(self._file.inputs), self._names(self._file.outputs)
        used = dict.fromkeys(inputs + outputs)
        for op in self._operations:
            used.update(dict.fromkeys(op.inputs + op.outputs))
        tensors = {name: self._tensors[name] for name in used}
        self._check_scales(tensors)
        self._check_total_size(tensors)
        separate = self._batch_is_separate(inputs, outputs)
        if separate:
            tensors = {name: _with_symbolic_batch(tensor) for name, tensor in tensors.items()}
        return Graph(
            name=self._name,
            format="tflite",
            sha256=hashlib.sha256(self._data).hexdigest(),
            arithmetic=Arithmetic.TFLITE,
            tensors=tensors,
            operations=tuple(self._operations),
            inputs=inputs,
            outputs=outputs,
            folded=tuple(self._folded),
            batch=None if separate else self._batch,
            source=self._data,
        )

    def _names(self, indices: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self._file.tensors[index].tensor.name for index in indices)

    def _shape(self, name: str) -> FixedShape:
        return nominal_shape(self._tensors[name].shape)

    def _nominal_batch(self) -> int:
        for index in self._file.inputs:
            entry = self._file.tensors[index]
            for axis in entry.unknown_axes:
                if axis != 0:
                    raise ImportModelError(
                        f"{self._name}: input '{entry.tensor.name}', field shape",
                        f"axis {axis} has no fixed length",
                        remedy=_FIXED_SIZES,
                    )
            if 0 in entry.tensor.shape:
                raise ImportModelError(
                    f"{self._name}: input '{entry.tensor.name}', field shape",
                    f"{list(entry.tensor.shape)} holds no value",
                    remedy=DAMAGED,
                )
        for index in self._file.inputs:
            for length in nominal_shape(self._file.tensors[index].tensor.shape)[:1]:
                return length
        return 1

    def _translate(self, operator: FileOperator) -> None:
        entries = self._file.tensors
        variables = {i for i in operator.inputs if i is not None and entries[i].is_variable}
        args = Arguments(
            operator,
            tuple(
                None if i is None else self._tensors[entries[i].tensor.name]
                for i in operator.inputs
            ),
            tuple(entries[i].tensor for i in operator.outputs),
            self._other_batch,
        )
        try:
            op = self._modelled(args, variables)
        except NotModelledError as reason:
            op = self._opaque(operator, str(reason), variables)
        self._mixes_batch |= args.mixes_batch or bool(variables)
        self._settle_shapes(operator, op, args.shapes)
        if self._fold(op):
            self._folded.append(FoldedOperation(op.location))
        else:
            self._operations.append(op)

    def _modelled(self, args: Arguments, variables: set[int]) -> Operation:
        if variables:
            raise NotModelledError(f"{args.location.type} keeps state between calls")
        op = convert(args)
        problem = type_problem(op, self._tensors)
        if problem is not None and mixes_types(op, self._tensors):
            kinds = {name: self._tensors[name].dtype.value for name in (*op.inputs, *op.outputs)}
            found = ", ".join(f"'{name}' is {kind}" for name, kind in kinds.items())
            raise args.error("Type", f"tensors that should be of one type are not: {found}")
        if problem is not None:
            raise NotModelledError(problem)
        return op

    def _opaque(self, operator: FileOperator, reason: str, variables: set[int]) -> Opaque:
        entries = self._file.tensors
        return Opaque(
            location=operator.location,
            sources=(operator.location.index,),
            operands=tuple(
                entries[i].tensor.name
                for i in operator.inputs
                if i is not None and i not in variables
            ),
            results=tuple(entries[i].tensor.name for i in operator.outputs),
            reason=reason,
        )

    def _settle_shapes(
        self, operator: FileOperator, op: Operation, known: Mapping[str, FixedShape]
    ) -> None:
        """Compare the declared shapes with computed ones, which replace open lengths."""

        def shape_of(name: str) -> FixedShape:
            return known[name] if name in known else self._shape(name)

        try:
            shapes = output_shapes(op, shape_of)
        except InconsistentShapesError as problem:
            raise operator.table.error("Shape", str(problem)) from None
        for index, shape in zip(operator.outputs, shapes, strict=True):
            entry = self._file.tensors[index]
            declared = nominal_shape(entry.tensor.shape)
            if isinstance(op, Opaque):
                for axis in entry.unknown_axes:
                    if axis != 0:
                        raise operator.table.error(
                            "Shape",
                            f"axis {axis} of result '{entry.tensor.name}' has no fixed length",
                            remedy=_FIXED_SIZES,
                        )
                continue
            wanted_shape = known.get(entry.tensor.name, shape)
            if wanted_shape != shape:
                raise operator.table.error(
                    "Shape", f"a result of {list(wanted_shape)}, but the inputs give {list(shape)}"
                )
            agrees = len(shape) == len(declared) and all(
                axis in entry.unknown_axes or found == wanted
                for axis, (found, wanted) in enumerate(zip(declared, shape, strict=True))
            )
            if not agrees or 0 in shape:
                raise operator.table.error(
                    "Shape",
                    f"result '{entry.tensor.name}' is declared as {list(declared)}, "
                    f"but the inputs give {list(shape)}",
                )
            if byte_count(entry.tensor.dtype, shape) > MAX_TENSOR_BYTES:
                raise operator.table.error(
                    "Shape",
                    f"result '{entry.tensor.name}' {list(shape)} takes more than "
                    f"{MAX_TENSOR_BYTES} bytes",
                )
            self._tensors[entry.tensor.name] = dataclasses.replace(entry.tensor, shape=shape)

    def _fold(self, op: Operation) -> bool:
        """Evaluate an operation on constants, at the nominal batch and at another one."""
        if isinstance(op, Opaque):
            return False
        constant = all(self._tensors[name].is_constant for name in op.inputs)
        if not constant and not isinstance(op, ShapeOf):
            return False
        size = sum(
            math.prod(self._shape(name)) * self._tensors[name].dtype.numpy.itemsize
            for name in op.outputs
        )
        if not self._file.budget.memory.take(2 * size):
            return False
        results = evaluate(op, self._tensors, self._value, self._shape)
        if results is None:
            return False
        depends = isinstance(op, ShapeOf) or any(name in self._other_batch for name in op.inputs)
        if isinstance(op, Gather) and op.indices in self._other_batch:
            self._mixes_batch, depends = True, False
        others = (
            evaluate(op, self._tensors, self._value_at_other_batch, self._shape_at_other_batch(op))
            if depends
            else None
        )
        for position, name in enumerate(op.outputs):
            self._tensors[name] = dataclasses.replace(self._tensors[name], data=results[position])
            if others is not None and (others[position] != results[position]).any():
                self._other_batch[name] = others[position]
        return True

    def _value(self, name: str) -> AnyArray:
        data = self._tensors[name].data
        assert data is not None  # asked for inputs of operations on constants only
        return data

    def _value_at_other_batch(self, name: str) -> AnyArray:
        other = self._other_batch.get(name)
        return self._value(name) if other is None else other

    def _shape_at_other_batch(self, op: Operation) -> Callable[[str], FixedShape]:
        """Only the tensor whose shape is asked for changes: constants keep their shapes."""
        measured = op.input if isinstance(op, ShapeOf) else None

        def shape_of(name: str) -> FixedShape:
            shape = self._shape(name)
            if name != measured or self._tensors[name].is_constant:
                return shape
            return (_OTHER_BATCH, *shape[1:]) if shape[:1] == (self._batch,) else shape

        return shape_of

    def _check_scales(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            quantization = tensor.quantization
            if quantization is not None and quantization.axis is not None and tensor.data is None:
                raise ImportModelError(
                    f"{self._name}: tensor '{name}', field quantization",
                    f"{quantization.scale.size} scales for a tensor that is computed",
                    remedy="Only constants may have a scale per channel: quantize activations "
                    "with one scale.",
                )

    def _check_total_size(self, tensors: Mapping[str, Tensor]) -> None:
        total = sum(byte_count(t.dtype, nominal_shape(t.shape)) for t in tensors.values())
        if total > MAX_ALL_TENSOR_BYTES:
            raise ImportModelError(
                f"{self._name}: subgraph 0, field tensors",
                f"the shapes add up to {total} bytes, more than {MAX_ALL_TENSOR_BYTES}",
                remedy=DAMAGED,
            )

    def _batch_is_separate(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> bool:
        if self._mixes_batch or not inputs:
            return False
        if any(self._shape(name)[:1] != (self._batch,) for name in inputs):
            return False
        read = {name for op in self._operations for name in op.inputs}
        if not self._other_batch.keys().isdisjoint(read.union(outputs)):
            return False
        return batch_is_separate(self._operations, self._tensors, self._shape, self._batch)


def _with_symbolic_batch(tensor: Tensor) -> Tensor:
    if tensor.is_constant:
        return tensor
    return dataclasses.replace(tensor, shape=(None, *tensor.shape[1:]))
