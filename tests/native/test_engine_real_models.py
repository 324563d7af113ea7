# SPDX-License-Identifier: Apache-2.0
"""Every program that real models lower to: native engine and simulator give the same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from program_strategies import random_input

from akida_backend.compiler import compile as compile_model
from akida_backend.engine import NativeEngine
from akida_backend.errors import AkidaBackendError
from akida_backend.program import Program
from akida_backend.simulator import Simulator

IN_CI = (
    "mlperf_tiny/mlperf_ad01_int8.tflite",
    "mlperf_tiny/mlperf_kws_ref_int8.tflite",
    "mlperf_tiny/mlperf_resnet8_int8.tflite",
    "mlperf_tiny/mlperf_vww_96_int8.tflite",
    "arm/arm_micronet_vww2_50_50_int8.tflite",
    "coral/coral_mobilenet_v1_0.25_128_quant.tflite",
)


def programs_of(model: Path) -> tuple[Program, ...]:
    """None for models that cannot be read or that stay on the host."""
    try:
        return compile_model(model).programs
    except AkidaBackendError:
        return ()


def assert_same_integers(program: Program, sets: tuple[str, ...], batches: tuple[int, ...]) -> None:
    simulator = Simulator(program)
    for batch in batches:
        x = random_input(program, batch, batch)
        stored, codes = simulator.run(x, raw=True)
        for name in sets:
            for threads in (1, 2):
                native = NativeEngine(program, threads=threads, instruction_set=name)
                got, raw = native.run(x, raw=True)
                where = f"{program.name}, {name}, {threads} threads, batch {batch}"
                np.testing.assert_array_equal(got, stored, err_msg=where)
                np.testing.assert_array_equal(raw, codes, err_msg=where)


@pytest.mark.parametrize("name", IN_CI)
def test_programs_of_known_models_equal_the_simulator(
    name: str, shared: Path, runnable_sets: tuple[str, ...]
) -> None:
    programs = programs_of(shared / "models" / name)
    assert programs
    for program in programs:
        assert_same_integers(program, runnable_sets, (1, 3))


@pytest.mark.full
def test_programs_of_all_models_equal_the_simulator(
    shared: Path, runnable_sets: tuple[str, ...]
) -> None:
    count = 0
    for model in sorted((shared / "models").rglob("*")):
        if model.suffix in (".tflite", ".onnx"):
            for program in programs_of(model):
                assert_same_integers(program, runnable_sets, (1, 3))
                count += 1
    assert count > 30
