# SPDX-License-Identifier: Apache-2.0
"""Compare the reference executor with a runtime's reference kernels, model by model.

    python tools/write_import_proof.py MODELS [-o reports/import_proof.md] [--samples 4]

MODELS are .tflite files or folders of them (by default the folder in AKIDA_BACKEND_MODELS). The
table has one row per model: whether all outputs are equal on seeded random inputs, and the cause
where they are not. The runtime is ai-edge-litert, or tflite-runtime 2.14 where only that is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from model_files import model_files

from akida_backend.errors import AkidaBackendError
from akida_backend.graph import (
    AnyArray,
    Arithmetic,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Gather,
    Graph,
    Opaque,
    Quantize,
    Tensor,
    TransposeConv2D,
)
from akida_backend.loading import load
from akida_backend.reference import run_graph
from akida_backend.writing import write_text

PACKAGES: Final = {
    Arithmetic.TFLITE: "ai_edge_litert",
    Arithmetic.TFLITE_2_14: "tflite_runtime",
}


def is_installed(arithmetic: Arithmetic) -> bool:
    return importlib.util.find_spec(PACKAGES[arithmetic]) is not None


class ReferenceKernels:
    """A TFLite model in a runtime's reference kernels, one thread.

    Args:
        content: A well-formed model file: malformed ones can end the process.
        arithmetic: Names the runtime.
        keep: Return all tensors, not only the outputs.
    """

    def __init__(self, content: bytes, arithmetic: Arithmetic, *, keep: bool = False) -> None:
        module = importlib.import_module(f"{PACKAGES[arithmetic]}.interpreter")
        self._interpreter: Any = module.Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=keep,
        )
        self._interpreter.allocate_tensors()
        self._keep = keep

    def run_once(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Outputs by name, of feeds in the shapes of the file."""
        for detail in self._interpreter.get_input_details():
            values = feeds[detail["name"]]
            self._interpreter.set_tensor(detail["index"], values.reshape(detail["shape"]))
        self._interpreter.invoke()
        if not self._keep:
            details = self._interpreter.get_output_details()
            return {d["name"]: self._interpreter.get_tensor(d["index"]) for d in details}
        found: dict[str, AnyArray] = {}
        for detail in self._interpreter.get_tensor_details():
            try:
                found[detail["name"]] = self._interpreter.get_tensor(detail["index"])
            except ValueError:  # a scratch tensor without values
                continue
        return found

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """As `run_once`, for each sample of a file of batch one."""
        samples = len(next(iter(feeds.values())))
        rows = [
            self.run_once({name: values[i : i + 1] for name, values in feeds.items()})
            for i in range(samples)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True, slots=True)
class Proof:
    """Outcome for one model.

    Attributes:
        model: File name.
        equal: Whether all outputs are equal bit for bit; None if nothing could be compared.
        difference: Largest absolute difference of an output.
        cause: Why equality cannot be expected; empty where it must hold.
        first: The first operation whose result differs, and by how much.
    """

    model: str
    equal: bool | None
    difference: float = 0.0
    cause: str = ""
    first: str = ""


def prove(path: Path, arithmetic: Arithmetic, *, samples: int = 4, seed: int = 0) -> Proof:
    """Run a model both ways on random inputs."""
    try:
        graph = dataclasses.replace(load(path, name=path.name), arithmetic=arithmetic)
    except AkidaBackendError as error:
        return Proof(path.name, None, cause=f"refused: {error}".splitlines()[0])
    cause = expected_cause(graph)
    if any(isinstance(op, Opaque) for op in graph.operations):
        return Proof(path.name, None, cause=cause)
    try:
        kernels = ReferenceKernels(path.read_bytes(), arithmetic)
    except (RuntimeError, ValueError) as error:
        return Proof(path.name, None, cause=f"the runtime refuses it: {error}".splitlines()[0])
    difference, equal = 0.0, True
    for feeds in random_feeds(graph, samples, seed):
        expected, found = kernels.run_once(feeds), run_graph(graph, feeds)
        for name in graph.outputs:
            equal &= np.array_equal(found[name].reshape(-1), expected[name].reshape(-1))
            difference = max(difference, _difference(found[name], expected[name]))
    first = "" if equal else first_difference(path, graph, seed)
    return Proof(path.name, equal, difference, "" if equal else cause, first)


