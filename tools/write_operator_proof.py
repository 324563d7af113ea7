# SPDX-License-Identifier: Apache-2.0
"""Compare each operation's ONNX arithmetic with onnxruntime's CPU kernels, form by form.

    python tools/write_operator_proof.py [-o reports/onnx_operators.md] [--seeds 8]

The networks of one operation that the tests use, int8 and uint8, on random inputs: written as
QOperator, and as QDQ with onnxruntime's int8 kernels allowed, as it does by itself, and without
its optimisations. Half of the networks have scales that are powers of two, which put many values
on ties between two codes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from akida_backend.document import Block, Heading, Items, Lines, Table, markdown
from akida_backend.graph import Arithmetic, DType, Graph
from akida_backend.onnx_writer import OnnxForm, write_onnx
from akida_backend.reference import run_graph
from akida_backend.writing import write_text

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from onnx_twins import OPERATIONS, through_onnxruntime, with_scales_of_two

from builders import GraphBuilder, random_inputs

SAMPLES: Final = 8


@dataclass(frozen=True, slots=True)
class Column:
    """How a network is written and what onnxruntime makes of it."""

    title: str
    form: OnnxForm
    optimized: bool = True
    int8_kernels: bool = True


COLUMNS: Final = (
    Column("QOperator", OnnxForm.QOPERATOR),
    Column("QDQ, int8 allowed", OnnxForm.QDQ),
    Column("QDQ", OnnxForm.QDQ, int8_kernels=False),
    Column("QDQ, not optimised", OnnxForm.QDQ, optimized=False),
)
CAUSES: Final = (
    (
        "On x86 onnxruntime turns int8 between the operators of a QDQ network into uint8, unless "
        "the session has session.qdqisint8allowed=1. An operator at the edge of the network, or of "
        "a device segment, then has int8 on one side and uint8 on the other, for which there is no "
        "integer kernel: it runs in float32.",
        "as the float kernels below",
    ),
    (
        "Such convolutions, all convolutions where optimisations are off, and ConvTranspose in any "
        "form run in float32: the sum of products is rounded on the way, and next to a tie falls "
        "to the other side.",
        "at most 1 code each; a network carries it on",
    ),
    (
        "Add and Mul on reals round before the zero point is added, the integer kernels behind "
        "it: an odd zero point turns the tie to even round.",
        "at most 1 code",
    ),
    (
        "Pools on reals sum in float32; the global one sums integers in its integer kernel.",
        "at most 1 code",
    ),
    (
        "QLinearSoftmax rounds the inverse of its scale down to a whole number, Softmax on reals "
        "does not. A softmax over one value overflows in the kernel, which is undefined; it is "
        "the largest code here.",
        "depends on the scale: none for 1/256",
    ),
    (
        "onnxruntime 1.23 to 1.25: QLinearSoftmax of int8 wraps round beyond 127, and a bilinear "
        "Resize between quantizers ends one code off. The arithmetic follows 1.31.",
        "255 codes where a softmax wraps, 1 code for Resize",
    ),
    (
        "Processors without 8-bit dot products (VNNI) saturate 16-bit sums of uint8 and int8 "
        "products inside onnxruntime; those without FMA round the sum of QLinearAdd twice.",
        "not measured: this was run with both",
    ),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """From onnxruntime over several networks: codes compared, unequal, and the largest step."""

    values: int
    unequal: int
    largest: int

    def __str__(self) -> str:
        if not self.unequal:
            return "equal"
        return f"{self.unequal} of {self.values} by at most {self.largest}"


def difference(name: str, column: Column, *, seeds: int) -> Difference:
    """Of all networks of one operation."""
    values = unequal = largest = 0
    for seed in range(seeds):
        for dtype in (DType.INT8, DType.UINT8):
            b = GraphBuilder(seed, dtype=dtype, arithmetic=Arithmetic.ONNX)
            graph: Graph = b.build(OPERATIONS[name](b))
            if seed % 2:
                graph = with_scales_of_two(graph)
            feeds = random_inputs(graph, SAMPLES, seed)
            found = through_onnxruntime(
                write_onnx(graph, column.form),
                feeds,
                optimized=column.optimized,
                int8_kernels=column.int8_kernels,
            )
            for output, expected in run_graph(graph, feeds).items():
                step = np.abs(found[output].astype(np.float64) - expected.astype(np.float64))
                values += step.size
                unequal += int(np.count_nonzero(step))
                largest = max(largest, int(np.ceil(step.max())))
    return Difference(values, unequal, largest)


def page(seeds: int) -> str:
    """The report as Markdown."""
    rows = []
    for name in OPERATIONS:
        found = [difference(name, column, seeds=seeds) for column in COLUMNS]
        rows.append((name, *map(str, found)))
    blocks: list[Block] = [
        Heading("ONNX arithmetic, operation by operation"),
        Lines(
            (
                f"Against onnxruntime {importlib.metadata.version('onnxruntime')} on its CPU, "
                f"{2 * seeds} random networks of each operation, {SAMPLES} samples each.",
            )
        ),
        Table(
            (("operation", "left"), *((column.title, "left") for column in COLUMNS)), tuple(rows)
        ),
        Heading("Causes"),
        Items(tuple((cause, (size,)) for cause, size in CAUSES)),
    ]
    return markdown(blocks)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=8, metavar="N", help="default: %(default)s")
    given = parser.parse_args(arguments)
    text = page(given.seeds)
    if given.output is None:
        print(text)
    else:
        write_text(given.output, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
