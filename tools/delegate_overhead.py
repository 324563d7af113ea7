# SPDX-License-Identifier: Apache-2.0
"""What the TFLite delegate costs beside the programs it runs: per invocation and partition.

    python tools/delegate_overhead.py [--rounds 20]

A chain of small programs runs in a LiteRT interpreter that keeps them apart, one partition each.
The time each further partition adds, less the time the engine takes for one more sample when it
is called directly, is what the runtime and the delegate add.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from tflite import TensorType

import akida_backend as ab
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
from akida_backend.program_format import program_to_bytes
from akida_backend.tflite_records import (
    CUSTOM,
    PROGRAM_OPERATOR,
    FileRecord,
    OperatorRecord,
    TensorRecord,
)

SIDE: Final = 8
CHANNELS: Final = 4
LIMIT: Final = 2.0  # microseconds
FEW, MANY = 1, 65
CALLS: Final = 400
BATCH: Final = 100


def convolution() -> Graph:
    """The smallest layer whose result fits its own input."""
    random = np.random.default_rng(0)
    weights = random.integers(-99, 100, (CHANNELS, 1, 1, CHANNELS)).astype(np.int8)
    shape = (None, SIDE, SIDE, CHANNELS)
    scale = Quantization.per_tensor(0.5)
    tensors = (
        Tensor("x", DType.INT8, shape, scale),
        Tensor("w", DType.INT8, weights.shape, Quantization.per_tensor(0.01), weights),
        Tensor("y", DType.INT8, shape, scale),
    )
    location = Location("chain", 0, "CONV_2D", "y")
    op = Conv2D(location=location, sources=(0,), input="x", weights="w", bias=None, output="y")
    by_name = {tensor.name: tensor for tensor in tensors}
    return Graph("chain", "tflite", "", Arithmetic.TFLITE, by_name, (op,), ("x",), ("y",))


def chain(program: bytes, count: int) -> bytes:
    """A compiled model of `count` programs behind one another."""
    return FileRecord(
        tensors=[
            TensorRecord(
                f"t{i}",
                TensorType.INT8,
                (1, SIDE, SIDE, CHANNELS),
                scale=[0.5],
                zero_point=[0],
            )
            for i in range(count + 1)
        ],
        operators=[
            OperatorRecord(
                CUSTOM, [i], [i + 1], custom_name=PROGRAM_OPERATOR, custom_options=program
            )
            for i in range(count)
        ],
        inputs=[0],
        outputs=[count],
    ).to_bytes()


def interpreter(content: bytes) -> Any:  # noqa: ANN401
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    made = Interpreter(
        model_content=content,
        experimental_delegates=[ab.tflite.load_delegate()],
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        num_threads=1,
    )
    made.allocate_tensors()
    entry = made.get_input_details()[0]
    made.set_tensor(entry["index"], np.ones(entry["shape"], np.int8))
    return made


def microseconds(call: Callable[[], object]) -> float:
    """Of one call, the mean of many."""
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def engine_calls(program: bytes) -> tuple[Callable[[], object], Callable[[], object]]:
    """The engine alone on one sample, and on one more than `BATCH`."""
    library = native_library()
    if library is None:
        raise SystemExit("no native library")
    handle = library.akida_backend_program_load(program, len(program), None)
    context = library.akida_backend_context_create(handle, 1)
    values = np.ones((BATCH + 1, SIDE, SIDE, CHANNELS), np.int8)
    results = np.zeros_like(values)
    run = library.akida_backend_run

    def call(samples: int) -> None:
        run(context, array_address(values), array_address(results), None, samples)

    return lambda: call(1), lambda: call(BATCH + 1)


def main() -> int:
    """Measure, print, and say whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    program = program_to_bytes(ab.compile(convolution()).programs[0])
    few, many = interpreter(chain(program, FEW)), interpreter(chain(program, MANY))
    engine, batched = engine_calls(program)
    partitions, computed, single = [], [], []
    for _ in range(rounds):  # interleaved, so that a slow spell hits all alike
        single.append(microseconds(few.invoke))
        partitions.append((microseconds(many.invoke) - single[-1]) / (MANY - FEW))
        computed.append((microseconds(batched) - microseconds(engine)) / BATCH)
    # The least disturbed quarter.
    partition, compute = (statistics.quantiles(times, n=4)[0] for times in (partitions, computed))
    overhead = partition - compute
    print(f"invocation with one partition  {statistics.quantiles(single, n=4)[0]:8.2f} us")
    print(f"each further partition         {partition:8.2f} us")
    print(f"  of it the engine's program   {compute:8.2f} us")
    print(f"  of it runtime and delegate   {overhead:8.2f} us (at most {LIMIT})")
    return 0 if overhead <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
