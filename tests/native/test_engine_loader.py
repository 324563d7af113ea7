# SPDX-License-Identifier: Apache-2.0
"""The native loader on bytes of all kinds: it refuses what the Python reader refuses."""

from __future__ import annotations

import ctypes
import hashlib
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from akida1_strategies import seeded_akida1_program
from chained_akida1 import Akida1Chain
from chained_programs import Chain
from program_samples import sound, sound_akida1
from program_strategies import random_input, seeded_program

from akida_backend import engine, program_check
from akida_backend.errors import ProgramError
from akida_backend.program import Program
from akida_backend.program_format import program_from_bytes, program_to_bytes
from akida_backend.simulator import Simulator

CORPUS = Path(__file__).with_name("corpus")
HEADER = 64
WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Loader:
    """The library's functions for bytes that no Program stands for."""

    def __init__(self) -> None:
        found = engine._library()
        assert not isinstance(found, str)
        _, self.library = found

    def load(self, data: bytes) -> int:
        """A handle, or 0."""
        # A copy of exactly these bytes, so that a sanitizer sees a read behind them.
        copy = ctypes.create_string_buffer(data, len(data)) if data else None
        self.library.akida_backend_program_load.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_char_p,
        ]
        return self.library.akida_backend_program_load(copy, len(data), None) or 0

    def problem(self, data: bytes) -> str | None:
        """Why bytes are refused, None for a program."""
        handle = self.load(data)
        if handle:
            self.library.akida_backend_program_free(handle)
            return None
        text: bytes = self.library.akida_backend_error()
        return text.decode()


@pytest.fixture
def loader(runnable_sets: tuple[str, ...]) -> Loader:
    assert runnable_sets
    return Loader()


def sealed(data: bytes) -> bytes:
    """`data` with size, content hash and checksum put right, as a hostile writer would."""
    body = data[HEADER:]
    covered = struct.pack("<Q8x", len(data)) + hashlib.sha256(body).digest()
    return data[:12] + struct.pack("<I", zlib.crc32(body, zlib.crc32(covered))) + covered + body


def python_problem(data: bytes) -> str | None:
    try:
        program_from_bytes(data)
    except ProgramError as error:
        return str(error)
    return None


def test_loads_what_the_writer_wrote(loader: Loader) -> None:
    assert loader.problem(program_to_bytes(sound())) is None


def test_refuses_every_truncation(loader: Loader) -> None:
    data = program_to_bytes(sound())
    for size in range(0, len(data), 7):
        assert loader.problem(data[:size]) is not None
        cut = sealed(data[:size]) if size >= HEADER else data[:size]
        assert loader.problem(cut) is not None


def test_refuses_every_flipped_byte(loader: Loader) -> None:
    data = program_to_bytes(sound())
    accepted = []
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x40
        if loader.problem(bytes(damaged)) is None:
            accepted.append(place)
    assert accepted == []  # the checksum covers the content hash too


@pytest.mark.parametrize(
    ("place", "form", "value", "said"),
    [
        pytest.param(0, "<B", 0x88, "do not begin as", id="magic"),
        pytest.param(8, "<I", 2, "Install a newer akida-backend", id="newer"),
        pytest.param(8, "<I", 0, "version does not exist", id="version-0"),
        pytest.param(12, "<I", 1, "checksum does not match", id="checksum"),
        pytest.param(16, "<Q", 1 << 40, "size it states", id="size"),
    ],
)
def test_says_what_is_wrong_with_a_header(
    loader: Loader, place: int, form: str, value: int, said: str
) -> None:
    data = bytearray(program_to_bytes(sound()))
    struct.pack_into(form, data, place, value)
    problem = loader.problem(bytes(data))
    assert problem is not None
    assert said in problem


def test_names_the_layer_whose_buffer_could_overflow(loader: Loader) -> None:
    program = sound()
    data = program_to_bytes(program)
    layer = program.layers[1]
    bias_shifts = data.index(layer.bias.shift.tobytes(), 2000)  # type: ignore[union-attr]
    damaged = bytearray(data)
    tensors, layers = 160, 160 + 32 * len(program.tensors)
    assert tensors < bias_shifts
    offset, count = struct.unpack_from("<2I", data, layers + 176 + 96)
    damaged[offset : offset + count] = bytes([31] * count)
    problem = loader.problem(sealed(bytes(damaged)))
    assert problem is not None
    assert "layer 1: the accumulator of filter 0 may be beyond 28 bits" in problem
    assert "buffer_bits" in (python_problem(sealed(bytes(damaged))) or "")


def refilled(program: Program, reference: int, value: bytes) -> bytes:
    """Bytes of the program, an array of the layer filled with other values.

    Args:
        program: Of one layer.
        reference: Place of the array's reference in the layer's record.
        value: One element of the array.
    """
    data = bytearray(program_to_bytes(program))
    offset, count = struct.unpack_from("<2I", data, 160 + 32 * 2 + reference)
    data[offset : offset + count * len(value)] = value * count
    return sealed(bytes(data))


def summed_potentials() -> bytes:
    chain = Akida1Chain().map(5, 5, 4)
    chain.separable(3, 7, average=True, weights=np.zeros((1, 7, 7, 4), np.int8))
    return refilled(chain.build(), 80, b"\xf8")


