# SPDX-License-Identifier: Apache-2.0
"""The random programs of every run of the tests reach each option that a layer's type gives it."""

from __future__ import annotations

import dataclasses
import typing
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from types import NoneType, UnionType

import numpy as np
import pytest
from numpy.typing import NDArray
from program_strategies import seeded_program

from akida_backend.graph import DType
from akida_backend.program import Akida2Layer, Layer, Program, Rescale

SEEDS_IN_CI = 300

LAYERS: tuple[type[Layer], ...] = typing.get_args(Akida2Layer)
# What types do not say: the numbers that mean something.
NUMBERS = {"weights_bits": ("4", "8"), "output_bits": ("4", "8")}


def choices(hint: object) -> Iterator[tuple[str, type | None]]:
    """What a field of this type may hold, by name, with the dataclass it is; none, no choice."""
    members = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for member in members:
        if member is bool:
            yield from (("False", None), ("True", None))
        elif isinstance(member, type) and issubclass(member, Enum):
            yield from ((each.name, None) for each in member)
        elif member is NoneType:
            yield "None", None
        elif len(members) > 1:
            is_record = isinstance(member, type) and dataclasses.is_dataclass(member)
            yield getattr(member, "__name__", "ndarray"), member if is_record else None


def options_by_type(record: type, path: str) -> Iterator[str]:
    """All that a dataclass, and those inside it, leave open."""
    hints = typing.get_type_hints(record)
    for field in dataclasses.fields(record):
        for number in NUMBERS.get(field.name, ()):
            yield f"{path}.{field.name}={number}"
        for name, inner in choices(hints[field.name]):
            option = f"{path}.{field.name}={name}"
            yield option
            if inner is not None:
                yield from options_by_type(inner, option)


def options_of(record: object, path: str) -> Iterator[str]:
    """The options a dataclass has taken, under the names of `options_by_type`."""
    assert dataclasses.is_dataclass(record)
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        name = str(value) if isinstance(value, bool | int | NoneType) else type(value).__name__
        option = f"{path}.{field.name}={value.name if isinstance(value, Enum) else name}"
        yield option
        if dataclasses.is_dataclass(value):
            yield from options_of(value, option)


@pytest.fixture(scope="module")
def programs() -> list[Program]:
    return [seeded_program(seed) for seed in range(SEEDS_IN_CI)]


def test_every_choice_of_every_layer_type_is_made(programs: list[Program]) -> None:
    layers = [layer for program in programs for layer in program.layers]
    made = {option for layer in layers for option in options_of(layer, type(layer).__name__)}
    wanted = {option for layer in LAYERS for option in options_by_type(layer, layer.__name__)}
    wanted |= {"Dense1D.output_bits=32", "Add.output_bits=32"}
    assert wanted - made == set()
    assert len(wanted) > 80
    assert {type(layer) for layer in layers} == set(LAYERS)


def test_kernels_strides_and_pools_of_all_allowed_sizes_occur(programs: list[Program]) -> None:
    seen: defaultdict[str, set[tuple[int, ...]]] = defaultdict(set)
    for program in programs:
        for layer in program.layers:
            stride, pool = getattr(layer, "stride", None), getattr(layer, "pool", None)
            if stride is None:
                continue
            _, height, width, _ = layer.weights.shape  # type: ignore[union-attr]
            seen["kernel"].add((height, width))
            seen["stride"].add((stride.height, stride.width))
            if pool is not None:
                seen["pool"].add((pool.size.height, pool.size.width))
                seen["pool stride"].add((pool.stride.height, pool.stride.width))
    assert seen["kernel"] >= {(side, side) for side in range(1, 8)}
    assert seen["stride"] >= {(step, step) for step in range(1, 5)}
    for pools in ("pool", "pool stride"):
        assert seen[pools] >= {(side, side) for side in range(1, 4)}
    for sizes in seen.values():
        assert any(height != width for height, width in sizes)


def rescales_of(program: Program) -> Iterator[Rescale]:
    for layer in program.layers:
        for holder in (layer, getattr(layer, "activation", None)):
            rescale = getattr(holder, "rescale", None)
            if rescale is not None:
                yield rescale


def occurring(arrays: Iterator[NDArray[np.integer]]) -> set[int]:
    return {int(value) for array in arrays for value in array}


def test_multipliers_and_shifts_reach_their_ends(programs: list[Program]) -> None:
    rescales = [rescale for program in programs for rescale in rescales_of(program)]
    assert occurring(rescale.multiplier for rescale in rescales) >= {0, 1, 2, 127, 128, 255}
    shifts = occurring(rescale.shift for rescale in rescales)
    assert {-32, -31, 0, 1} <= shifts
    assert max(shifts) > 16
    layers = [layer for program in programs for layer in program.layers]
    biases = [layer.bias for layer in layers if hasattr(layer, "bias")]
    assert {0, 1} <= occurring(bias.shift for bias in biases)
    assert {-128, 127} <= occurring(bias.value for bias in biases)


def test_ports_of_all_types_occur(programs: list[Program]) -> None:
    assert {program.input.dtype for program in programs} == {DType.INT8, DType.UINT8}
    assert {program.output.dtype for program in programs} >= {
        DType.INT8,
        DType.UINT8,
        DType.INT16,
        DType.INT32,
    }
    assert {program.input.parts for program in programs} == {1, 2}
    assert {len(program.output.factor) > 1 for program in programs} == {False, True}
    signs = {
        (tensor.code.bits, tensor.code.signed)
        for program in programs
        for tensor in program.tensors.values()
    }
    assert signs == {(8, True), (8, False), (4, False), (32, True)}
