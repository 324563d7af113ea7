# SPDX-License-Identifier: Apache-2.0
"""Interpreters of both runtimes, as their users open them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from akida_backend.graph import AnyArray, Arithmetic


@dataclass(frozen=True)
class Runtime:
    """An installed runtime: its module, and the arithmetic of its reference kernels."""

    module: ModuleType
    arithmetic: Arithmetic

    def interpreter(self, content: bytes, delegate: object = None, **options: object) -> Any:  # noqa: ANN401
        """An interpreter with reference kernels, allocated."""
        options.setdefault("experimental_op_resolver_type", self.module.OpResolverType.BUILTIN_REF)
        delegates = [] if delegate is None else [delegate]
        interpreter = self.module.Interpreter(
            model_content=content, experimental_delegates=delegates, **options
        )
        interpreter.allocate_tensors()
        return interpreter


def run(interpreter: Any, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:  # noqa: ANN401
    """Outputs by name; inputs are resized where they have another number of samples."""
    details = {entry["name"]: entry for entry in interpreter.get_input_details()}
    resized = [n for n, x in feeds.items() if tuple(details[n]["shape"]) != x.shape]
    for name in resized:
        interpreter.resize_tensor_input(details[name]["index"], feeds[name].shape)
    if resized:
        interpreter.allocate_tensors()
    for name, x in feeds.items():
        interpreter.set_tensor(details[name]["index"], x)
    interpreter.invoke()
    return {e["name"]: interpreter.get_tensor(e["index"]) for e in interpreter.get_output_details()}


def kernels(interpreter: Any) -> Sequence[str]:  # noqa: ANN401
    """Names of the operators a delegate has put in."""
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    return [name for name in names if name == "DELEGATE"]


def equal(found: Mapping[str, AnyArray], wanted: Mapping[str, AnyArray]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype and np.array_equal(found[name], wanted[name])
        for name in wanted
    )


def random_feeds(
    interpreter: Any,  # noqa: ANN401
    samples: int | None = None,
    seed: int = 0,
) -> dict[str, AnyArray]:
    """Stored values for every input of an interpreter."""
    random = np.random.default_rng(seed)
    feeds: dict[str, AnyArray] = {}
    for entry in interpreter.get_input_details():
        dtype, (rows, *others) = entry["dtype"], entry["shape"]
        shape = (rows if samples is None else samples, *others)
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            feeds[entry["name"]] = random.integers(limits.min, limits.max + 1, shape).astype(dtype)
        else:
            feeds[entry["name"]] = random.normal(size=shape).astype(dtype)
    return feeds
