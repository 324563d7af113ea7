# SPDX-License-Identifier: Apache-2.0
"""Compiled TFLite models: device segments as custom operators that carry their programs.

The operator ``akida-program`` has one input and one output; its custom options are the program's
bytes. The delegate of `akida_backend.tflite` runs it, without Python and without a compiler.
"""

from __future__ import annotations

from akida_backend.errors import InputError
from akida_backend.graph import Operation
from akida_backend.plan import DeviceSegment, HostSegment, Plan
from akida_backend.program import Program
from akida_backend.tflite_writer import write_tflite


def compiled_tflite(plan: Plan) -> bytes:
    """A TFLite file of the plan; the runtime's own kernels execute its host segments.

    Raises:
        InputError: The plan is of an ONNX model, or a host operation has no TFLite form.
    """
    if plan.graph.format != "tflite":
        raise InputError(
            f"plan of {plan.graph.name}: host operations of an {plan.graph.format.upper()} model "
            "have no equal in a .tflite file\n  Save it as .akp or .onnx."
        )
    steps: list[Operation | Program] = []
    for segment in plan.segments:
        match segment:
            case HostSegment(operations=operations):
                steps += operations
            case DeviceSegment(program=program):
                steps.append(program)
    return write_tflite(plan.legalised, steps)
