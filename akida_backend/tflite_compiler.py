# SPDX-License-Identifier: Apache-2.0
"""The compiler behind the TFLite delegate: called by the library while an interpreter is made."""

from __future__ import annotations

import atexit
import ctypes
import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from akida_backend.compiler import compile
from akida_backend.device_engine import open_engine
from akida_backend.devices import device as find_device
from akida_backend.engine import NativeEngine
from akida_backend.errors import AkidaBackendError, InputError
from akida_backend.graph import AnyArray, DType, Tensor
from akida_backend.importers.tflite_file import read_file
from akida_backend.loading import load
from akida_backend.options import Calibration, Options
from akida_backend.plan import Plan
from akida_backend.policy import apply_fallback
from akida_backend.program_format import program_to_bytes
from akida_backend.reference import run_operations
from akida_backend.tflite_segments import Claim, Unclaimed, claims
from akida_backend.tflite_snapshot import GraphView, snapshot, sparse_tensor

logger: Final = logging.getLogger("akida_backend")

MODEL: Final = "model"  # a delegate is not told the model's path
KEPT_PLANS: Final = 4

# Calibration arrays that `load_delegate` was given, by the text that stands for them among the
# options, which runtimes pass as strings.
CALIBRATIONS: Final[dict[str, Calibration]] = {}

_Texts = ctypes.POINTER(ctypes.c_char_p)


class _Segment(ctypes.Structure):
    """``akida_backend_tflite_segment`` of native/plugins/tflite_compiler.h."""

    _fields_ = (
        ("program", ctypes.c_char_p),
        ("program_bytes", ctypes.c_uint64),
        ("nodes", ctypes.POINTER(ctypes.c_int32)),
        ("picks", ctypes.POINTER(ctypes.c_int32)),
        ("node_count", ctypes.c_uint64),
        ("pick_count", ctypes.c_uint64),
        ("input", ctypes.c_int32),
        ("output", ctypes.c_int32),
        ("callback", ctypes.c_int64),
    )


_CHECK = ctypes.CFUNCTYPE(ctypes.c_int, _Texts, _Texts, ctypes.c_size_t, ctypes.c_void_p)
_COMPILE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    _Texts,
    _Texts,
    ctypes.c_size_t,
    ctypes.POINTER(GraphView),
    ctypes.c_void_p,
)


_RUN = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_void_p,
)
_RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_int64)


class _Hooks(ctypes.Structure):
    """``akida_backend_tflite_compiler``."""

    _fields_ = (("check", _CHECK), ("compile", _COMPILE), ("run", _RUN), ("release", _RELEASE))


@dataclass(frozen=True, slots=True)
class Compiled:
    """A graph of a runtime, compiled.

    Attributes:
        plan: Of the graph.
        claims: Segments a runtime can hand over.
        unclaimed: Those it cannot.
        in_python: Of each claim, None where its program runs natively.
    """

    plan: Plan
    claims: tuple[Claim, ...]
    unclaimed: tuple[Unclaimed, ...]
    in_python: tuple[PythonSegment | None, ...]


@dataclass(frozen=True, slots=True)
class PythonSegment:
    """A segment that does not run natively.

    Attributes:
        input: Type and shape it reads.
        output: Type it writes.
        compute: Stored values from stored values.
    """

    input: Tensor
    output: DType
    compute: Callable[[AnyArray], AnyArray]

    def run(self, source: int, target: int, samples: int) -> None:
        """From memory to memory."""
        shape = (samples, *(length or 1 for length in self.input.shape[1:]))
        dtype = self.input.dtype.numpy
        size = math.prod(shape) * dtype.itemsize
        given: AnyArray = np.frombuffer(ctypes.string_at(source, size), dtype).reshape(shape)
        result = np.ascontiguousarray(self.compute(given), self.output.numpy)
        ctypes.memmove(target, result.ctypes.data, result.nbytes)


# By the numbers kernels refer to them by, until the last kernel has gone.
SEGMENTS: Final[dict[int, PythonSegment]] = {}
_NUMBERS: Final = itertools.count()


def parse(given: Mapping[str, str]) -> Options:
    """Options of a delegate.

    Raises:
        InputError: An unknown name or value, or one that an interpreter cannot obey.
    """
    if given.get("host", "runtime") != "runtime":
        raise InputError(
            f"option 'host' is '{given['host']}', but here the runtime executes host operations\n"
            "  Leave the option out, or use InferenceSession."
        )
    options = Options.parse({**given, "host": "runtime"})
    find_device(options.device)
    return options


def compile_snapshot(data: bytes, given: tuple[tuple[str, str], ...]) -> Compiled:
    """Compile a graph that `snapshot` has written down.

    Raises:
        AkidaBackendError: It cannot be read, or options do not fit it.
    """
    # What a file of calibration inputs holds may change between two calls.
    changing = any(name == "calibration" and value not in CALIBRATIONS for name, value in given)
    return _compile.__wrapped__(data, given) if changing else _compile(data, given)


@lru_cache(maxsize=KEPT_PLANS)
def _compile(data: bytes, given: tuple[tuple[str, str], ...]) -> Compiled:
    options: dict[str, object] = {**dict(given), "host": "runtime", "fallback": "allow"}
    calibration = options.get("calibration")
    if isinstance(calibration, str):
        options["calibration"] = CALIBRATIONS.get(calibration, calibration)
    device = str(options.pop("device", Options().device))
    plan = compile(load(data, name=MODEL), device=device, **options)
    claimed, unclaimed = claims(plan, read_file(data, MODEL))
    in_python = tuple(_python_segment(plan, claim) for claim in claimed)
    return Compiled(plan, claimed, unclaimed, in_python)


