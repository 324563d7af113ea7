# SPDX-License-Identifier: Apache-2.0
"""The engine compiled for 64-bit ARM, run by an emulator: the integers of the simulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from program_strategies import random_input, seeded_program

from akida_backend import engine
from akida_backend.program_format import program_to_bytes
from akida_backend.simulator import Simulator

NATIVE = Path(engine.__file__).parent / "native"
REPLAY = Path(__file__).with_name("replay.c")
TRIPLE = "aarch64-linux-gnu"
PROGRAMS = 60


def command(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}")
    return path


def run(*arguments: str | Path) -> str:
    done = subprocess.run(
        [str(argument) for argument in arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def write_cases(folder: Path) -> None:
    """Programs, inputs and expected outputs as replay.c reads them."""
    folder.mkdir()
    for number in range(PROGRAMS):
        program = seeded_program(number)
        x = random_input(program, number, 3)
        (folder / f"{number}.program").write_bytes(program_to_bytes(program))
        (folder / f"{number}.input").write_bytes(x.tobytes())
        (folder / f"{number}.output").write_bytes(Simulator(program).run(x).tobytes())


@pytest.mark.full
def test_a_build_for_arm_equals_the_simulator(tmp_path: Path) -> None:
    cmake, c, cpp = command("cmake"), command(f"{TRIPLE}-gcc"), command(f"{TRIPLE}-g++")
    emulator = command("qemu-aarch64")
    build, cases, replay = tmp_path / "build", tmp_path / "cases", tmp_path / "replay"
    run(
        *(cmake, "-S", NATIVE, "-B", build, "-DCMAKE_SYSTEM_NAME=Linux"),
        *("-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={cpp}"),
    )
    run(cmake, "--build", build, "--parallel", "2", "--target", "akida_backend")
    library = build / "libakida_backend.so"
    run(
        *(c, "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE / 'include'}"),
        *(REPLAY, "-o", replay, library, f"-Wl,-rpath,{build}"),
    )
    write_cases(cases)
    printed = run(emulator, "-L", f"/usr/{TRIPLE}", replay, cases, str(PROGRAMS))
    assert printed == f"baseline: {PROGRAMS} of {PROGRAMS} equal"
