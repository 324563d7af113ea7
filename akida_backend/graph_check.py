# SPDX-License-Identifier: Apache-2.0
"""What every reader of a Graph relies on: the checks of import, for graphs from elsewhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from akida_backend.errors import ImportModelError
from akida_backend.graph import (
    AveragePool2D,
    DType,
    Graph,
    Location,
    MaxPool2D,
    Operation,
    Pads,
    Quantization,
    Size2D,
    Softmax,
    Tensor,
    nominal_shape,
)
from akida_backend.importers.shape_inference import (
    FixedShape,
    InconsistentShapesError,
    output_shapes,
    working_shape,
)
from akida_backend.importers.symbolic_batch import batch_is_separate
from akida_backend.importers.tflite_file import MAX_ALL_TENSOR_BYTES, MAX_TENSOR_BYTES, byte_count
from akida_backend.importers.type_rules import type_problem

_BATCH: Final = 1_000_003  # stands for the symbolic batch; no axis is that long by chance
_MAX_LENGTH: Final = 2**31 - 1
_MAX_WINDOW: Final = 2**22  # cells; a step of the computation each
_WORKING_BYTES: Final = 4  # of a value while an operation computes, at least
_SMALLER: Final = (
    "Make the map, its pads or the window smaller; where they are not those of your model, the "
    "file is damaged."
)


def graph_problems(graph: Graph) -> Iterator[str]:
    """What breaks the invariants of a graph; a well-formed one gives nothing.

    Names, order, shapes, scales and sizes: whatever a file could have wrong while its fields have
    the right types.
    """
    found = [*graph.problems()]
    for tensor in graph.tensors.values():
        found += _tensor_problems(tensor)
    yield from found
    if found:
        return
    total = sum(byte_count(t.dtype, nominal_shape(t.shape)) for t in graph.tensors.values())
    if total > MAX_ALL_TENSOR_BYTES:
        yield f"the shapes add up to {total} bytes, more than {MAX_ALL_TENSOR_BYTES}"
        return
    wrong = [problem for op in graph.operations for problem in _operation_problems(op, graph)]
    yield from wrong
    if not wrong:
        yield from (f"{location}: {problem}" for location, problem in _working_problems(graph))
    symbolic = [n for n, t in graph.tensors.items() if None in t.shape]
    if graph.batch is None and not found:
        yield from _batch_problems(graph)
    elif graph.batch is not None and (symbolic or graph.batch < 1):
        yield f"batch {graph.batch}, but {len(symbolic)} tensors with a symbolic one"


def check_working_memory(graph: Graph) -> None:
    """Refuse a graph whose operations need more beside its tensors than any tensor may take.

    Borders, and what a transposed convolution cuts off, stand in no tensor: a few bytes of a file
    could ask for any amount. So could windows that lie on borders, of time.

    Args:
        graph: With consistent shapes.

    Raises:
        ImportModelError: It is so.
    """
    for location, problem in _working_problems(graph):
        raise ImportModelError(str(location), problem, remedy=_SMALLER)


def _working_problems(graph: Graph) -> Iterator[tuple[Location, str]]:
    for op in graph.operations:
        if isinstance(op, MaxPool2D | AveragePool2D) and op.window.area > _MAX_WINDOW:
            yield op.location, f"a window of {op.window} has more than {_MAX_WINDOW} cells"
        shape = working_shape(op, lambda name: nominal_shape(graph.tensors[name].shape))
        if shape is None:
            continue
        names = (*graph.activations_of(op), *op.outputs)
        declared = max(math.prod(nominal_shape(graph.tensors[name].shape)) for name in names)
        if _WORKING_BYTES * (math.prod(shape) - declared) > MAX_TENSOR_BYTES:
            yield (
                op.location,
                f"a map of {list(shape)}, borders included, takes more than "
                f"{MAX_TENSOR_BYTES} bytes beside its tensors",
            )


def _batched(tensor: Tensor) -> FixedShape:
    return tuple(_BATCH if length is None else length for length in tensor.shape)


def _tensor_problems(tensor: Tensor) -> Iterator[str]:
    where = f"tensor '{tensor.name}'"
    shape = nominal_shape(tensor.shape)
    if any(not 0 <= length <= _MAX_LENGTH for length in shape) or None in tensor.shape[1:]:
        yield f"{where}: shape {list(tensor.shape)}"
    elif tensor.data is None and byte_count(tensor.dtype, shape) > MAX_TENSOR_BYTES:
        yield f"{where}: {list(shape)} takes more than {MAX_TENSOR_BYTES} bytes"
    opaque = tensor.dtype is DType.OTHER  # its data are bytes
    if (
        tensor.data is not None
        and not opaque
        and (tensor.data.shape != tensor.shape or tensor.data.dtype != tensor.dtype.numpy)
    ):
        yield (
            f"{where}: {tensor.dtype.value} {list(tensor.shape)}, "
            f"but its data are {tensor.data.dtype} {list(tensor.data.shape)}"
        )
    if tensor.quantization is not None:
        yield from _scale_problems(tensor, tensor.quantization)


def _scale_problems(tensor: Tensor, quantization: Quantization) -> Iterator[str]:
    where = f"tensor '{tensor.name}'"
    scale, zero_point, axis = quantization.scale, quantization.zero_point, quantization.axis
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        yield f"{where}: scales that are not finite and above 0"
    if axis is None:
        wanted = 1
    elif 0 <= axis < len(tensor.shape) and tensor.is_constant:
        wanted = tensor.shape[axis] or 0
    else:
        yield f"{where}: scales along axis {axis}"
        return
    if scale.shape != (wanted,) or zero_point.shape != (wanted,):
        yield f"{where}: {scale.size} scales and {zero_point.size} zero points, {wanted} expected"
    if not tensor.dtype.is_float and tensor.dtype is not DType.OTHER:
        stored = zero_point.astype(tensor.dtype.numpy).astype(np.int64)
        if (stored != zero_point).any():
            yield f"{where}: zero points outside {tensor.dtype.value}"


def _operation_problems(op: Operation, graph: Graph) -> Iterator[str]:
    for entry in dataclasses.fields(op):
        match getattr(op, entry.name):
            case Size2D(height, width) if not 1 <= min(height, width) <= _MAX_LENGTH:
                yield f"{op.location}: {entry.name} {height}x{width}"
                return
            case Pads(top, bottom, left, right) if min(top, bottom, left, right) < 0:
                yield f"{op.location}: {entry.name} below 0"
                return
            case _:
                pass

    def shape_of(name: str) -> FixedShape:
        return _batched(graph.tensors[name])

    if isinstance(op, Softmax):
        rank = len(shape_of(op.input))
        if not -rank <= op.axis < rank:
            yield f"{op.location}: axis {op.axis} of {rank} axes"
            return
    try:
        shapes = output_shapes(op, shape_of)
    except (InconsistentShapesError, ArithmeticError, ValueError, IndexError) as problem:
        yield f"{op.location}: {problem}"
        return
    declared = tuple(shape_of(name) for name in op.outputs)
    if shapes != declared:
        yield (
            f"{op.location}: results are declared as {[list(s) for s in declared]}, "
            f"but the inputs give {[list(s) for s in shapes]}"
        )


def type_problems(operations: Iterable[Operation], graph: Graph) -> Iterator[str]:
    """Operations of a graph that have no reference arithmetic for their element types.

    Those that only stand for layers of a device need none.
    """
    for op in operations:
        problem = type_problem(op, graph.tensors)
        if problem is not None:
            yield f"{op.location}: {problem}"


def _batch_problems(graph: Graph) -> Iterator[str]:
    """A symbolic batch stands on axis 0 of every activation, and no operation touches it."""

    def shape_of(name: str) -> FixedShape:
        return _batched(graph.tensors[name])

    for name, tensor in graph.tensors.items():
        if (tensor.shape[:1] == (None,)) == tensor.is_constant:
            yield f"tensor '{name}': shape {list(tensor.shape)} in a graph of any batch"
            return
    if not batch_is_separate(graph.operations, graph.tensors, shape_of, _BATCH):
        yield "an operation mixes samples, but the graph is said to take any number of them"
