# SPDX-License-Identifier: Apache-2.0
"""The engine as Python and C see it: finding it, forcing an instruction set, threads, errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from chained_programs import Chain
from program_samples import sound
from program_strategies import random_input

from akida_backend import engine
from akida_backend.engine import NativeEngine, engine_status
from akida_backend.errors import EngineError, InputError
from akida_backend.program import Program
from akida_backend.program_format import program_to_bytes
from akida_backend.simulator import Simulator

NATIVE = Path(engine.__file__).parent / "native"


def library() -> Path:
    path = engine_status().library
    assert path is not None
    return path


def in_python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


STATUS = """
from akida_backend.engine import engine_status
status = engine_status()
print(status.instruction_set, '|', status.problem)
"""


# Finding the library


def test_status_names_library_version_and_instruction_sets(
    runnable_sets: tuple[str, ...],
) -> None:
    status = engine_status()
    assert status.library is not None
    assert status.library.is_file()
    assert status.version
    assert runnable_sets[-1] == "baseline"
    assert set(status.instruction_sets) >= set(runnable_sets)


def test_kernel_libraries_of_this_processor_can_be_used(runnable_sets: tuple[str, ...]) -> None:
    problems = {name: why for name, why in engine_status().instruction_sets.items() if why}
    assert not problems.keys() & set(runnable_sets)
    wrong = {name: why for name, why in problems.items() if "belongs to another version" in why}
    assert wrong == {}


def test_the_best_instruction_set_is_chosen(runnable_sets: tuple[str, ...]) -> None:
    best, problem = in_python(STATUS, AKIDA_BACKEND_ISA="").split(" | ")
    assert best == runnable_sets[0]
    assert problem == "None"


def test_the_environment_forces_an_instruction_set(instruction_set: str) -> None:
    code = STATUS + (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from program_samples import sound\n"
        "from akida_backend.engine import NativeEngine\n"
        "print(NativeEngine(sound()).instruction_set)\n"
    )
    printed = in_python(code, AKIDA_BACKEND_ISA=instruction_set)
    assert printed == f"{instruction_set} | None\n{instruction_set}"


def test_an_instruction_set_that_cannot_run_is_passed_over_and_said(
    runnable_sets: tuple[str, ...],
) -> None:
    printed = in_python(STATUS, AKIDA_BACKEND_ISA="avx1024")
    assert printed.startswith(f"{runnable_sets[0]} | AKIDA_BACKEND_ISA=avx1024 is not used")


def test_kernel_libraries_that_are_missing_leave_the_baseline(
    tmp_path: Path, runnable_sets: tuple[str, ...]
) -> None:
    assert runnable_sets
    alone = tmp_path / library().name
    shutil.copy(library(), alone)
    code = STATUS + "print(len(status.instruction_sets), list(status.instruction_sets)[-1])"
    printed = in_python(code, AKIDA_BACKEND_LIBRARY=str(alone))
    assert printed.splitlines()[0] == "baseline | None"


def test_no_library_is_a_status_and_an_error(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from program_samples import sound\n"
        "from akida_backend.engine import NativeEngine, engine_status\n"
        "from akida_backend.errors import EngineError\n"
        "status = engine_status()\n"
        "assert status.library is None and status.instruction_sets == {}, status\n"
        "try: NativeEngine(sound())\n"
        "except EngineError as error: print(status.problem, '|', error)\n"
    )
    missing = tmp_path / "nothing.so"
    problem, error = in_python(code, AKIDA_BACKEND_LIBRARY=str(missing)).split(" | ")
    assert problem == f"AKIDA_BACKEND_LIBRARY={missing} is not a file"
    assert error.startswith("no native engine: AKIDA_BACKEND_LIBRARY=")


def test_a_file_that_is_no_library_is_a_status(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    code = "from akida_backend.engine import engine_status; print(engine_status().problem)"
    assert f"{broken} cannot be used" in in_python(code, AKIDA_BACKEND_LIBRARY=str(broken))


def exported(path: Path) -> set[str]:
    printed = subprocess.run(
        ["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True
    ).stdout
    return {line.split()[-1].partition("@")[0] for line in printed.splitlines()}


def sanitizers_of(path: Path) -> list[str]:
    """Those that a library was built with, so that a program using it is built the same way."""
    nm = shutil.which("nm")
    if nm is None:
        return []
    symbols = subprocess.run(
        [nm, "-D", str(path)], capture_output=True, text=True, check=True
    ).stdout
    signs = {"__asan_init": "address", "__tsan_init": "thread"}
    return [name for sign, name in signs.items() if sign in symbols]


@pytest.mark.skipif(shutil.which("nm") is None or sys.platform != "linux", reason="needs nm")
def test_kernel_libraries_export_their_table_and_nothing_else(
    runnable_sets: tuple[str, ...],
) -> None:
    for name in runnable_sets:
        if name != "baseline":
            path = library().with_name(f"libakida_backend_{name}.so")
            assert exported(path) == {"akida_backend_kernel_table"}


@pytest.mark.skipif(shutil.which("nm") is None or sys.platform != "linux", reason="needs nm")
def test_the_library_exports_its_c_interface_and_nothing_else(
    runnable_sets: tuple[str, ...],
) -> None:
    assert runnable_sets
    if sanitizers_of(library()):
        pytest.skip("a sanitizer's build exports more")
    header = (NATIVE / "include" / "akida_backend.h").read_text()
    declared = set(re.findall(r"\b(akida_backend_\w+)\(", header))
    found = exported(library())
    assert declared <= found
    assert len(declared) > 12
    # The rest are doors of the plug-ins: those that runtimes look for, and the package's own.
    doors = {"CreateEpFactories", "ReleaseEpFactory"}
    doors |= {f"tflite_plugin_{verb}_delegate" for verb in ("create", "destroy")}
    own = ("akida_backend_tflite_", "akida_backend_onnxruntime_")
    assert {name for name in found - declared - doors if not name.startswith(own)} == set()


# Running


@pytest.fixture
def program(runnable_sets: tuple[str, ...]) -> Program:
    assert runnable_sets
    return sound()


def test_refuses_input_of_another_shape_or_type(program: Program) -> None:
    native = NativeEngine(program)
    x = random_input(program, 0, 2)
    for wrong in (x.astype(np.int16), x[:, :-1], x[0], np.array(3, x.dtype)):
        with pytest.raises(InputError, match="input 'x' of program 'p': needs uint8 of shape"):
            native.run(wrong)


def test_takes_views_read_only_arrays_and_no_samples(program: Program) -> None:
    native, simulator = NativeEngine(program), Simulator(program)
    x = random_input(program, 1, 6)
    expected = simulator.run(x)
    view = np.repeat(x, 2, axis=2)[:, :, ::2]
    assert not view.flags.c_contiguous
    np.testing.assert_array_equal(native.run(view), expected)
    x.flags.writeable = False
    np.testing.assert_array_equal(native.run(x), expected)
    stored, codes = native.run(x[:0], raw=True)
    assert stored.shape == (0, 5)
    assert codes.shape == (0, 1, 1, 5)


def test_refuses_an_unknown_instruction_set_and_numbers_of_threads(program: Program) -> None:
    with pytest.raises(EngineError, match="instruction set 'avx1024' cannot run here: unknown"):
        NativeEngine(program, instruction_set="avx1024")
    for threads in (0, 257):
        with pytest.raises(EngineError, match="threads: needs 1 to 256"):
            NativeEngine(program, threads=threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    "dropped", [pytest.param(True, id="dropped"), pytest.param(False, id="live-to-the-end")]
)
def test_a_session_with_threads_goes_on_in_a_forked_process(dropped: bool) -> None:
    printed = in_python(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import numpy as np
import akida_backend as ab
from builders import GraphBuilder
from forking import in_child
b = GraphBuilder(1)
session = ab.InferenceSession(b.build(b.conv2d(b.input(32, 32, 16), 32)), threads=2)
feeds = {{session.get_inputs()[0].name: np.ones((64, 32, 32, 16), np.int8)}}
(before,) = session.run(None, feeds)
def go_on():
    global session
    for _ in range(2):
        assert np.array_equal(session.run(None, feeds)[0], before)
    if {dropped}:
        session = None
print(in_child(go_on), in_child(go_on), np.array_equal(session.run(None, feeds)[0], before))
"""
    )
    assert printed == "0 0 True"


