# SPDX-License-Identifier: Apache-2.0
"""Full INT8 model of a float one: TFLite by the ai-edge-quantizer package, ONNX by onnxruntime.

pip install ai-edge-quantizer
python -m akida_backend.quantize MODEL.tflite --data SAMPLES.npz -o MODEL_int8.tflite

pip install onnxruntime
python -m akida_backend.quantize MODEL.onnx --data SAMPLES.npz -o MODEL_int8.onnx
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from akida_backend.calibration_data import read_samples
from akida_backend.errors import AkidaBackendError, InputError
from akida_backend.graph import AnyArray, DType, Graph
from akida_backend.loading import load
from akida_backend.writing import replacing, spare

_SIGNATURE: Final = "serving_default"


def quantize(model: Path, data: Path, limit: int = 64) -> bytes:
    """The model with int8 activations and weights, scales chosen on samples.

    Args:
        model: Float TFLite or ONNX model.
        data: Float32 samples of its inputs, .npz or .npy.
        limit: Samples used, the first ones.

    Raises:
        InputError: The package is missing, the model is not float, or the data does not fit.
    """
    graph = load(model)
    for name in graph.inputs:
        if graph.tensors[name].dtype is not DType.FLOAT32:
            raise InputError(
                f"{model}: input '{name}' is {graph.tensors[name].dtype.value}, not float32\n"
                "  give the float model"
            )
    feeds = read_samples(graph, data).part(0, limit).feeds
    if graph.format == "onnx":
        return _quantized_onnx(model, feeds)
    try:
        quantizer = importlib.import_module("ai_edge_quantizer.quantizer")
        recipe = importlib.import_module("ai_edge_quantizer.recipe")
    except ImportError as error:
        raise InputError(
            f"ai-edge-quantizer is needed ({error})\n  install it: pip install ai-edge-quantizer"
        ) from None
    content, names = _with_signature(graph)
    try:
        work = quantizer.Quantizer(content, recipe.static_wi8_ai8())
        samples = [{names[n]: values for n, values in one.items()} for one in _singly(feeds)]
        result = work.quantize(work.calibrate({_SIGNATURE: samples}), enable_progress_report=False)
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"{model}: ai-edge-quantizer cannot quantize it: {error}") from error
    return bytes(result.quantized_model)


class _Reader:
    """Samples one by one, as onnxruntime's calibration asks for them."""

    def __init__(self, feeds: Mapping[str, AnyArray]) -> None:
        self._rest = iter(_singly(feeds))

    def get_next(self) -> dict[str, AnyArray] | None:
        return next(self._rest, None)


def _quantized_onnx(model: Path, feeds: Mapping[str, AnyArray]) -> bytes:
    try:
        quantization: Any = importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        raise InputError(
            f"onnxruntime is needed ({error})\n  install it: pip install onnxruntime"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "int8.onnx"
        try:
            quantization.quantize_static(str(model), str(made), _Reader(feeds))
        except Exception as error:  # of its own, of onnx and of onnxruntime
            raise InputError(f"{model}: onnxruntime cannot quantize it: {error}") from error
        return made.read_bytes()


def _singly(feeds: Mapping[str, AnyArray]) -> list[dict[str, AnyArray]]:
    count = len(next(iter(feeds.values())))
    return [{name: values[i : i + 1] for name, values in feeds.items()} for i in range(count)]


def _with_signature(graph: Graph) -> tuple[bytes, Mapping[str, str]]:
    """The model with one signature over all its inputs, and the names the inputs have there.

    The quantizer reads inputs and outputs through signatures, which older files lack.
    """
    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
    flatbuffers: Any = importlib.import_module("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(graph.source, 0)
    subgraph = model.subgraphs[0]

    def maps(tensors: list[int], side: str) -> list[Any]:
        made = []
        for position, tensor in enumerate(tensors):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = f"{side}_{position}", tensor
            made.append(entry)
        return made

    signature = schema.SignatureDefT()
    signature.signatureKey = _SIGNATURE
    signature.subgraphIndex = 0
    signature.inputs = maps(list(subgraph.inputs), "input")
    signature.outputs = maps(list(subgraph.outputs), "output")
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(len(graph.source) + 1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    names = {name: f"input_{position}" for position, name in enumerate(graph.inputs)}
    return bytes(builder.Output()), names


def main() -> int:
    """Quantize one file; exit code 0 or 2."""
    parser = argparse.ArgumentParser(
        prog="python -m akida_backend.quantize",
        description="Make a full INT8 model of a float one (TFLite: needs ai-edge-quantizer; "
        "ONNX: needs onnxruntime).",
    )
    parser.add_argument("model", type=Path, help="float .tflite or .onnx file")
    parser.add_argument("--data", type=Path, required=True, help="float32 samples, .npz or .npy")
    parser.add_argument("--limit", type=int, default=64, help="samples used (default: 64)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write")
    given = parser.parse_args()
    try:
        spare(given.out, [given.model, given.data])
        quantized = quantize(given.model, given.data, given.limit)
        with replacing(given.out) as file:
            file.write(quantized)
    except AkidaBackendError as error:
        sys.stderr.write(f"akida_backend.quantize: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
