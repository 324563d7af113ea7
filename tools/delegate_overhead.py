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
from typing import Any, Final

import numpy as np
from smallest_segment import engine_call, microseconds, smallest_program
from tflite import TensorType

import akida_backend as ab
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


def main() -> int:
    """Measure, print, and say whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    program = program_to_bytes(smallest_program(SIDE, CHANNELS))
    few, many = interpreter(chain(program, FEW)), interpreter(chain(program, MANY))
    engine, batched = (
        engine_call(program, (samples, SIDE, SIDE, CHANNELS)) for samples in (1, BATCH + 1)
    )
    partitions, computed, single = [], [], []
    for _ in range(rounds):  # interleaved, so that a slow spell hits all alike
        single.append(microseconds(few.invoke, CALLS))
        partitions.append((microseconds(many.invoke, CALLS) - single[-1]) / (MANY - FEW))
        computed.append((microseconds(batched, CALLS) - microseconds(engine, CALLS)) / BATCH)
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
