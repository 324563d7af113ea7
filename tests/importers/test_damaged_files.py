# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile files: one ImportModelError, within 5 seconds and 1 GB."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tflite
from raw_tflite import RawModel, RawOperator, RawTensor, activation, chain, constant

from akida_backend.errors import ImportModelError
from akida_backend.graph import Activation, DType
from akida_backend.importers.tflite import read_tflite
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 5
MEGABYTES = 1000


def small_network() -> bytes:
    """One of each kind of record, little of everything else."""
    b = GraphBuilder(seed=5, weight_dtype=DType.INT4)
    x = b.conv2d(b.input(6, 6, 2), 4, stride=2, activation=Activation.RELU6)
    x = b.add(b.depthwise(x, kernel=3), x)
    x = b.concatenation(*b.split(b.pad(x, [(0, 0), (1, 0), (0, 1), (0, 0)]), 1, 3))
    x = b.strided_slice(x, slice(0, 3), slice(None, None, 2), slice(None))
    x = b.gather(b.transpose(b.max_pool(x, window=1), 0, 2, 1, 3), [1, 0])
    return write_tflite(b.build(b.softmax(b.fully_connected(b.mean(x), 3))))


NETWORK = small_network()


def outcome(content: bytes) -> str:
    """Whether it is loaded or refused; any exception but the importer's own passes through."""
    try:
        graph = read_tflite(content, "m.tflite")
    except ImportModelError as error:
        return "refused" if error.where.startswith("m.tflite") else f"without the file: {error}"
    assert list(graph.problems()) == []
    return "loaded"


def test_the_network_itself_loads() -> None:
    assert outcome(NETWORK) == "loaded"


