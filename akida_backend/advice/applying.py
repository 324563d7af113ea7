# SPDX-License-Identifier: Apache-2.0
"""A model with the exact rewrites of a device, written and proven equal to the original."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from akida_backend.calibration_data import random_samples
from akida_backend.errors import InputError, UnsupportedOperationError
from akida_backend.execute import run_source
from akida_backend.graph import AnyArray, Graph
from akida_backend.loading import load
from akida_backend.onnx_writer import write_onnx
from akida_backend.plan import Plan
from akida_backend.rewrites import ALL_REWRITES, legalise
from akida_backend.tflite_writer import write_tflite
from akida_backend.writing import replacing, spare

PROOF_SAMPLES: Final = 32
EXACT: Final = "exact"
# Its convolutions write another type than they read, which no file format has.
FOR_THE_COMPILER: Final = ("fold-recoding",)


@dataclass(frozen=True, slots=True)
class Applied:
    """One operator that exact rewrites changed.

    Attributes:
        index: Of the operator in the source file.
        rewrites: Names.
    """

    index: int
    rewrites: tuple[str, ...]


def with_exact_rewrites(plan: Plan) -> tuple[Graph, tuple[Applied, ...]]:
    """The plan's model with those of its rewrites that keep every integer."""
    untouched = frozenset(row.index for row in plan.placement if not row.rewrites)
    exact = [
        rewrite
        for rewrite in ALL_REWRITES
        if rewrite.kind == EXACT and rewrite.name not in FOR_THE_COMPILER
    ]
    legalised = legalise(plan.graph, plan.device, plan.options, {}, rewrites=exact, kept=untouched)
    applied = tuple(
        Applied(row.index, legalised.rewrites[row.index])
        for row in plan.placement
        if row.index in legalised.rewrites
    )
    return legalised.graph, applied


@dataclass(frozen=True, slots=True)
class Written:
    """A file that holds a changed model, and what was proven of it.

    Attributes:
        path: Of the file.
        bytes: Its length.
        sha256: Of its content, hexadecimal.
        samples: Seeded random inputs on which every output is equal, bit for bit.
    """

    path: str
    bytes: int
    sha256: str
    samples: int


def write_proven(changed: Graph, original: Graph, path: str | os.PathLike[str]) -> Written:
    """Write a changed model, read it back, and let it appear only if it equals the original.

    Raises:
        InputError: The name ends in something else than the original's format or is the
            original's, the graph has no form in it, or an output differs.
        UnsupportedOperationError: The original cannot be executed, so nothing can be proven.
    """
    name = os.fspath(path)
    wanted = f".{original.format}"
    if Path(name).suffix.lower() != wanted:
        raise InputError(
            f"{name}: the original is a {wanted} file, and only in its arithmetic can the written "
            f"model equal it\n  Give a name that ends in {wanted}."
        )
    spare(name, [original.name])
    try:
        content = write_tflite(changed) if original.format == "tflite" else write_onnx(changed)
    except InputError as error:
        raise InputError(f"{name}: not written: {error}") from error
    _prove(load(content, name=name), original, name)
    with replacing(Path(name)) as file:
        file.write(content)
    return Written(name, len(content), hashlib.sha256(content).hexdigest(), PROOF_SAMPLES)


def _prove(written: Graph, original: Graph, name: str) -> None:
    """Compare every output on random inputs.

    Raises:
        InputError: The graphs differ.
        UnsupportedOperationError: One cannot be executed.
    """
    feeds = random_samples(original, PROOF_SAMPLES).feeds
    given = dict(zip(written.inputs, (feeds[n] for n in original.inputs), strict=True))
    try:
        expected = run_source(original, feeds)
        found = run_source(written, given)
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(
            f"{name}: not written, since it cannot be proven equal\n  {error}"
        ) from error
    for ours, theirs in zip(original.outputs, written.outputs, strict=True):
        if not _equal(expected[ours], found[theirs]):
            raise InputError(f"{name}: not written: output '{ours}' differs from the original's")


def _equal(a: AnyArray, b: AnyArray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
