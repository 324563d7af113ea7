# SPDX-License-Identifier: Apache-2.0
"""Compare the reference executor with onnxruntime's CPU kernels, model by model.

    python tools/write_onnx_proof.py MODELS [-o reports/onnx_import_proof.md] [--samples 4]

MODELS are .onnx files or folders of them (by default the folder in AKIDA_BACKEND_MODELS). The
table has one row per model: whether all outputs are equal on seeded random inputs, with
onnxruntime's optimisations (QDQ operators become integer kernels) and without (they run in
float32 as written), and the cause where they are not. Opaque operators run in onnxruntime, one by
one. Axes that a model leaves open get small lengths.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from model_files import model_files

from akida_backend.errors import (
    AkidaBackendError,
    ImportModelError,
    UnsupportedOperationError,
)
from akida_backend.execute import run_source
from akida_backend.graph import (
    AnyArray,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    Opaque,
    Quantize,
    Tensor,
    TransposeConv2D,
)
from akida_backend.loading import load
from akida_backend.writing import write_text

MODULE: Final = "onnxruntime"

_OPEN_LENGTH: Final = 4
_IMAGE_LENGTH: Final = 8
_SUMS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool", "Softmax"})


def is_installed() -> bool:
    return importlib.util.find_spec(MODULE) is not None


class CpuKernels:
    """An ONNX model in onnxruntime's CPU kernels, one thread.

    Args:
        model: Path, so that data beside it is found, or content.
        optimised: With all graph optimisations, or none.
    """

    def __init__(self, model: Path | bytes, *, optimised: bool) -> None:
        module: Any = importlib.import_module(MODULE)
        options = module.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        levels = module.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        )
        self._session: Any = module.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
        self.version: str = module.__version__

    def run(self, feeds: Mapping[str, AnyArray], outputs: Sequence[str]) -> list[AnyArray]:
        results: list[AnyArray] = self._session.run(list(outputs), dict(feeds))
        return results


@dataclass(frozen=True, slots=True)
class Comparison:
    """Outputs of one model against one form of the runtime.

    Attributes:
        equal: Whether all values are equal; None if nothing could be compared.
        values: Values compared.
        different: Those that differ.
        largest: Largest absolute difference.
        problem: Why nothing could be compared.
    """

    equal: bool | None
    values: int = 0
    different: int = 0
    largest: float = 0.0
    problem: str = ""

    def __str__(self) -> str:
        if self.equal is None:
            return "not compared"
        return (
            "yes"
            if self.equal
            else f"{self.different} of {self.values} by up to {self.largest:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Proof:
    """Outcome for one model; `cause` is empty where both comparisons are equal."""

    model: str
    optimised: Comparison
    as_written: Comparison
    opaque: tuple[str, ...] = ()
    cause: str = ""

    @property
    def unexplained(self) -> bool:
        different = self.optimised.equal is False or self.as_written.equal is False
        return different and not self.cause


def prove(path: Path, *, samples: int = 4, seed: int = 0) -> Proof:
    """Run a model both ways on random inputs."""
    try:
        graph = load_sized(path)
    except AkidaBackendError as error:
        nothing = Comparison(None, problem="refused")
        return Proof(path.name, nothing, nothing, cause=f"refused: {error}".splitlines()[0])
    feeds = list(random_feeds(graph, samples, seed))
    try:
        found = [run_source(graph, one) for one in feeds]
    except UnsupportedOperationError as error:
        nothing = Comparison(None, problem=str(error).splitlines()[-1].strip()[:120])
        return Proof(path.name, nothing, nothing, cause=nothing.problem)
    optimised, as_written = (
        compare(path, graph, feeds, found, optimised=optimised) for optimised in (True, False)
    )
    opaque = sorted({op.location.type for op in graph.operations if isinstance(op, Opaque)})
    cause = expected_cause(graph, optimised, as_written)
    return Proof(path.name, optimised, as_written, tuple(opaque), cause)


def load_sized(path: Path) -> Graph:
    """A model; axes left open get small lengths."""
    try:
        return load(path, name=path.name)
    except ImportModelError as error:
        if "no fixed length" not in error.problem:
            raise
    model = onnx.load(path, load_external_data=False)
    names = {
        dim.dim_param
        for info in model.graph.input
        for dim in info.type.tensor_type.shape.dim
        if dim.dim_param
    }
    lengths = dict.fromkeys(names, _OPEN_LENGTH)
    for name in names:
        if name in ("height", "width"):
            lengths[name] = _IMAGE_LENGTH
        elif name.startswith("unk"):
            lengths[name] = 1
    return load(path, name=path.name, dimensions=lengths)


def compare(
    path: Path,
    graph: Graph,
    feeds: Sequence[Mapping[str, AnyArray]],
    found: Sequence[Mapping[str, AnyArray]],
    *,
    optimised: bool,
) -> Comparison:
    try:
        kernels = CpuKernels(path, optimised=optimised)
    except Exception as error:  # the runtime's own errors have no common base
        problem = f"onnxruntime refuses it: {str(error).splitlines()[0][:120]}"
        return Comparison(None, problem=problem)
    values = different = 0
    largest = 0.0
    for one, mine in zip(feeds, found, strict=True):
        expected = kernels.run(one, graph.outputs)
        for name, theirs in zip(graph.outputs, expected, strict=True):
            wrong = ~((mine[name] == theirs) | (np.isnan(mine[name]) & np.isnan(theirs)))
            wide = np.subtract(mine[name], theirs, dtype=np.float64)
            values += wrong.size
            different += int(wrong.sum())
            largest = max(largest, float(np.abs(wide[wrong]).max(initial=0.0)))
    return Comparison(different == 0, values, different, largest)


def expected_cause(graph: Graph, optimised: Comparison, as_written: Comparison) -> str:
    """Why the runtime may compute other values than the executor; empty where it does not."""
    if optimised.problem:
        return optimised.problem
    if optimised.equal and as_written.equal:
        return ""
    floats = {op.location.type for op in graph.operations if isinstance(op, Opaque)} & _SUMS
    if floats:
        kinds = ", ".join(sorted(floats))
        return f"float {kinds}: the order of summation depends on what is optimised around it"
    if any(t.dtype is DType.FLOAT16 for t in graph.tensors.values()):
        return "float16: onnxruntime fuses the operators and rounds once"
    weighted = (Conv2D, DepthwiseConv2D, TransposeConv2D, FullyConnected)
    between_reals = [
        op
        for op in graph.operations
        if isinstance(op, weighted) and not op.location.type.startswith("Q")
    ]
    if any(graph.tensors[op.weights].dtype in (DType.INT4, DType.UINT4) for op in between_reals):
        return "4-bit weights: onnxruntime sums them in float32"
    if optimised.equal and between_reals:
        return "without optimisation QDQ operators run in float32"
    return ""


def random_feeds(graph: Graph, samples: int, seed: int) -> Iterator[dict[str, AnyArray]]:
    """Feeds of batch one (or of the graph's own batch)."""
    random = np.random.default_rng(seed)
    for _ in range(samples):
        yield {name: _random_values(graph, graph.tensors[name], random) for name in graph.inputs}


def _random_values(graph: Graph, tensor: Tensor, random: np.random.Generator) -> AnyArray:
    shape = [1 if n is None else n for n in tensor.shape]
    if tensor.dtype.is_float:
        low, high = -1.0, 1.0
        for op in graph.consumers[tensor.name]:
            if isinstance(op, Quantize):
                low, high = graph.tensors[op.output].real_range
        if tensor.values_per_sample == 1:
            low = 0.0  # a scale
        return random.uniform(low, high, shape).astype(tensor.dtype.numpy)
    if tensor.dtype is DType.BOOL:
        return random.integers(0, 2, shape).astype(np.bool_)
    low_code, high_code = (
        tensor.dtype.code_range if tensor.dtype in (DType.INT8, DType.UINT8) else (0, 3)
    )
    return random.integers(low_code, high_code + 1, shape).astype(tensor.dtype.numpy)


def table(proofs: Sequence[Proof], version: str, samples: int) -> str:
    """The proofs as Markdown."""
    lines = [
        f"Outputs against the CPU kernels of onnxruntime {version}, {samples} seeded random "
        "samples per model: values that differ, of all.",
        "",
        "| model | equal, optimised | equal, as written | opaque operators | cause |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {p.model} | {p.optimised} | {p.as_written} | {', '.join(p.opaque)} | {p.cause} |"
        for p in proofs
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    folder = os.environ.get("AKIDA_BACKEND_MODELS")
    parser.add_argument(
        "models", type=Path, nargs="*" if folder else "+", default=[Path(folder or ".")]
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/onnx_import_proof.md"))
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    if not is_installed():
        print("no runtime to compare with: pip install onnxruntime", file=sys.stderr)
        return 2
    version = str(importlib.import_module(MODULE).__version__)
    proofs = [prove(path, samples=options.samples) for path in model_files(options.models, ".onnx")]
    write_text(options.output, table(proofs, version, options.samples))
    unexplained = [proof.model for proof in proofs if proof.unexplained]
    for model in unexplained:
        print(f"{model}: differs without a known cause")
    print(f"{len(proofs)} models, table in {options.output}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
