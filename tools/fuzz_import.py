# SPDX-License-Identifier: Apache-2.0
"""Load, compile and run damaged copies of model files; report whatever is not a clean refusal.

    python tools/fuzz_import.py model.tflite model.onnx --count 10000 --seed 1

Each copy is truncated, has bytes or bits changed, or has 32-bit words set to values that break
careless readers. Of an ONNX file every second copy is a sound message with wrong content: other
lengths, operators, attributes, constants, or connections. Loading has to give a Graph without
problems or an ImportModelError, in time. What loads is compiled and run, on the device and in
source arithmetic, in a process of its own with bounded memory and time: it has to end with results
or an AkidaBackendError. (Runs need a system that can fork.)
Exit code 1 if it does not; the offending copies are kept in --keep.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import select
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from akida_backend.compiler import compile as compile_model
from akida_backend.errors import AkidaBackendError, ImportModelError
from akida_backend.graph import AnyArray, DType, Graph, Tensor
from akida_backend.graph_check import graph_problems
from akida_backend.importers.tflite_file import byte_count
from akida_backend.loading import load
from akida_backend.session import InferenceSession

WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)


def damaged(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """`count` damaged copies of a file, the same for the same seed."""
    choose = random.Random(seed)
    for _ in range(count):
        copy = bytearray(content)
        kind = choose.choices(("bits", "bytes", "words", "cut"), (5, 3, 4, 1))[0]
        if kind == "cut":
            yield bytes(copy[: choose.randrange(len(copy))])
            continue
        for _ in range(choose.choice((1, 1, 1, 2, 4, 8))):
            place = choose.randrange(len(copy))
            match kind:
                case "bits":
                    copy[place] ^= 1 << choose.randrange(8)
                case "bytes":
                    copy[place] = choose.randrange(256)
                case _:
                    place = min(place & ~3, len(copy) - 4)
                    struct.pack_into("<I", copy, place, choose.choice(WORDS))
        yield bytes(copy)


_LARGE = 64  # times a tensor's bytes are taken while an operation computes, at most
_PIPE_BYTES = 2**15  # a pipe holds them all, so that the writer never waits
LENGTHS = (-(2**63), -1, 0, 1, 2, 3, 7, 2**15, 2**31 - 1, 2**40, 2**63 - 1)
SOUND = ("loaded", "refused", "ran", "not run")
REALS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("nan"))


def damaged_messages(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """`count` ONNX files that parse, but say something else."""
    choose = random.Random(seed)
    original = onnx.ModelProto.FromString(content)
    for _ in range(count):
        model = onnx.ModelProto()
        model.CopyFrom(original)
        for _ in range(choose.choice((1, 1, 2, 4))):
            _damage(model.graph, choose)
        yield bytes(model.SerializeToString())


def _damage(graph: onnx.GraphProto, choose: random.Random) -> None:
    if not graph.node:
        return
    node, other = choose.choice(graph.node), choose.choice(graph.node)
    match choose.randrange(8):
        case 0 if graph.initializer:
            tensor = choose.choice(graph.initializer)
            if tensor.dims:
                tensor.dims[choose.randrange(len(tensor.dims))] = choose.choice(LENGTHS)
        case 1 if graph.initializer:
            tensor = choose.choice(graph.initializer)
            tensor.data_type = choose.choice((1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 16, 21, 22, 99))
        case 2 if graph.initializer:
            tensor = choose.choice(graph.initializer)
            raw = bytearray(tensor.raw_data)
            if len(raw) >= 4:
                place = choose.randrange(len(raw) - 3)
                struct.pack_into("<f", raw, place & ~3, choose.choice(REALS))
                tensor.raw_data = bytes(raw)
        case 3 if node.attribute:
            attribute = choose.choice(node.attribute)
            if attribute.ints:
                attribute.ints[choose.randrange(len(attribute.ints))] = choose.choice(LENGTHS)
            else:
                attribute.i, attribute.f = choose.choice(LENGTHS), choose.choice(REALS)
        case 4:
            node.op_type, node.domain = other.op_type, other.domain
        case 5 if node.input and other.input:
            node.input[choose.randrange(len(node.input))] = choose.choice(other.input)
        case 6 if node.input:
            del node.input[choose.randrange(len(node.input))]
        case _:
            values = [*graph.input, *graph.output, *graph.value_info]
            shape = choose.choice(values).type.tensor_type.shape
            if shape.dim:
                choose.choice(shape.dim).dim_value = choose.choice(LENGTHS)


def copies(model: Path, seed: int, count: int) -> Iterator[bytes]:
    """Damaged copies of a model file of either format."""
    content = model.read_bytes()
    if model.suffix != ".onnx":
        yield from damaged(content, seed, count)
        return
    yield from damaged(content, seed, count - count // 2)
    yield from damaged_messages(content, seed, count // 2)


@dataclass(frozen=True, slots=True)
class Limits:
    """What compiling and running one copy may take."""

    device: str
    seconds: float
    megabytes: int


def outcome(content: bytes) -> tuple[str, Graph | None]:
    """What loading gives: "loaded", "refused", or a description of what went wrong."""
    try:
        graph = load(content)
    except ImportModelError:
        return "refused", None
    except Exception:
        return traceback.format_exc(), None
    return "; ".join(graph_problems(graph)) or "loaded", graph


def run_outcome(graph: Graph, limits: Limits) -> str:
    """What compiling and running gives: "ran", "not run", or what went wrong.

    In a process of its own, because a runtime that executes opaque operators may end it.
    """
    tensors = graph.tensors.values()
    if _LARGE * max((_bytes(t) for t in tensors if t.data is None), default=0) > (
        limits.megabytes * 2**20
    ):
        return "not run"  # its own tensors are what takes the memory
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of numeric libraries
        child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, _limited_run(graph, limits).encode()[-_PIPE_BYTES:])
        finally:
            os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], limits.seconds)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if not ready:
        return f"did not compile and run within {limits.seconds} s"
    return text or f"compiling or running ended the process: status {status}"


def _limited_run(graph: Graph, limits: Limits) -> str:
    _limit_memory(limits.megabytes)
    try:
        plan = compile_model(graph, device=limits.device, allow_uncalibrated=True)
    except AkidaBackendError:
        return "not run"
    except Exception:
        return traceback.format_exc()
    result = "ran"
    for emulation in ("device", "source"):
        try:
            session = InferenceSession(plan, emulation=emulation)
        except Exception:
            return traceback.format_exc()
        try:
            session.run(None, {n: _values(graph.tensors[n]) for n in graph.inputs})
        except AkidaBackendError:
            result = "not run"
        except Exception:
            return traceback.format_exc()
    return result


def _values(tensor: Tensor) -> AnyArray:
    """Random values of a tensor, of one sample; what no array can hold is empty."""
    choose = np.random.default_rng(0)
    shape = [1 if length is None else length for length in tensor.shape]
    if tensor.dtype is DType.OTHER:
        return np.zeros(shape, np.uint8)
    dtype = tensor.dtype.numpy
    if tensor.dtype.is_float or dtype.kind == "b":
        return choose.normal(size=shape).astype(dtype)
    low, high = np.iinfo(dtype.name).min, np.iinfo(dtype.name).max
    if tensor.dtype in (DType.INT4, DType.UINT4):
        low, high = tensor.dtype.code_range
    return choose.integers(low, high, shape, endpoint=True, dtype=dtype)


def _bytes(tensor: Tensor) -> int:
    return byte_count(tensor.dtype, tuple(1 if n is None else n for n in tensor.shape))


def _limit_memory(megabytes: int) -> None:
    import resource

    limit = megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="damaged copies per model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="longest time for one copy")
    parser.add_argument("--megabytes", type=int, help="address space this process may take")
    parser.add_argument("--load-only", action="store_true", help="do not compile and run")
    parser.add_argument("--device", default="akida2", help="to compile for")
    parser.add_argument("--run-seconds", type=float, default=60.0, help="longest time for a run")
    parser.add_argument("--run-megabytes", type=int, default=6000, help="address space of a run")
    parser.add_argument("--total-seconds", type=float, help="stop after this time")
    parser.add_argument("--keep", type=Path, help="folder for copies that went wrong")
    options = parser.parse_args()
    if options.megabytes is not None:
        _limit_memory(options.megabytes)
    limits = Limits(options.device, options.run_seconds, options.run_megabytes)
    runs = hasattr(os, "fork") and not options.load_only
    end = time.monotonic() + (options.total_seconds or float("inf"))
    warnings.simplefilter("error")
    tally: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    for model in options.models:
        for number, copy in enumerate(copies(model, options.seed, options.count)):
            start = time.monotonic()
            if start > end:
                break
            result, graph = outcome(copy)
            elapsed = time.monotonic() - start
            slowest = max(slowest, elapsed)
            if elapsed > options.seconds:
                result = f"took {elapsed:.1f} s"
            if result == "loaded" and graph is not None and runs:
                result = run_outcome(graph, limits)
            if result not in SOUND:
                print(f"{model}, seed {options.seed}, copy {number}: {result}")
                if options.keep is not None:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{model.stem}-{options.seed}-{number}.bin").write_bytes(copy)
                result = "wrong"
            tally[result] += 1
    print(", ".join(f"{count} {what}" for what, count in sorted(tally.items())))
    print(f"slowest {slowest:.3f} s")
    return 1 if tally["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
