# SPDX-License-Identifier: Apache-2.0
"""What the tools share that measure the way in and out of a device segment."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from akida_backend.compiler import compile as compile_model
from akida_backend.engine import array_address, native_library
from akida_backend.graph import (
    Arithmetic,
    Conv2D,
    DType,
    Graph,
    Location,
    Quantization,
    Tensor,
)
from akida_backend.program import Program


def smallest_program(side: int, channels: int) -> Program:
    """One layer whose result fits its own input, (side, side, channels)."""
    random = np.random.default_rng(0)
    weights = random.integers(-99, 100, (channels, 1, 1, channels)).astype(np.int8)
    shape = (None, side, side, channels)
    scale = Quantization.per_tensor(0.5)
    tensors = (
        Tensor("x", DType.INT8, shape, scale),
        Tensor("w", DType.INT8, weights.shape, Quantization.per_tensor(0.01), weights),
        Tensor("y", DType.INT8, shape, scale),
    )
    location = Location("chain", 0, "CONV_2D", "y")
    op = Conv2D(location=location, sources=(0,), input="x", weights="w", bias=None, output="y")
    by_name = {tensor.name: tensor for tensor in tensors}
    graph = Graph("chain", "tflite", "", Arithmetic.TFLITE, by_name, (op,), ("x",), ("y",))
    return compile_model(graph).programs[0]


def engine_call(program: bytes, shape: tuple[int, ...]) -> Callable[[], object]:
    """The engine alone, on samples of that shape (the number of samples first)."""
    library = native_library()
    if library is None:
        raise SystemExit("no native library")
    handle = library.akida_backend_program_load(program, len(program), None)
    context = library.akida_backend_context_create(handle, 1)
    values = np.ones(shape, np.int8)
    results = np.zeros_like(values)
    run = library.akida_backend_run
    return lambda: run(context, array_address(values), array_address(results), None, len(values))


def microseconds(call: Callable[[], object], calls: int) -> float:
    """Of one call, the mean of many."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6
