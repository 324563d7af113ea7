# SPDX-License-Identifier: Apache-2.0
"""Program bytes: round trips, one form per program, and what damage is answered with."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_bytes import LAYER_SIZE, TENSOR_SIZE, TENSORS, plain, sealed
from program_samples import sound
from program_strategies import programs, random_input, seeded_program

from akida_backend.errors import ProgramError
from akida_backend.program import InputConv2D, Program
from akida_backend.program_format import content_hash, program_from_bytes, program_to_bytes
from akida_backend.simulator import run_program


def patched(offset: int, form: str, *values: int) -> bytes:
    """The sample program's bytes with numbers written over them, sealed again."""
    data = bytearray(program_to_bytes(sound()))
    struct.pack_into(form, data, offset, *values)
    return sealed(bytes(data))


def layer_at(number: int) -> int:
    """Offset of a layer's record in the sample program."""
    return TENSORS + (len(sound().layers) + 1) * TENSOR_SIZE + number * LAYER_SIZE


# Round trips


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_every_program_comes_back_and_writes_the_same_bytes(first: int) -> None:
    for seed in range(first, first + 50):
        program = seeded_program(seed)
        data = program_to_bytes(program)
        back = program_from_bytes(data)
        assert plain(back) == plain(program)
        assert program_to_bytes(back) == data


@settings(max_examples=100, deadline=None)
@given(programs(), st.text(max_size=20))
def test_names_of_any_text_come_back(program: Program, name: str) -> None:
    named = dataclasses.replace(
        program, name=name, output=dataclasses.replace(program.output, tensor=name)
    )
    assert plain(program_from_bytes(program_to_bytes(named))) == plain(named)


def test_names_that_are_not_unicode_come_back() -> None:
    program = dataclasses.replace(sound(), name=b"conv\xff".decode("utf-8", "surrogateescape"))
    assert program_from_bytes(program_to_bytes(program)).name == "conv\udcff"


def test_a_program_that_came_back_computes_the_same() -> None:
    for seed in range(10):
        program = seeded_program(seed)
        x = random_input(program, seed, batch=2)
        back = program_from_bytes(program_to_bytes(program))
        np.testing.assert_array_equal(run_program(back, x), run_program(program, x))


def test_order_of_the_tensor_table_and_memory_layout_leave_the_bytes_alone() -> None:
    program = sound()
    shuffled = dict(reversed(list(program.tensors.items())))
    (stem, *rest) = program.layers
    assert isinstance(stem, InputConv2D)
    fortran = dataclasses.replace(stem, weights=np.asfortranarray(stem.weights))
    other = dataclasses.replace(program, tensors=shuffled, layers=(fortran, *rest))
    assert program_to_bytes(other) == program_to_bytes(program)


def test_another_process_and_hash_seed_give_the_same_bytes() -> None:
    folder = Path(__file__).resolve().parent
    script = (
        "from program_strategies import seeded_program\n"
        "from akida_backend.program_format import content_hash, program_to_bytes\n"
        "for seed in range(20): print(content_hash(program_to_bytes(seeded_program(seed))))\n"
    )
    expected = [content_hash(program_to_bytes(seeded_program(seed))) for seed in range(20)]
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    for hash_seed in ("0", "4711"):
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.split() == expected


def test_content_hash_tells_programs_apart_by_every_field() -> None:
    program = sound()
    others = [
        dataclasses.replace(program, name="other"),
        dataclasses.replace(program, output=dataclasses.replace(program.output, zero_point=1)),
        dataclasses.replace(program, input=dataclasses.replace(program.input, shape=(1, 8, 8, 3))),
    ]
    hashes = {content_hash(program_to_bytes(p)) for p in (program, *others)}
    assert len(hashes) == 4


def test_bytes_of_the_sample_program_have_not_changed() -> None:
    """Version 1 is read by engines: a change of its bytes needs a new version."""
    assert content_hash(program_to_bytes(sound())) == (
        "4a585305d1bc9f279ea420cb090a857b6d357a2d09553853fe65c39d0e4d48d2"
    )


# The table


