# SPDX-License-Identifier: Apache-2.0
"""What entering and leaving a device segment costs in an onnxruntime session.

    python tools/benchmark_boundary.py [--rounds 20] [--json FILE]

Compiled models with 1 and 65 small programs behind one another run with bound inputs and outputs;
the difference, over 64, is the cost of one partition. The same with no samples at all is that of
an empty partition: onnxruntime calls the provider, which asks for its tensors and returns. The
engine's own time for a sample is measured without onnxruntime. What is left is the boundary's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper
from smallest_segment import engine_call, microseconds, smallest_program

from akida_backend import onnxruntime as provider
from akida_backend.epcontext import DOMAIN, Boundary, Compiled
from akida_backend.program import Program
from akida_backend.program_format import program_to_bytes

SIDE: Final = 4
CHANNELS: Final = 4
FEW, MANY = 1, 65
CALLS: Final = 300
BATCH: Final = 64
LIMIT: Final = 1.0  # microseconds


def chain(program: Program, count: int, *, transposed: bool) -> bytes:
    """A compiled model of `count` programs, NCHW between them or as the program has it."""
    inner = (None, CHANNELS, SIDE, SIDE) if transposed else (None, SIDE, SIDE, CHANNELS)
    into = (CHANNELS, SIDE * SIDE) if transposed else None
    out = (SIDE * SIDE, CHANNELS) if transposed else None
    nodes = [
        Compiled(
            program, "", Boundary(f"t{i}", inner, into), Boundary(f"t{i + 1}", inner, out)
        ).node(f"program{i}")
        for i in range(count)
    ]
    values = [
        helper.make_tensor_value_info(f"t{i}", TensorProto.INT8, ["N", *inner[1:]])
        for i in range(count + 1)
    ]
    graph = helper.make_graph(nodes, "chain", values[:1], values[-1:], value_info=values[1:-1])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def bound_run(data: bytes, samples: int) -> Callable[[], object]:
    """A run of a session whose input and output have their places."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = provider.create_session(data, sess_options=settings)
    (entry,), (end,) = session.get_inputs(), session.get_outputs()
    shape = [samples, *entry.shape[1:]]
    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones(shape, np.int8))
    binding.bind_ortvalue_input(entry.name, x)
    y = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.int8))
    binding.bind_ortvalue_output(end.name, y)

    def run(_: object = (x, y)) -> None:  # which the binding alone would not keep
        session.run_with_iobinding(binding)

    return run


def measure(rounds: int) -> dict[str, float]:
    """Microseconds of each part, the least disturbed quarter of rounds."""
    program = smallest_program(SIDE, CHANNELS)
    layouts = {"": False, "transposed_": True}
    runs = {
        (name, samples): [
            bound_run(chain(program, count, transposed=transposed), samples)
            for count in (FEW, MANY)
        ]
        for name, transposed in layouts.items()
        for samples in (0, 1)
    }
    data = program_to_bytes(program)
    engine = [engine_call(data, (n, SIDE, SIDE, CHANNELS)) for n in (1, BATCH + 1)]
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for (name, samples), (few, many) in runs.items():
            key = f"{name}{'partition' if samples else 'empty_partition'}"
            slope = (microseconds(many, CALLS) - microseconds(few, CALLS)) / (MANY - FEW)
            found.setdefault(key, []).append(slope)
        one, more = (microseconds(call, CALLS) for call in engine)
        found.setdefault("engine", []).append((more - one) / BATCH)
    quarter = {key: statistics.quantiles(values, n=4)[0] for key, values in found.items()}
    for name in layouts:
        empty = quarter[f"{name}empty_partition"]
        quarter[f"{name}boundary"] = quarter[f"{name}partition"] - empty - quarter["engine"]
    return quarter


def main() -> int:
    """Measure, print, and say whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.rounds)
    import onnxruntime

    result: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__,
        "microseconds": {key: round(value, 3) for key, value in found.items()},
        "limit": LIMIT,
        "holds": found["boundary"] <= LIMIT,
    }
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    print(f"onnxruntime {result['onnxruntime']}, microseconds per partition")
    for name, title in (("", "as the program has it"), ("transposed_", "NCHW outside")):
        print(f"  {title}: {found[name + 'partition']:.2f}")
        print(f"    an empty partition    {found[name + 'empty_partition']:6.2f}")
        print(f"    the engine's program  {found['engine']:6.2f}")
        print(f"    the boundary          {found[name + 'boundary']:6.2f}")
    print(f"limit of the boundary: {LIMIT}; {'holds' if result['holds'] else 'MISSED'}")
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