def expected_cause(graph: Graph) -> str:
    """Why the runtime may compute other values than the executor; empty for integer graphs."""
    opaque = sorted({op.location.type for op in graph.operations if isinstance(op, Opaque)})
    if opaque:
        return f"not modelled: {', '.join(opaque)}"
    weighted = (Conv2D, DepthwiseConv2D, TransposeConv2D, FullyConnected)
    tensors = graph.tensors
    float_sums = [
        op
        for op in graph.operations
        if isinstance(op, weighted) and tensors[op.input].dtype.is_float
    ]
    if any(not tensors[op.weights].dtype.is_float for op in float_sums):
        return "dynamic range: the runtime quantizes activations while it runs"
    return "float: the runtime adds in another order" if float_sums else ""


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
        return random.uniform(low, high, shape).astype(tensor.dtype.numpy)
    if tensor.is_quantized or tensor.dtype in (DType.INT8, DType.UINT8):
        low_code, high_code = tensor.dtype.code_range
        return random.integers(low_code, high_code + 1, shape).astype(tensor.dtype.numpy)
    reads = [op for op in graph.operations if isinstance(op, Gather)]
    lengths = [graph.tensors[op.input].shape[op.axis] or 2 for op in reads]
    return random.integers(0, min(lengths, default=2), shape).astype(tensor.dtype.numpy)


def first_difference(path: Path, graph: Graph, seed: int) -> str:
    """The first operation that does not give the runtime's values on the first sample."""
    (feeds,) = random_feeds(graph, 1, seed)
    expected = ReferenceKernels(path.read_bytes(), graph.arithmetic, keep=True).run_once(feeds)
    found = run_graph(graph, feeds, keep=True)
    for op in graph.operations:
        for name in op.outputs:
            if name in expected and expected[name].size == found[name].size:
                difference = _difference(found[name], expected[name])
                if difference:
                    return f"op {op.location.index} {op.location.type} by {difference:.3g}"
    return ""


def _difference(a: AnyArray, b: AnyArray) -> float:
    wide = np.subtract(a.reshape(-1), b.reshape(-1), dtype=np.float64)
    return float(np.abs(wide).max(initial=0.0))


def table(proofs: Sequence[Proof], arithmetic: Arithmetic, samples: int) -> str:
    """The proofs as Markdown."""
    lines = [
        f"Outputs against the reference kernels of {PACKAGES[arithmetic]}, "
        f"{samples} seeded random samples per model.",
        "",
        "| model | equal | largest difference | first difference | cause |",
        "| --- | --- | --- | --- | --- |",
    ]
    words = {True: "yes", False: "no", None: "not compared"}
    for proof in proofs:
        difference = f"{proof.difference:.3g}" if proof.equal is False else ""
        lines.append(
            f"| {proof.model} | {words[proof.equal]} | {difference} | {proof.first} "
            f"| {proof.cause} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Table of models equal to a runtime's kernels.")
    folder = os.environ.get("AKIDA_BACKEND_MODELS")
    parser.add_argument(
        "models", type=Path, nargs="*" if folder else "+", default=[Path(folder or ".")]
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/import_proof.md"))
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    arithmetic = next((a for a in PACKAGES if is_installed(a)), None)
    if arithmetic is None:
        print("no runtime to compare with: pip install ai-edge-litert", file=sys.stderr)
        return 2
    proofs = [
        prove(path, arithmetic, samples=options.samples)
        for path in model_files(options.models, ".tflite")
    ]
    write_text(options.output, table(proofs, arithmetic, options.samples))
    unexplained = [proof.model for proof in proofs if proof.equal is False and not proof.cause]
    for model in unexplained:
        print(f"{model}: differs without a known cause")
    print(f"{len(proofs)} models, table in {options.output}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
