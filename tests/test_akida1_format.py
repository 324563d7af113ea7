# SPDX-License-Identifier: Apache-2.0
"""Bytes of Akida 1.0 programs: round trips, their places in the table, and damage."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from akida1_strategies import seeded_akida1_program
from hypothesis import given, settings
from hypothesis import strategies as st
from program_bytes import LAYER_SIZE, TENSOR_SIZE, TENSORS, plain, sealed
from program_samples import sound_akida1
from program_strategies import random_input

from akida_backend.errors import ProgramError
from akida_backend.program_format import content_hash, program_from_bytes, program_to_bytes
from akida_backend.simulator import run_program


def layer_at(number: int) -> int:
    return TENSORS + (len(sound_akida1().layers) + 1) * TENSOR_SIZE + number * LAYER_SIZE


def patched(offset: int, form: str, *values: int) -> bytes:
    data = bytearray(program_to_bytes(sound_akida1()))
    struct.pack_into(form, data, offset, *values)
    return sealed(bytes(data))


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_every_program_comes_back_and_computes_the_same(first: int) -> None:
    for seed in range(first, first + 50):
        program = seeded_akida1_program(seed)
        data = program_to_bytes(program)
        back = program_from_bytes(data)
        assert plain(back) == plain(program)
        assert program_to_bytes(back) == data
        x = random_input(program, seed, batch=2)
        assert run_program(back, x).tolist() == run_program(program, x).tolist()


def test_bytes_of_the_sample_program_have_not_changed() -> None:
    assert content_hash(program_to_bytes(sound_akida1())) == (
        "a572ae095bb09991d18ef16f5d6cec949e8d98481a93af4a1c366231746bdb31"
    )


def test_table_places_fields_where_a_c_reader_looks_for_them() -> None:
    data = program_to_bytes(sound_akida1())

    def array(offset: int, form: str) -> list[int]:
        start, count = struct.unpack_from("<2I", data, offset)
        assert start % 64 == 0
        return list(struct.unpack_from(f"<{count}{form}", data, start))

    stem, conv, separable, logits = (layer_at(k) for k in range(4))
    two_bits = TENSORS + 2 * TENSOR_SIZE
    assert struct.unpack_from("<3I4B", data, two_bits + 8) == (3, 3, 4, 2, 0, 0, 1)
    none = 2**32 - 1
    assert struct.unpack_from("<3I8B", data, stem) == (9, 0, none, 8, 4, 4, 1, 0, 2, 0, 0)
    assert struct.unpack_from("<10I", data, stem + 20) == (1, 1, 2, 2, 2, 2, 4, 3, 3, 3)
    assert array(stem + 80, "b") == [1] * 108
    assert (array(stem + 88, "i"), array(stem + 96, "I")) == ([100] * 4, [1000] * 4)
    assert (array(stem + 104, "B"), array(stem + 168, "B")) == ([3] * 4, [9])
    assert struct.unpack_from("<3I8B", data, conv) == (10, 1, none, 4, 2, 4, 0, 0, 0, 0, 0)
    assert (array(conv + 88, "i"), array(conv + 96, "I")) == ([-5] * 4, [70] * 4)
    assert data[conv + 112 : conv + LAYER_SIZE] == bytes(LAYER_SIZE - 112)
    assert struct.unpack_from("<3I8B", data, separable) == (11, 2, none, 2, 4, 4, 0, 1, 0, 0, 0)
    assert struct.unpack_from("<4I", data, separable + 44) == (1, 3, 3, 4)
    assert array(separable + 112, "b") == [-1] * 24
    assert struct.unpack_from("<3I8B", data, logits) == (12, 3, none, 4, 32, 0, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<4I", data, logits + 44) == (5, 1, 1, 6)
    assert array(logits + 88, "i") == [-20] * 5
    assert data[logits + 96 : logits + LAYER_SIZE] == bytes(LAYER_SIZE - 96)


def test_every_truncation_is_refused() -> None:
    data = program_to_bytes(sound_akida1())
    for size in range(len(data)):
        with pytest.raises(ProgramError, match="program bytes: "):
            program_from_bytes(data[:size])


def test_every_single_bit_flip_is_refused() -> None:
    data = program_to_bytes(sound_akida1())
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << offset % 8
        with pytest.raises(ProgramError, match="program bytes: "):
            program_from_bytes(bytes(damaged))


def assert_refused_or_another_program(data: bytes) -> None:
    try:
        program = program_from_bytes(data)
    except ProgramError:
        return
    assert program_to_bytes(program) == data


@pytest.mark.parametrize(
    "value", [0xFF, *(pytest.param(v, marks=pytest.mark.full) for v in (0, 1, 0x7F, 0x80))]
)
def test_hostile_bytes_with_a_right_checksum_never_crash(value: int) -> None:
    data = program_to_bytes(sound_akida1())
    for offset in range(64, layer_at(len(sound_akida1().layers)) + 200):
        changed = bytearray(data)
        changed[offset] = value
        assert_refused_or_another_program(sealed(bytes(changed)))


@pytest.mark.parametrize("kind", range(14))
def test_a_layer_of_another_kind_in_the_same_place_never_crashes(kind: int) -> None:
    for number in range(len(sound_akida1().layers)):
        for activation in range(6):
            data = bytearray(patched(layer_at(number), "<I", kind))
            data[layer_at(number) + 14] = activation
            assert_refused_or_another_program(sealed(bytes(data)))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(64, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_random_hostile_bytes_never_crash(seed: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(program_to_bytes(seeded_akida1_program(seed)))
    for offset, value in changes:
        data[offset % (len(data) - 64) + 64] = value
    assert_refused_or_another_program(sealed(bytes(data)))


def pointwise_cut_off() -> bytes:
    """One weight fewer than whole filters."""
    data = bytearray(program_to_bytes(sound_akida1()))
    struct.pack_into("<I", data, layer_at(2) + 116, 23)
    return sealed(bytes(data))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "kind": (lambda: patched(layer_at(1), "<I", 13), "layer 1, kind: 13 stands for nothing"),
    "activation-of-akida2": (
        lambda: patched(layer_at(1) + 14, "<B", 1),
        "layer 1, activation: 1 is none of Akida 1.0",
    ),
    "steps-without-arrays": (
        lambda: patched(layer_at(3) + 14, "<B", 4),
        "layer 3, step: 0 elements at byte 0",
    ),
    "axes": (
        lambda: patched(layer_at(1) + 44, "<I", 5),
        r"layer 1: 144 weights for axes \(5, 3, 3, 4\)",
    ),
    "pointwise-weights": (pointwise_cut_off, "layer 2: 23 pointwise weights for axes"),
    "field-of-akida2": (
        lambda: patched(layer_at(1) + 60, "<i", 1),
        "a field or gap that must be zero is not",
    ),
    "malformed-program": (
        lambda: patched(layer_at(1) + 12, "<B", 8),
        r"layer 'conv' \(Convolutional\), field 'weights_bits': needs 1, 2, 4, found 8",
    ),
}


@pytest.mark.parametrize(
    ("build", "message"), [pytest.param(*case, id=name) for name, case in REFUSED.items()]
)
def test_refuses_and_says_why(build: Callable[[], bytes], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        program_from_bytes(build())