def _python_segment(plan: Plan, claim: Claim) -> PythonSegment | None:
    """For source emulation, and for programs the native engine does not run."""
    program, graph = claim.segment.program, plan.graph
    if plan.options.emulation == "source":
        members = set(claim.segment.sources)
        operations = [op for op in graph.operations if members.intersection(op.sources)]
        source, target = graph.tensors[claim.input_name], program.output.tensor

        def compute(x: AnyArray) -> AnyArray:
            values = {source.name: x}
            run_operations(operations, graph, values)
            return values[target]

        return PythonSegment(source, program.output.dtype, compute)
    engine = open_engine(program)
    if isinstance(engine, NativeEngine):
        return None
    port = plan.legalised.tensors[program.input.tensor]
    return PythonSegment(port, program.output.dtype, engine.run)


class Compiler:
    """The hooks a library calls; lives as long as the process.

    Args:
        library: That exports the delegate.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer = ctypes.c_void_p
        library.akida_backend_tflite_set_compiler.argtypes = [pointer]
        library.akida_backend_tflite_set_compiler.restype = None
        library.akida_backend_tflite_add_segment.argtypes = [pointer, ctypes.POINTER(_Segment)]
        library.akida_backend_tflite_add_segment.restype = None
        library.akida_backend_tflite_require_all.argtypes = [pointer]
        library.akida_backend_tflite_require_all.restype = None
        library.akida_backend_tflite_refuse.argtypes = [pointer, ctypes.c_char_p]
        library.akida_backend_tflite_refuse.restype = None
        self._library = library
        self._hooks = _Hooks(
            _CHECK(self._check),
            _COMPILE(self._compile),
            _RUN(self._run),
            _RELEASE(self._release),
        )
        library.akida_backend_tflite_set_compiler(ctypes.byref(self._hooks))
        atexit.register(library.akida_backend_tflite_set_compiler, None)

    def _check(self, names: Any, values: Any, count: int, answer: int) -> int:  # noqa: ANN401
        return self._guarded(answer, lambda: parse(_given(names, values, count)))

    def _compile(
        self,
        names: Any,  # noqa: ANN401
        values: Any,  # noqa: ANN401
        count: int,
        graph: Any,  # noqa: ANN401
        answer: int,
    ) -> int:
        return self._guarded(
            answer, lambda: self._answer(_given(names, values, count), graph.contents, answer)
        )

    def _run(self, callback: int, given: int, wanted: int, samples: int, answer: int) -> int:
        return self._guarded(answer, lambda: SEGMENTS[callback].run(given, wanted, samples))

    def _release(self, callback: int) -> None:
        SEGMENTS.pop(callback, None)

    def _answer(self, given: dict[str, str], graph: GraphView, answer: int) -> None:
        options = parse(given)
        sparse = sparse_tensor(graph)
        if sparse is not None:
            raise InputError(
                f"tensor '{sparse}' is sparse, and sparse tensors are not read\n"
                "  Convert without sparsity."
            )
        compiled = compile_snapshot(snapshot(graph), tuple(sorted(given.items())))
        apply_fallback(compiled.plan, options.fallback)
        required = options.fallback in ("error", "strict")
        if compiled.unclaimed and required:
            lines = "\n".join(f"  {u.segment.program.name}: {u.reason}" for u in compiled.unclaimed)
            raise InputError(f"fallback '{options.fallback}': segments cannot be run\n{lines}")
        for unclaimed in compiled.unclaimed:
            logger.info(
                "%s stays on the host: %s", unclaimed.segment.program.name, unclaimed.reason
            )
        if required:
            self._library.akida_backend_tflite_require_all(answer)
        for claim, segment in zip(compiled.claims, compiled.in_python, strict=True):
            picked = compiled.plan.options.emulation == "device"
            self._add(claim, segment, graph, answer, picked=picked)

    def _add(
        self,
        claim: Claim,
        segment: PythonSegment | None,
        graph: GraphView,
        answer: int,
        *,
        picked: bool,
    ) -> None:
        program = program_to_bytes(claim.segment.program)
        nodes = [graph.nodes[index].index for index in claim.operators]
        picks = np.zeros(0, np.int32)
        if claim.picks is not None and picked:
            picks = claim.picks
        callback = -1
        if segment is not None:  # last: the library gives back what it was given
            callback = next(_NUMBERS)
            SEGMENTS[callback] = segment
        self._library.akida_backend_tflite_add_segment(
            answer,
            _Segment(
                program=program,
                program_bytes=len(program),
                nodes=(ctypes.c_int32 * len(nodes))(*nodes),
                picks=np.ascontiguousarray(picks).ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
                if picks.size
                else None,
                node_count=len(nodes),
                pick_count=picks.size,
                input=claim.input,
                output=claim.output,
                callback=callback,
            ),
        )

    def _guarded(self, answer: int, action: Callable[[], object]) -> int:
        """0, or 1 after an error, whose text is the answer: no exception may leave a hook."""
        try:
            action()
        except AkidaBackendError as error:
            text = str(error)
        except Exception as error:
            logger.exception("the delegate's compiler failed")
            text = f"{type(error).__name__}: {error}"
        else:
            return 0
        self._library.akida_backend_tflite_refuse(answer, text.encode(errors="replace"))
        return 1


def _given(names: Any, values: Any, count: int) -> dict[str, str]:  # noqa: ANN401
    return {
        names[i].decode(errors="replace"): values[i].decode(errors="replace") for i in range(count)
    }