def test_many_python_threads_share_one_engine(runnable_sets: tuple[str, ...]) -> None:
    assert runnable_sets
    chain = Chain(3).map(24, 24, 16)
    chain.conv(32, 3)
    chain.depthwise(3)
    chain.conv(32, 3)
    program = chain.build()
    simulator = Simulator(program)
    inputs = [random_input(program, seed, 3) for seed in range(8)]
    expected = [simulator.run(x) for x in inputs]
    wrong: list[int] = []

    def work(native: NativeEngine, number: int) -> None:
        for _ in range(20):
            if not np.array_equal(native.run(inputs[number]), expected[number]):
                wrong.append(number)

    for threads in (1, 2):
        native = NativeEngine(program, threads=threads)
        workers = [threading.Thread(target=work, args=(native, n)) for n in range(len(inputs))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_an_engine_gives_its_memory_back(runnable_sets: tuple[str, ...]) -> None:
    assert runnable_sets
    chain = Chain(4).map(96, 96, 16)
    chain.conv(256)
    chain.conv(1)
    program = chain.build()
    x = random_input(program, 0, 1)

    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").is_file():
        pytest.skip("needs /proc")
    for _ in range(3):
        NativeEngine(program).run(x)
    before = resident()
    for _ in range(30):
        NativeEngine(program).run(x)
    assert resident() - before < 20 * 2**20  # 30 engines hold some 100 MB


C_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include "akida_backend.h"

int main(int count, char** arguments) {
  if (count != 2) return 2;
  FILE* file = fopen(arguments[1], "rb");
  unsigned char* bytes = malloc(1 << 20);
  size_t size = fread(bytes, 1, 1 << 20, file);
  fclose(file);
  akida_backend_program* program = akida_backend_program_load(bytes, size, NULL);
  free(bytes);
  if (program == NULL) return fprintf(stderr, "%s\n", akida_backend_error()), 3;
  akida_backend_port input, output;
  akida_backend_program_port(program, AKIDA_BACKEND_INPUT, &input);
  akida_backend_program_port(program, AKIDA_BACKEND_OUTPUT, &output);
  akida_backend_context* context = akida_backend_context_create(program, 2);
  printf("%s %s %d %d\n", akida_backend_program_instruction_set(program), input.name, input.rank,
         (int)output.sample_values);
  akida_backend_program_free(program); /* the context keeps what it needs */
  unsigned char* x = malloc(2 * input.sample_bytes);
  signed char* y = malloc(2 * output.sample_bytes);
  for (size_t i = 0; i < 2 * input.sample_bytes; i++) x[i] = (unsigned char)(i * 7);
  if (akida_backend_run(context, x, y, NULL, 2) != 0) return 4;
  for (size_t i = 0; i < 2 * output.sample_values; i++) printf("%d ", y[i]);
  if (akida_backend_run(NULL, x, y, NULL, 2) == 0) return 5;
  printf("\n%s\n", akida_backend_error());
  if (akida_backend_program_load("nonsense", 8, NULL) != NULL) return 6;
  akida_backend_context_free(context);
  free(x);
  free(y);
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_c_programs_get_the_fast_path(tmp_path: Path, program: Program) -> None:
    source, binary, data = tmp_path / "use.c", tmp_path / "use", tmp_path / "program"
    source.write_text(C_PROGRAM)
    data.write_bytes(program_to_bytes(program))
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        + [f"-fsanitize={name}" for name in sanitizers_of(library())]
        + [f"-I{NATIVE / 'include'}", str(source), "-o", str(binary), str(library())]
        + [f"-Wl,-rpath,{library().parent}"],
        check=True,
    )
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    done = subprocess.run(
        [str(binary), str(data)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    first, outputs, error = done.stdout.splitlines()
    assert first == f"{engine_status().instruction_set} x 4 5"
    assert error == "run: no context"
    x = (np.arange(2 * 8 * 8 * 3) * 7 % 256).astype(np.uint8).reshape(2, 8, 8, 3)
    assert [int(value) for value in outputs.split()] == Simulator(program).run(x).ravel().tolist()
