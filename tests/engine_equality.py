# SPDX-License-Identifier: Apache-2.0
"""Comparison of the native engine with the simulator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from program_strategies import random_input

from akida_backend.engine import NativeEngine
from akida_backend.program import Program
from akida_backend.simulator import Simulator

BATCHES = (1, 3, 32)


def assert_same(got: NDArray[np.generic], expected: NDArray[np.generic], where: str) -> None:
    assert got.dtype == expected.dtype, where
    np.testing.assert_array_equal(got, expected, err_msg=where)


def assert_equals_the_simulator(
    program: Program, sets: tuple[str, ...], *, seed: int = 0, batches: tuple[int, ...] = BATCHES
) -> None:
    simulator = Simulator(program)
    inputs = [random_input(program, seed, batch) for batch in batches]
    expected = [simulator.run(x, raw=True) for x in inputs]
    for name in sets:
        for threads in (1, 2):
            engine = NativeEngine(program, threads=threads, instruction_set=name)
            for x, (stored, codes) in zip(inputs, expected, strict=True):
                where = f"{name}, {threads} threads, batch {len(x)}"
                got, raw = engine.run(x, raw=True)
                assert_same(got, stored, where)
                assert_same(raw, codes, where)
                assert_same(engine.run(x), stored, where)
