# SPDX-License-Identifier: Apache-2.0
"""One network in three files: TFLite, ONNX QDQ and ONNX QOperator.

    python tools/write_twins.py MODEL... -o FOLDER [--form qdq] [--interface nchw]

The three compute the same network, each in its runtime's arithmetic, and compile to the same
device programs. MODEL is a TFLite or ONNX file; one with an operator that a format cannot say is
refused, and the operator named. ONNX files take and give images as the model does, NHWC, through
a Transpose; `--interface nchw` leaves that out. Borders that TFLite has no padding for are an
operator of their own in all three.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from akida_backend.errors import AkidaBackendError
from akida_backend.graph import (
    NO_PADS,
    ONE,
    Conv2D,
    DepthwiseConv2D,
    Graph,
    MaxPool2D,
    Operation,
    Pad,
    Size2D,
    Tensor,
)
from akida_backend.loading import load
from akida_backend.onnx_writer import Interface, OnnxForm, write_onnx
from akida_backend.tflite_writer import same_pads, write_tflite
from akida_backend.writing import spare

TFLITE: Final = "tflite"
FORMS: Final = (TFLITE, *(form.value for form in OnnxForm))


def with_sayable_borders(graph: Graph) -> Graph:
    """Convolutions and max pools whose pads TFLite cannot say behind a Pad and without pads."""
    tensors: dict[str, Tensor] = {}
    operations: list[Operation] = []
    for op in graph.operations:
        match op:
            case Conv2D() | DepthwiseConv2D() | MaxPool2D() if not _is_sayable(op, graph):
                source = graph.tensors[op.input]
                name = graph.unused_name(f"{op.output}/bordered")
                batch, height, width, channels = source.shape
                rows, columns = (op.pads.top, op.pads.bottom), (op.pads.left, op.pads.right)
                shape = (batch, (height or 0) + sum(rows), (width or 0) + sum(columns), channels)
                tensors[name] = dataclasses.replace(source, name=name, shape=shape)
                border = Pad(
                    location=op.location,
                    sources=(),
                    input=op.input,
                    output=name,
                    amounts=((0, 0), rows, columns, (0, 0)),
                    value=source.dtype.code_range[0] if isinstance(op, MaxPool2D) else None,
                )
                operations += [border, dataclasses.replace(op, input=name, pads=NO_PADS)]
            case _:
                operations.append(op)
    return graph.with_changes(operations=tuple(operations), add_tensors=tensors)


def _is_sayable(op: Conv2D | DepthwiseConv2D | MaxPool2D, graph: Graph) -> bool:
    source = graph.tensors[op.input]
    _, height, width, _ = source.shape
    match op:
        case MaxPool2D(window=window):
            dilation = ONE
        case Conv2D(dilation=dilation) | DepthwiseConv2D(dilation=dilation):
            _, rows, columns, _ = graph.tensors[op.weights].shape
            window = Size2D(rows or 0, columns or 0)
    same = same_pads(Size2D(height or 0, width or 0), window, op.stride, dilation)
    return op.pads in (NO_PADS, same) or not source.is_quantized


def twin(graph: Graph, form: str, interface: Interface = Interface.CHANNELS_LAST) -> bytes:
    """The graph as a file of a form.

    Raises:
        InputError: An operation has no such form.
    """
    if form == TFLITE:
        return write_tflite(graph)
    return write_onnx(graph, OnnxForm(form), interface=interface)


def write_twins(
    model: Path, folder: Path, forms: Sequence[str], interface: Interface
) -> list[Path]:
    """Write the twins of one model and return their paths.

    Raises:
        AkidaBackendError: The model cannot be read, has no such form, or would be written over.
    """
    graph = with_sayable_borders(load(model))
    contents: dict[Path, bytes] = {}
    for form in forms:
        ending = TFLITE if form == TFLITE else f"{form}.onnx"
        path = folder / f"{model.stem}.{ending}"
        spare(path, [model])
        contents[path] = twin(graph, form, interface)
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        path.write_bytes(content)
    return list(contents)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--form", action="append", choices=FORMS, help="only this one; repeatable")
    parser.add_argument(
        "--interface",
        choices=[interface.value for interface in Interface],
        default=Interface.CHANNELS_LAST.value,
        help="axes of the ONNX files' images: %(choices)s",
    )
    given = parser.parse_args(arguments)
    interface = Interface(given.interface)
    refused = 0
    for model in given.models:
        try:
            for path in write_twins(model, given.output, given.form or FORMS, interface):
                print(path)
        except AkidaBackendError as error:
            refused = 2
            print(error, file=sys.stderr)
    return refused


if __name__ == "__main__":
    sys.exit(main())
