# SPDX-License-Identifier: Apache-2.0
"""What laying out an ONNX graph leaves behind: conversions nobody reads, reshapes in a row."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from akida_backend.graph import FullyConnected, Mean, Operation, Reshape, Tensor


def tidied(
    operations: Sequence[Operation],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> tuple[tuple[Operation, ...], dict[str, Tensor]]:
    """The operations that matter, and the tensors they name."""
    kept = _merged(_needed(operations, outputs), tensors, outputs)
    kept = _without_copies(kept, tensors, outputs)
    kept = _joined(kept, tensors, outputs)
    kept = _named(kept, tensors, inputs, outputs)
    used = dict.fromkeys((*inputs, *outputs))
    for op in kept:
        used.update(dict.fromkeys((*op.inputs, *op.outputs)))
    renamed = {**tensors}
    return tuple(kept), {name: renamed[name] for name in used}


def _needed(operations: Sequence[Operation], outputs: Sequence[str]) -> list[Operation]:
    """All but inserted operations whose results nobody reads."""
    read = set(outputs)
    kept: list[Operation] = []
    for op in reversed(operations):
        if op.sources or not read.isdisjoint(op.outputs):
            kept.append(op)
            read.update(op.inputs)
    return kept[::-1]


def _merged(
    operations: Sequence[Operation], tensors: Mapping[str, Tensor], outputs: Sequence[str]
) -> list[Operation]:
    """A reshape of a reshape reads what the first one reads."""
    readers: dict[str, int] = {}
    for op in operations:
        for name in op.inputs:
            readers[name] = readers.get(name, 0) + 1
    kept: list[Operation] = []
    producers: dict[str, int] = {}
    for op in operations:
        position = producers.get(op.input) if isinstance(op, Reshape) else None
        if isinstance(op, Reshape) and position is not None:
            first = kept[position]
            alone = readers[op.input] == 1 and op.input not in outputs
            if isinstance(first, Reshape) and alone and tensors[first.input].data is None:
                located = first if first.sources else op
                op = dataclasses.replace(
                    op,
                    input=first.input,
                    location=located.location,
                    sources=tuple(sorted({*first.sources, *op.sources})),
                )
                kept[position] = op
                producers[op.output] = position
                continue
        for name in op.outputs:
            producers[name] = len(kept)
        kept.append(op)
    return kept


def _without_copies(
    operations: Sequence[Operation], tensors: Mapping[str, Tensor], outputs: Sequence[str]
) -> list[Operation]:
    """All but inserted reshapes to the shape that is there."""
    names: dict[str, str] = {}
    kept: list[Operation] = []
    for op in operations:
        op = _renamed(op, names, {})
        if (
            isinstance(op, Reshape)
            and not op.sources
            and op.output not in outputs
            and tensors[op.input].shape == tensors[op.output].shape
        ):
            names[op.output] = op.input
        else:
            kept.append(op)
    return kept


def _joined(
    operations: Sequence[Operation], tensors: Mapping[str, Tensor], outputs: Sequence[str]
) -> list[Operation]:
    """A mean and the Reshape behind it, or a Flatten and the dense layer behind it, in one."""
    readers = Counter(name for op in operations for name in op.inputs)
    kept: list[Operation] = []
    producers: dict[str, int] = {}
    for op in operations:
        if isinstance(op, (Reshape, FullyConnected)):
            position = producers.get(op.input)
            if position is not None and readers[op.input] == 1 and op.input not in outputs:
                joined = _in_one(kept[position], op, tensors)
                if joined is not None:
                    # In place of the later one, whose other operands are known there.
                    kept[position : position + 1] = []
                    producers = {n: p - (p > position) for n, p in producers.items()}
                    op = joined
        producers.update(dict.fromkeys(op.outputs, len(kept)))
        kept.append(op)
    return kept


def _in_one(
    first: Operation, second: Reshape | FullyConnected, tensors: Mapping[str, Tensor]
) -> Operation | None:
    sources = tuple(sorted({*first.sources, *second.sources}))
    match first, second:
        case Mean(keep_dims=True, axes=axes), Reshape(output=output):
            shape = tensors[second.input].shape
            if tensors[output].shape == tuple(n for a, n in enumerate(shape) if a not in axes):
                return dataclasses.replace(first, output=output, keep_dims=False, sources=sources)
        case Reshape(location=location), FullyConnected() if location.type == "Flatten":
            _, depth = tensors[second.weights].shape
            if tensors[first.input].shape[1:] != (depth,):
                return dataclasses.replace(second, input=first.input, sources=sources)
    return None


def _named(
    operations: Sequence[Operation],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> list[Operation]:
    """A computed tensor that only gets another name as an output has that name at once."""
    computed = {name for op in operations for name in op.outputs}
    fixed = {*inputs, *outputs}
    names: dict[str, str] = {}
    sources: dict[str, tuple[int, ...]] = {}
    kept: list[Operation] = []
    for op in operations:
        if (
            isinstance(op, Reshape)
            and op.output in outputs
            and op.input in computed - fixed
            and op.input not in names
            and tensors[op.input].shape == tensors[op.output].shape
        ):
            names[op.input] = op.output
            sources[op.input] = op.sources
        else:
            kept.append(op)
    return [_renamed(op, names, sources) for op in kept]


def _renamed(
    op: Operation, names: Mapping[str, str], sources: Mapping[str, tuple[int, ...]]
) -> Operation:
    changes: dict[str, str | tuple[str, ...]] = {}
    for field in (*op.input_fields, *op.output_fields):
        value: str | tuple[str, ...] | None = getattr(op, field)
        if isinstance(value, str) and value in names:
            changes[field] = names[value]
        elif isinstance(value, tuple) and not names.keys().isdisjoint(value):
            changes[field] = tuple(names.get(name, name) for name in value)
    if not changes:
        return op
    more = {index for name in op.outputs for index in sources.get(name, ())}
    renamed: Operation = dataclasses.replace(
        op,
        sources=tuple(sorted({*op.sources, *more})),
        **changes,  # type: ignore[arg-type]
    )
    return renamed
