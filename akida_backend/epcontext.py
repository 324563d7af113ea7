# SPDX-License-Identifier: Apache-2.0
"""Compiled ONNX models: device segments as EPContext nodes that carry their programs.

The operator ``com.microsoft::EPContext`` is onnxruntime's own form for compiled parts of a model.
Its ``ep_cache_context`` holds a program's bytes, its ``notes`` what `notes` writes; the native
provider reads both, without Python (native/plugins/onnxruntime_segment.h has the keys).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import helper

import akida_backend
from akida_backend.devices import device as find_device
from akida_backend.errors import ImportModelError
from akida_backend.graph import DType, Shape
from akida_backend.importers.onnx_file import parse
from akida_backend.program import Program
from akida_backend.program_format import content_hash, program_to_bytes
from akida_backend.sample_view import SampleView

PROVIDER: Final = "AkidaExecutionProvider"
NODE_TYPE: Final = "EPContext"
DOMAIN: Final = "com.microsoft"
FORMAT: Final = 1  # of the notes


@dataclass(frozen=True, slots=True)
class Boundary:
    """One end of a device segment as the model's file has it.

    Attributes:
        value: Name in the file.
        shape: In the file, batch first, None where any batch fits.
        transposed: Rows and columns of a sample, of the matrix that is transposed: the file's at
            an input, the program's at an output. None where both have the same order.
        view: At an input, where more than a transposition lies between: how its samples become
            the program's.
        real: Scale and zero point of an input that the file has dequantized already.
    """

    value: str
    shape: Shape
    transposed: tuple[int, int] | None = None
    view: SampleView | None = None
    real: tuple[float, int] | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A device segment ready to stand in a model's file.

    Attributes:
        program: What the device executes.
        source_sha256: Of the model it was compiled from, hexadecimal.
        input: Where its input comes from.
        output: Where its output goes.
    """

    program: Program
    source_sha256: str
    input: Boundary
    output: Boundary

    def payload(self) -> tuple[bytes, str]:
        """The program's bytes and the notes about them."""
        data = program_to_bytes(self.program)
        return data, self._notes(content_hash(data))

    def node(self, name: str) -> onnx.NodeProto:
        """The EPContext node."""
        data, notes = self.payload()
        return helper.make_node(
            NODE_TYPE,
            [self.input.value],
            [self.output.value],
            name=name,
            domain=DOMAIN,
            main_context=1,
            embed_mode=1,
            ep_cache_context=data,
            source=PROVIDER,
            ep_sdk_version=tool(),
            hardware_architecture=self.program.device,
            partition_name=name,
            notes=notes,
        )

    def output_type(self) -> int:
        """Element type of the output, as TensorProto numbers it."""
        return _ELEMENT_TYPES[self.program.output.dtype]

    def _notes(self, program_sha256: str) -> str:
        device = find_device(self.program.device)
        real = self.input.real
        return json.dumps(
            {
                "format": FORMAT,
                "tool": tool(),
                "devices": [name for name in (device.name, device.metatf_name) if name],
                "source_sha256": self.source_sha256,
                "program_sha256": program_sha256,
                "input": self.input.value,
                "output": self.output.value,
                "input_transposed": list(self.input.transposed or ()),
                "input_view": [] if self.input.view is None else self.input.view.numbers(),
                "output_transposed": list(self.output.transposed or ()),
                "output_shape": [-1, *self.output.shape[1:]],
                "input_real": [] if real is None else [_bits(real[0]), real[1]],
            },
            ensure_ascii=False,
        )


_ELEMENT_TYPES: Final = {
    DType.INT8: onnx.TensorProto.INT8,
    DType.UINT8: onnx.TensorProto.UINT8,
    DType.INT16: onnx.TensorProto.INT16,
    DType.UINT16: onnx.TensorProto.UINT16,
    DType.INT32: onnx.TensorProto.INT32,
}


def refuse_compiled(content: bytes, label: str) -> None:
    """Say of a compiled model what it is; pass others.

    Raises:
        ImportModelError: It has EPContext nodes of this package, or is damaged.
    """
    model = parse(content, label)
    for node in model.graph.node:
        texts = {each.name: each.s.decode(errors="replace") for each in node.attribute}
        if node.op_type == NODE_TYPE and texts.get("source") == PROVIDER:
            known = {entry.key: entry.value for entry in model.metadata_props}
            source = known.get(f"{PROVIDER}.source_sha256")
            origin = f", from the model with SHA-256 {source}" if source else ""
            raise ImportModelError(
                label,
                f"is a compiled model: by {texts.get('ep_sdk_version')} for "
                f"{texts.get('hardware_architecture')}{origin}",
                remedy="Run it with akida_backend.onnxruntime.create_session, or give the model "
                "it was compiled from.",
            )


def tool() -> str:
    """Tool and version, as compiled models record it."""
    return f"akida-backend {akida_backend.__version__}"


def _bits(scale: float) -> int:
    """Of a float32."""
    return int(np.float32(scale).view(np.uint32))
