# SPDX-License-Identifier: Apache-2.0
"""Calls on arrays that are bound once: `NativeEngine.bind`."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from program_samples import sound
from program_strategies import random_input

from akida_backend.engine import NativeEngine
from akida_backend.errors import InputError
from akida_backend.program import Program
from akida_backend.simulator import Simulator


@pytest.fixture
def program(runnable_sets: tuple[str, ...]) -> Program:
    assert runnable_sets
    return sound()


@pytest.mark.parametrize("samples", [1, 5])
def test_a_bound_call_computes_the_same_again(program: Program, samples: int) -> None:
    x = random_input(program, 0, samples)
    expected = Simulator(program).run(x)
    call, stored = NativeEngine(program).bind(x)
    assert np.array_equal(stored, expected)
    x[...] = 0  # a copy has been bound
    stored[...] = 0
    assert call() == 0
    assert np.array_equal(stored, expected)


def test_a_bound_call_keeps_what_it_needs(program: Program) -> None:
    x = random_input(program, 0, 2)
    expected = Simulator(program).run(x)
    call, stored = NativeEngine(program).bind(x[:, ::1])
    gc.collect()
    stored[...] = 0
    call()
    assert np.array_equal(stored, expected)


def test_arrays_that_do_not_fit_are_not_bound(program: Program) -> None:
    engine = NativeEngine(program)
    x = random_input(program, 0, 2)
    with pytest.raises(InputError, match="input 'x' of program 'p': needs uint8 of shape"):
        engine.bind(x.astype(np.int16))
    with pytest.raises(InputError, match="needs samples"):
        engine.bind(x[:0])