def wide_potentials() -> bytes:
    chain = Akida1Chain().map(5, 5, 4)
    chain.dense(3, bits=32)
    return refilled(chain.build(), 88, struct.pack("<i", -(2**31)))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        pytest.param(summed_potentials, "the potential of filter 0", id="summed"),
        pytest.param(wide_potentials, "the potential less its threshold of filter 0", id="wide"),
    ],
)
def test_names_the_layer_whose_potentials_could_overflow(
    loader: Loader, build: Callable[[], bytes], said: str
) -> None:
    problem = loader.problem(build())
    assert problem is not None
    assert f"layer 0: {said} may be beyond" in problem
    assert "buffer_bits" in (python_problem(build()) or "")


def large_average() -> Program:
    chain = Akida1Chain().map(16384, 16384, 1)
    chain.conv(1, average=True, weights=np.zeros((1, 1, 1, 1), np.int8))
    return chain.build()


def large_table() -> Program:
    chain = Chain().map(16384, 16384, 1)
    chain.conv(1, activation=chain.table(1))
    return chain.build()


@pytest.mark.parametrize("build", [large_average, large_table])
def test_refuses_small_programs_that_take_memory_without_end(
    loader: Loader, build: Callable[[], Program]
) -> None:
    data = program_to_bytes(build())
    assert len(data) < 6000
    problem = loader.problem(data)
    assert problem is not None
    assert "MiB per sample, 2048 MiB are supported" in problem


def test_refuses_accumulators_without_end(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Akida1Chain().map(16384, 16384, 1)
    chain.conv(2, average=True, weights=np.zeros((2, 1, 1, 1), np.int8))
    with monkeypatch.context() as patch:
        patch.setattr(program_check, "MAX_VALUES", 2**30)
        data = program_to_bytes(chain.build())
    assert "layer 0: it has too many accumulators" in (loader.problem(data) or "")
    assert "needs at most 268435456 accumulators" in (python_problem(data) or "")


def mutations(data: bytes, seed: int, count: int) -> list[bytes]:
    """Copies with a few bytes, bits or words changed, sealed."""
    choose = Random(seed)
    copies = []
    records = min(len(data), 160 + 208 * 6)  # where most of the structure is
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(choose.choice((1, 1, 1, 2, 3))):
            end = records if choose.random() < 0.8 else len(copy)
            place = choose.randrange(HEADER, end)
            match choose.randrange(3):
                case 0:
                    copy[place] ^= 1 << choose.randrange(8)
                case 1:
                    copy[place] = choose.randrange(256)
                case _:
                    place = min(place & ~3, len(copy) - 4)
                    struct.pack_into("<I", copy, place, choose.choice(WORDS))
        copies.append(sealed(bytes(copy)))
    return copies


def assert_readers_agree(loader: Loader, data: bytes, tally: Counter[str]) -> None:
    native, python = loader.problem(data), python_problem(data)
    if native is not None and python is not None:
        tally["refused"] += 1
    elif native is None and python is None:
        tally["accepted"] += 1
        program = program_from_bytes(data)
        x = random_input(program, 0, 2)
        got = engine.NativeEngine(program).run(x)
        np.testing.assert_array_equal(got, Simulator(program).run(x))
    else:
        # The native reader does not look at names: they must be UTF-8 and differ.
        assert python is not None, native
        tally["names"] += 1
        assert "is not UTF-8" in python or "field 'name'" in python, python


def test_agrees_with_the_python_reader_on_damaged_programs(loader: Loader) -> None:
    tally: Counter[str] = Counter()
    for seed in range(12):
        data = program_to_bytes(sound() if seed == 0 else seeded_program(seed))
        for copy in mutations(data, seed, 60):
            assert_readers_agree(loader, copy, tally)
    assert tally["refused"] > 100
    assert tally["accepted"] > 50


def test_agrees_with_the_python_reader_on_damaged_akida1_programs(loader: Loader) -> None:
    tally: Counter[str] = Counter()
    for seed in range(12):
        data = program_to_bytes(sound_akida1() if seed == 0 else seeded_akida1_program(seed))
        for copy in mutations(data, seed, 60):
            assert_readers_agree(loader, copy, tally)
    assert tally["refused"] > 100
    assert tally["accepted"] > 50


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_the_fuzzers_corpus_is_refused_or_runs(loader: Loader, name: str) -> None:
    data = (CORPUS / name).read_bytes()
    loader.problem(data)  # as it stands, whatever the verdict
    tally: Counter[str] = Counter()
    assert_readers_agree(loader, sealed(data), tally)
    assert tally == {"refused" if name.startswith("refused") else "accepted": 1}


@pytest.mark.full
@pytest.mark.parametrize("first", range(100, 1100, 50))
def test_agrees_with_the_python_reader_on_many_damaged_programs(loader: Loader, first: int) -> None:
    tally: Counter[str] = Counter()
    for seed in range(first, first + 50):
        for copy in mutations(program_to_bytes(seeded_program(seed)), seed, 100):
            assert_readers_agree(loader, copy, tally)
        for copy in mutations(program_to_bytes(seeded_akida1_program(seed)), seed, 100):
            assert_readers_agree(loader, copy, tally)
    assert tally["refused"] > 1000