def test_every_truncation_is_refused() -> None:
    """But for the filler behind the last record."""
    loaded = [length for length in range(len(NETWORK)) if outcome(NETWORK[:length]) == "loaded"]
    assert all(length >= len(NETWORK) - 4 for length in loaded)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_any_word_may_be_wrong(value: int, step: int) -> None:
    refused = 0
    for place in range(value % step * 4, len(NETWORK) - 4, 4 * step):
        content = bytearray(NETWORK)
        struct.pack_into("<I", content, place, value)
        refused += outcome(bytes(content)) == "refused"
    assert refused > 0


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "fuzz_import.py", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("count", "options"),
    [
        pytest.param(1000, ["--load-only"], id="loaded"),
        pytest.param(100, [], id="run"),
        pytest.param(3_000, [], id="many", marks=pytest.mark.full),
    ],
)
def test_random_damage_is_refused_or_does_no_harm(
    tmp_path: Path, count: int, options: list[str]
) -> None:
    model = tmp_path / "network.tflite"
    model.write_bytes(NETWORK)
    done = fuzz(str(model), "--count", str(count), "--seconds", str(SECONDS), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused" in done.stdout
    assert (" loaded" if options else " ran") in done.stdout
    assert "wrong" not in done.stdout


@pytest.mark.full
def test_random_damage_of_real_models_is_loaded_or_refused(shared: Path) -> None:
    models = sorted((shared / "models").rglob("*.tflite"))
    done = fuzz(*map(str, models), "--count", "100", "--load-only", "--seconds", str(SECONDS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_fuzzer_keeps_and_reports_what_goes_wrong(tmp_path: Path) -> None:
    model = tmp_path / "network.tflite"
    model.write_bytes(NETWORK)
    kept = tmp_path / "kept"
    done = fuzz(str(model), "--count", "3", "--seconds", "0", "--keep", str(kept))
    assert done.returncode == 1
    assert "copy 0: took" in done.stdout
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        pytest.param(["--run-seconds", "0"], "did not compile and run within 0.0 s", id="time"),
        pytest.param(["--run-megabytes", "1"], " wrong", id="memory"),
        pytest.param(["--load-only"], " loaded", id="load-only"),
    ],
)
def test_the_fuzzer_bounds_what_it_runs(tmp_path: Path, limits: list[str], said: str) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("runs need a system that can fork")
    model = tmp_path / "network.tflite"
    model.write_bytes(NETWORK)
    done = fuzz(str(model), "--count", "20", *limits)
    assert done.returncode == (said != " loaded"), done.stdout + done.stderr
    assert said in done.stdout


# Files made to be slow or large


def vector(builder: flatbuffers.Builder, dtype: type[np.generic], count: int) -> int:
    position: int = builder.CreateNumpyVector(np.zeros(count, dtype))
    return position


def offsets(builder: flatbuffers.Builder, position: int, count: int) -> int:
    """A vector whose entries all point at one table."""
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(position)
    end: int = builder.EndVector()
    return end


def shared_records(
    *,
    tensors: int = 1,
    operators: int = 1,
    rank: int = 1,
    inputs: int = 1,
    scales: int = 0,
    name: int = 1,
    data: int = 0,
    codes: int = 1,
    type_number: int = tflite.TensorType.INT8,
) -> bytes:
    """Many entries that all point at the same, possibly large, record."""
    builder = flatbuffers.Builder(1024)
    shape = (
        vector(builder, np.int32, rank)
        if not data
        else builder.CreateNumpyVector(
            np.array([2 * data if type_number == tflite.TensorType.INT4 else data], np.int32)
        )
    )
    content = vector(builder, np.uint8, data)
    tflite.BufferStart(builder)
    tflite.BufferAddData(builder, content)
    buffer = tflite.BufferEnd(builder)
    label = builder.CreateString("n" * name)
    scale, zero_point = vector(builder, np.float32, scales), vector(builder, np.int64, scales)
    tflite.QuantizationParametersStart(builder)
    tflite.QuantizationParametersAddScale(builder, scale)
    tflite.QuantizationParametersAddZeroPoint(builder, zero_point)
    quantization = tflite.QuantizationParametersEnd(builder)
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, type_number)
    tflite.TensorAddName(builder, label)
    tflite.TensorAddQuantization(builder, quantization)
    tensor = tflite.TensorEnd(builder)
    indices = vector(builder, np.int32, inputs)
    one = vector(builder, np.int32, 1)
    tflite.OperatorStart(builder)
    tflite.OperatorAddInputs(builder, indices)
    tflite.OperatorAddOutputs(builder, one)
    operator = tflite.OperatorEnd(builder)
    all_tensors = offsets(builder, tensor, tensors)
    all_operators = offsets(builder, operator, operators)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, all_tensors)
    tflite.SubGraphAddOperators(builder, all_operators)
    tflite.SubGraphAddInputs(builder, one)
    tflite.SubGraphAddOutputs(builder, one)
    subgraph = tflite.SubGraphEnd(builder)
    custom = builder.CreateString("c" * name)
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, tflite.BuiltinOperator.CUSTOM)
    tflite.OperatorCodeAddCustomCode(builder, custom)
    code = tflite.OperatorCodeEnd(builder)
    all_codes = offsets(builder, code, codes)
    all_subgraphs = offsets(builder, subgraph, 1)
    all_buffers = offsets(builder, buffer, 1)
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, all_codes)
    tflite.ModelAddSubgraphs(builder, all_subgraphs)
    tflite.ModelAddBuffers(builder, all_buffers)
    builder.Finish(tflite.ModelEnd(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def many_gathers() -> bytes:
    """Each looks through the same million indices."""
    count = 2000
    indices = constant(np.zeros(10**6), name="i")
    results = [activation(10**6, 1) for _ in range(count)]
    operators = [
        RawOperator(tflite.BuiltinOperator.GATHER, [0, 1], [2 + n], "GatherOptions")
        for n in range(count)
    ]
    return RawModel([activation(5, 1), indices, *results], operators, [0], [2]).to_bytes()


def doubling_constants() -> bytes:
    """Each operator doubles a constant that import would evaluate."""
    start = constant(np.zeros(2**10), "int32")
    results = [RawTensor([2 ** (11 + n)], tflite.TensorType.INT32) for n in range(17)]
    operators = [
        RawOperator(tflite.BuiltinOperator.CONCATENATION, [n, n], [n + 1], "ConcatenationOptions")
        for n in range(17)
    ]
    return RawModel([start, *results], operators, [], [17]).to_bytes()


def growing_pads() -> bytes:
    """Sizes left open in the file grow without end."""
    count = 200
    tensors = [activation(1, 9, name="x"), constant([[0, 0], [2**30, 2**30]])]
    tensors += [activation(1, 1, signature=[1, -1]) for _ in range(count)]
    sources = [0, *range(2, count + 1)]
    operators = [
        RawOperator(tflite.BuiltinOperator.PAD, [source, 1], [n + 2])
        for n, source in enumerate(sources)
    ]
    return RawModel(tensors, operators, [0], [count + 1]).to_bytes()


def empty_but_long() -> bytes:
    tensor = RawTensor([2**31 - 1, 2**31 - 1, 0], tflite.TensorType.INT32)
    model = chain("ADD", [1, 2], [1, 2], tensor, table="AddOptions")
    return model.to_bytes()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "many-tensors": lambda: shared_records(tensors=2**18),
    "tensors-at-the-limit": lambda: shared_records(tensors=2**14),
    "many-operators": lambda: shared_records(operators=2**18),
    "many-codes": lambda: shared_records(codes=2**18),
    "long-shapes": lambda: shared_records(tensors=2**14, rank=2**20),
    "long-inputs": lambda: shared_records(operators=2**14, inputs=2**20),
    "long-scales": lambda: shared_records(tensors=2**14, scales=2**20),
    "long-names": lambda: shared_records(tensors=2**14, name=2**22),
    "long-custom-codes": lambda: shared_records(codes=2**14, name=2**22),
    "shared-data": lambda: shared_records(tensors=2**14, data=2**24),
    "shared-packed-data": lambda: shared_records(
        tensors=2**14, data=2**24, type_number=tflite.TensorType.INT4
    ),
    "many-gathers": many_gathers,
    "growing-pads": growing_pads,
    "empty-but-long": empty_but_long,
    "doubling-constants": doubling_constants,
}

# Loads files one after the other; memory that one of them kept would count against the next.
PROGRAM = f"""
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, ({MEGABYTES} * 10**6, {MEGABYTES} * 10**6))
from akida_backend.errors import ImportModelError
from akida_backend.loading import load
for path in sys.argv[1:]:
    start = time.process_time()  # other work on the machine is not the importer's
    try:
        result = len(load(path).operations)
    except ImportModelError as error:
        result = str(error)
    print(json.dumps([result, time.process_time() - start]))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | int, float]]:
    """Number of operations or message, and seconds, of each hostile file."""
    if sys.platform == "win32":
        pytest.skip("the resource module is for Unix")
    folder = tmp_path_factory.mktemp("hostile")
    for name, make in HOSTILE.items():
        (folder / name).write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(folder / name for name in HOSTILE)],
        # More threads of the numeric libraries would count against the address space.
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(HOSTILE, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_cost_little(name: str, loaded: dict[str, tuple[str | int, float]]) -> None:
    result, seconds = loaded[name]
    assert seconds < SECONDS
    if name == "doubling-constants":  # sound: what is too large stays an operation
        assert 0 < int(result) < 17
    else:
        assert "field" in str(result)