def test_table_places_fields_where_a_c_reader_looks_for_them() -> None:
    program = sound()
    data = program_to_bytes(program)

    def number(form: str, offset: int) -> int:
        (value,) = struct.unpack_from(form, data, offset)
        assert isinstance(value, int)
        return value

    def text(offset: int) -> str:
        start, count = struct.unpack_from("<2I", data, offset)
        return data[start : start + count].decode()

    def array(offset: int, form: str) -> list[int]:
        start, count = struct.unpack_from("<2I", data, offset)
        assert start % 64 == 0
        return list(struct.unpack_from(f"<{count}{form}", data, start))

    assert data[:8] == b"\x89AKP\r\n\x1a\n"
    assert number("<I", 8) == 1
    assert number("<I", 12) == zlib.crc32(data[16:])
    assert number("<Q", 16) == len(data)
    assert data[32:64] == hashlib.sha256(data[64:]).digest()
    assert (text(64), text(72)) == ("p", "akida2")
    assert number("<I", 80) == 7
    assert (text(88), array(96, "i"), number("<I", 104)) == ("x", [-1, 8, 8, 3], 2)
    assert array(112, "h") == list(range(256))
    assert (text(120), array(128, "i"), number("<I", 136)) == ("y", [-1, 5], 1)
    assert struct.unpack_from("<3i", data, 140) == (-3, -128, 127)
    assert array(152, "d") == [0.5] * 5

    image, depthwise_out = TENSORS, TENSORS + 4 * TENSOR_SIZE
    assert text(image) == "image"
    assert struct.unpack_from("<3I4B", data, image + 8) == (8, 8, 3, 8, 0, 9, 1)
    assert array(image + 24, "d") == [0.1]
    assert text(depthwise_out) == "depthwise.out"
    assert struct.unpack_from("<3I4B", data, depthwise_out + 8) == (4, 4, 4, 8, 1, 0, 1)
    assert array(depthwise_out + 24, "d") == [1.0, 2.0, 3.0, 4.0]

    stem, conv, add, depthwise, join, up, logits = (layer_at(k) for k in range(7))
    none = 2**32 - 1
    assert struct.unpack_from("<3I8B", data, stem) == (1, 0, none, 8, 8, 1, 0, 0, 1, 0, 0)
    assert struct.unpack_from("<13I", data, stem + 20)[:10] == (1, 1, 2, 2, 2, 2, 4, 3, 3, 3)
    assert (text(stem + 72), array(stem + 168, "B")) == ("stem", [9, 9, 9])
    assert array(stem + 80, "b") == [1] * 108
    assert struct.unpack_from("<3I8B", data, conv) == (2, 1, none, 8, 8, 2, 0, 0, 0, 0, 0)
    assert (array(conv + 88, "b"), array(conv + 96, "B")) == ([1] * 4, [0] * 4)
    assert (array(conv + 104, "B"), array(conv + 112, "b")) == ([128] * 4, [-7] * 4)
    assert (array(conv + 120, "B"), array(conv + 128, "B")) == ([6] * 4, [3] * 4)
    assert array(conv + 160, "B") == [0, 1, 2, 3]
    assert struct.unpack_from("<3I8B", data, add) == (7, 1, 2, 0, 8, 1, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<3i", data, add + 60) == (0, 2, -2)
    assert struct.unpack_from("<3I8B", data, depthwise) == (3, 3, none, 8, 8, 3, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<4I", data, depthwise + 44) == (1, 3, 3, 4)
    assert (array(depthwise + 136, "B"), array(depthwise + 144, "b")) == ([128] * 4, [-7] * 4)
    assert array(depthwise + 152, "h") == list(range(-1024, 1024))
    assert struct.unpack_from("<3I8B", data, join) == (8, 3, 4, *[0] * 8)
    assert data[join + 80 : join + LAYER_SIZE] == bytes(LAYER_SIZE - 80)
    assert struct.unpack_from("<3I8B", data, up) == (4, 5, none, 8, 8, 0, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<3I8B", data, logits) == (6, 6, none, 8, 32, 0, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<4I", data, logits + 44) == (5, 1, 1, 128)
    assert text(logits + 72) == "logits"


# Damage


def test_every_truncation_is_refused() -> None:
    data = program_to_bytes(sound())
    for size in range(len(data)):
        with pytest.raises(ProgramError, match="program bytes: "):
            program_from_bytes(data[:size])


def test_every_single_bit_flip_is_refused() -> None:
    data = program_to_bytes(sound())
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << offset % 8
        with pytest.raises(ProgramError, match="program bytes: "):
            program_from_bytes(bytes(damaged))


@pytest.mark.full
def test_every_flip_of_any_bit_is_refused() -> None:
    data = program_to_bytes(sound())
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProgramError, match="program bytes: "):
            program_from_bytes(bytes(damaged))


def assert_refused_or_another_program(data: bytes) -> None:
    """Sealed bytes are a program in its one form, or a ProgramError: nothing else happens."""
    try:
        program = program_from_bytes(data)
    except ProgramError:
        return
    assert program_to_bytes(program) == data


@pytest.mark.parametrize(
    "value", [0xFF, *(pytest.param(v, marks=pytest.mark.full) for v in (0, 1, 0x7F, 0x80))]
)
def test_hostile_bytes_with_a_right_checksum_never_crash(value: int) -> None:
    data = program_to_bytes(sound())
    records = layer_at(len(sound().layers))
    for offset in [*range(16, 24), *range(64, records + 200)]:
        changed = bytearray(data)
        changed[offset] = value
        assert_refused_or_another_program(sealed(bytes(changed)))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 50),
    st.lists(st.tuples(st.integers(64, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_random_hostile_bytes_never_crash(seed: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(program_to_bytes(seeded_program(seed)))
    for offset, value in changes:
        data[offset % (len(data) - 64) + 64] = value
    assert_refused_or_another_program(sealed(bytes(data)))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "not those of an akida-backend program"),
    "another-file": (lambda: b"ONNX" * 100, "not those of an akida-backend program"),
    "header-cut-off": (
        lambda: program_to_bytes(sound())[:40],
        "40 bytes, the header alone takes 64",
    ),
    "newer-version": (
        lambda: patched(8, "<I", 2),
        "format version 2, this akida-backend reads 1\n  Install a newer akida-backend",
    ),
    "version-0": (lambda: patched(8, "<I", 0), "format version 0 does not exist"),
    "one-byte-more": (lambda: program_to_bytes(sound()) + b"\0", r"bytes, the header says \d+"),
    "content-hash": (
        lambda: wrong_hash(),
        "the content hash does not match\n  Compile the model again",
    ),
    "record-cut-off": (
        lambda: sealed(program_to_bytes(sound())[:100]),
        "the program record is cut off",
    ),
    "too-many-layers": (lambda: patched(80, "<I", 2**32 - 1), "4294967295 layers do not fit"),
    "name-not-utf-8": (
        lambda: patched(len_of_records(), "<B", 0xFF),
        "name is not UTF-8",
    ),
    "array-elsewhere": (
        lambda: patched(112, "<I", 0),
        r"input recode: 256 elements at byte 0, where \d+ comes next",
    ),
    "array-beyond-the-end": (
        lambda: patched(116, "<I", 2**31),
        r"input recode: 2147483648 elements at byte \d+",
    ),
    "array-empty": (
        lambda: patched(112, "<2I", 0, 0),
        "input recode: 0 elements at byte 0",
    ),
    "type-of-port": (lambda: patched(104, "<I", 0), "input type: 0 stands for nothing"),
    "type-of-port-unknown": (lambda: patched(136, "<I", 6), "output type: 6 stands for nothing"),
    "kind-of-layer": (lambda: patched(layer_at(1), "<I", 13), "layer 1, kind: 13 stands for"),
    "reads-later-tensor": (
        lambda: patched(layer_at(1) + 4, "<I", 2),
        "layer 1 reads tensors 2 and 4294967295 before they are written",
    ),
    "reads-later-second-tensor": (
        lambda: patched(layer_at(2) + 8, "<I", 3),
        "layer 2 reads tensors 1 and 3 before they are written",
    ),
    "activation": (
        lambda: patched(layer_at(1) + 14, "<B", 4),
        "layer 1, activation: 4 stands for nothing",
    ),
    "padding": (lambda: patched(layer_at(0) + 15, "<B", 2), "layer 0, padding: 2 stands for"),
    "pool": (lambda: patched(layer_at(0) + 17, "<B", 3), "layer 0, pool: 3 stands for nothing"),
    "axes": (
        lambda: patched(layer_at(1) + 44, "<I", 5),
        r"layer 1: 144 weights for axes \(5, 3, 3, 4\)",
    ),
    "unused-field": (
        lambda: patched(layer_at(4) + 20, "<I", 1),
        "a field or gap that must be zero is not",
    ),
    "reserved-field": (lambda: patched(84, "<I", 1), "a field or gap that must be zero is not"),
    "gap": (lambda: gap_filled(), "a field or gap that must be zero is not"),
    "bytes-behind-the-last-array": (
        lambda: sealed(program_to_bytes(sound()) + bytes(8)),
        "8 bytes follow the last array",
    ),
    "malformed-program": (
        lambda: patched(layer_at(2) + 60, "<i", 40),
        r"layer 'add' \(Add\), field 'a_shift': needs \[0, 31\], found 40",
    ),
    "add-with-a-table": (
        lambda: patched(layer_at(2) + 14, "<B", 3),
        r"layer 2, multiplier to the table: 0 elements at byte 0",
    ),
}


def len_of_records() -> int:
    return layer_at(len(sound().layers))


def wrong_hash() -> bytes:
    data = bytearray(program_to_bytes(sound()))
    data[40] ^= 1
    struct.pack_into("<I", data, 12, zlib.crc32(data[16:]))
    return bytes(data)


def gap_filled() -> bytes:
    """A byte between the name of the device and the next array."""
    data = bytearray(program_to_bytes(sound()))
    start, count = struct.unpack_from("<2I", data, 88)  # the last text in front of an array
    assert data[start + count] == 0
    data[start + count] = 1
    return sealed(bytes(data))


@pytest.mark.parametrize(
    ("build", "message"), [pytest.param(*case, id=name) for name, case in REFUSED.items()]
)
def test_refuses_and_says_why(build: Callable[[], bytes], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        program_from_bytes(build())


def test_content_hash_refuses_damage_too() -> None:
    with pytest.raises(ProgramError, match="checksum does not match"):
        content_hash(program_to_bytes(sound())[:-1] + b"\x55")


def test_only_well_formed_programs_are_written() -> None:
    with pytest.raises(ProgramError, match="no layer"):
        program_to_bytes(dataclasses.replace(sound(), layers=()))
