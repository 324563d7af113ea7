# SPDX-License-Identifier: Apache-2.0
"""AkidaExecutionProvider: device segments inside sessions of an unmodified onnxruntime.

    session = ab.onnxruntime.create_session("model.onnx", device="akida2", fallback="warn")

onnxruntime opens the same library as the native engine. What this module installs there decides,
once per session, which nodes run on the device; inference does not come back to Python, except
with ``emulation="source"``.
"""

from __future__ import annotations

import atexit
import ctypes
import dataclasses
import hashlib
import importlib
import itertools
import math
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx

from akida_backend.compiler import compile as compile_model
from akida_backend.devices import device as find_device
from akida_backend.engine import HOW_TO_GET, engine_status
from akida_backend.epcontext import PROVIDER
from akida_backend.errors import (
    AkidaBackendError,
    EngineError,
    ImportModelError,
    InputError,
    UnsupportedOperationError,
)
from akida_backend.graph import AnyArray, Graph, Operation, Shape, nominal_shape
from akida_backend.importers.onnx_file import parse
from akida_backend.importers.tflite_file import IDENTIFIER
from akida_backend.loading import load
from akida_backend.onnx_claims import Claim, Unclaimable, claims_of
from akida_backend.options import Calibration, Options
from akida_backend.plan import Plan
from akida_backend.policy import logger
from akida_backend.reference import run_operations
from akida_backend.sealed_bytes import PLAN_MAGIC

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtEpDevice, SessionOptions

OLDEST: Final = (1, 23)
OLDEST_WITH_PROVIDERS: Final = (1, 25)  # that know plug-ins in ``providers=[...]``
CONSTANTS_IN_MEMORY: Final = "akida-backend:memory"
FLOAT_WEIGHTS: Final = "session.disable_quant_qdq"

_REGISTERING: Final = threading.Lock()
_SAMPLES_AT_ONCE: Final = 64


def library_path() -> Path:
    """The library that ``register_execution_provider_library`` takes, in any language.

    Raises:
        EngineError: It was not built with this installation.
    """
    status = engine_status()
    if status.library is None:
        raise EngineError(
            f"no execution provider: {status.problem}\n  {HOW_TO_GET}\n"
            "  The simulator does not need it: akida_backend.InferenceSession."
        )
    return status.library


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """What onnxruntime sees of the execution provider, for `doctor`.

    Attributes:
        devices: Of ``get_ep_devices()``: provider, vendor, hardware; empty without onnxruntime.
        problem: Why the provider cannot be used.
    """

    devices: tuple[str, ...]
    problem: str | None


def provider_status() -> ProviderStatus:
    """Registers the provider and looks."""
    problem = None
    try:
        _register()
    except AkidaBackendError as error:
        problem = str(error).partition("\n")[0]
    try:
        found = _onnxruntime().get_ep_devices()
    except (AkidaBackendError, AttributeError):
        return ProviderStatus((), problem)
    seen = [f"{each.ep_name} ({each.ep_vendor}, {each.device.type.name})" for each in found]
    return ProviderStatus(tuple(seen), problem)


def register() -> None:
    """Make `PROVIDER` known to onnxruntime; again and again, if need be.

    From onnxruntime 1.25 on ``InferenceSession(path, providers=["AkidaExecutionProvider",
    "CPUExecutionProvider"])`` then uses it.

    Raises:
        EngineError: There is no library, or onnxruntime is too old.
        UnsupportedOperationError: onnxruntime is not installed.
    """
    if _register() < OLDEST_WITH_PROVIDERS:
        warnings.warn(
            f"onnxruntime {_onnxruntime().__version__} ignores "
            f"providers=['{PROVIDER}'] and would use the CPU; "
            "use akida_backend.onnxruntime.create_session(...), or onnxruntime 1.25 or newer",
            stacklevel=2,
        )


def create_session(
    model: str | os.PathLike[str] | bytes,
    device: str | None = None,
    sess_options: SessionOptions | None = None,
    **options: object,
) -> InferenceSession:
    """An ``onnxruntime.InferenceSession`` that computes on the device what the device can take.

    Args:
        model: Path or bytes of an ONNX model, or of a compiled one.
        device: Name of a device profile, by default ``akida2`` or a compiled model's own.
        sess_options: An ``onnxruntime.SessionOptions`` of your own; it then serves this session
            only.
        options: Fields of `Options`. Of a compiled model only ``threads``.

    Raises:
        EngineError: There is no library, or onnxruntime is too old.
        UnsupportedOperationError: onnxruntime is not installed.
        ImportModelError: The model is damaged.
        InputError: The file cannot be read or is no ONNX model, or an unknown device or option.
        FallbackError: `fallback` forbids what would stay on the host.
    """
    if not isinstance(model, str | os.PathLike | bytes):
        raise InputError(
            f"a session is created from a path or from bytes, not from {type(model).__name__}\n"
            "  of an onnx.ModelProto give model.SerializeToString()"
        )
    chosen = Options.parse(options)
    given = {name: _as_text(value) for name, value in options.items() if value is not None}
    if device is not None:
        given["device"] = find_device(device).name
    if options.get("calibration") is not None:
        given["calibration"] = _calibration_text(chosen.calibration)
    _register()
    runtime = _onnxruntime()
    if sess_options is None:
        sess_options = runtime.SessionOptions()
        sess_options.log_severity_level = 3  # else it warns of every node left to the CPU
    sess_options.add_provider_for_devices(_devices(), given)
    label = None if isinstance(model, bytes) else os.fspath(model)
    sha256 = _sha256(model) if _writes_context(sess_options) else None
    with _request(_Request(label, sha256, chosen.calibration)) as request:
        try:
            session = runtime.InferenceSession(model, sess_options=sess_options)
        except Exception as problem:
            if request.error is not None:
                raise request.error from None
            if f"{PROVIDER} has already been registered" in str(problem):
                raise InputError(
                    "sess_options: they serve another session with this provider already\n"
                    "  Make onnxruntime.SessionOptions anew for each session."
                ) from problem
            _check_file(model, problem)
            raise
    if request.error is not None:
        raise request.error
    return session


# onnxruntime


def _onnxruntime() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UnsupportedOperationError(
            "onnxruntime is not installed\n  Install akida-backend with its extra 'onnxruntime'."
        ) from error


def _register() -> tuple[int, int]:
    """Registers the provider where that was not done, and returns onnxruntime's version."""
    runtime = _onnxruntime()
    major, minor, *_ = runtime.__version__.split(".")
    version = (int(major), int(minor))
    if version < OLDEST:
        raise EngineError(
            f"onnxruntime {runtime.__version__} cannot load execution providers from Python\n"
            "  Install onnxruntime 1.23 or newer."
        )
    path = library_path()
    with _REGISTERING:
        _install(path)
        if not _devices():
            runtime.register_execution_provider_library(PROVIDER, str(path))
    return version


def _devices() -> list[OrtEpDevice]:
    return [each for each in _onnxruntime().get_ep_devices() if each.ep_name == PROVIDER]


def _writes_context(sess_options: SessionOptions) -> bool:
    try:
        return str(sess_options.get_session_config_entry("ep.context_enable")) == "1"
    except RuntimeError:  # no such entry
        return False


def _sha256(model: str | os.PathLike[str] | bytes) -> str | None:
    """Of the model's file; onnxruntime only shows the graph it has made of it."""
    try:
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
    except OSError:  # onnxruntime says why it cannot be read
        return None
    return hashlib.sha256(content).hexdigest()


def _check_file(model: str | os.PathLike[str] | bytes, problem: Exception) -> None:
    """Say what is wrong with a file that onnxruntime did not open, where that can be seen.

    Raises:
        InputError: It cannot be read, or is of another kind.
        ImportModelError: It is damaged.
    """
    label = "model" if isinstance(model, bytes) else os.fspath(model)
    try:
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
    except OSError as error:
        raise InputError(
            f"{label}: cannot read the model: {error.strerror}\n  Give the path of an .onnx file."
        ) from problem
    if content[4:8] == IDENTIFIER:
        raise InputError(
            f"{label}: is a TFLite model, which onnxruntime does not run\n"
            "  Use akida_backend.tflite.load_delegate with LiteRT or tflite-runtime."
        ) from problem
    if content.startswith(PLAN_MAGIC):
        raise InputError(
            f"{label}: is a saved plan, which onnxruntime does not run\n"
            "  Use akida_backend.InferenceSession, or save the plan as .onnx."
        ) from problem
    try:
        parse(content, label)
    except ImportModelError as error:
        raise error from problem


def _as_text(value: object) -> str:
    """As provider options are written, which are all text."""
    if isinstance(value, list | tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def _calibration_text(calibration: Calibration) -> str:
    """A path as it is; arrays reach `_place` through the request."""
    return os.fspath(calibration) if isinstance(calibration, str | os.PathLike) else "(arrays)"


# What a session being created in this thread wants, and what became of it


@dataclass(slots=True)
class _Request:
    label: str | None = None
    sha256: str | None = None
    calibration: Calibration = None
    error: BaseException | None = None


_thread: Final = threading.local()


@contextmanager
def _request(request: _Request) -> Iterator[_Request]:
    outer = getattr(_thread, "request", None)
    _thread.request = request
    try:
        yield request
    finally:
        _thread.request = outer


# What the library calls

_Place: Final = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
)
_Compute: Final = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_uint64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
_Release: Final = ctypes.CFUNCTYPE(None, ctypes.c_uint64)


_CALLBACKS: Final[list[object]] = []  # that a library holds, so they must stay


@cache
def _install(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    if not hasattr(library, "akida_backend_onnxruntime_install"):
        raise EngineError(f"{path} is of another version: it has no execution provider")
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.akida_backend_onnxruntime_install.argtypes = [_Place, _Compute, _Release]
    library.akida_backend_onnxruntime_install.restype = None
    library.akida_backend_onnxruntime_claim.argtypes = [
        pointer, ctypes.POINTER(ctypes.c_int64), size, ctypes.c_char_p, size,
        ctypes.c_char_p, ctypes.c_uint64,
    ]  # fmt: skip
    library.akida_backend_onnxruntime_claim.restype = None
    library.akida_backend_onnxruntime_refuse.argtypes = [pointer, ctypes.c_char_p]
    library.akida_backend_onnxruntime_refuse.restype = None

    def place(
        model: int, model_bytes: int, options: int | None, options_bytes: int, claims: int
    ) -> None:
        asked: _Request | None = getattr(_thread, "request", None)
        request = asked or _Request()
        try:
            proto = _model(ctypes.string_at(model, model_bytes))
            given = _options(ctypes.string_at(options, options_bytes) if options else b"")
            try:
                plan, placed = _place(proto, given, request)
            except ImportModelError as error:
                if asked is not None or given.get("fallback", "allow") not in ("allow", "warn"):
                    raise
                logger.warning("all of it stays on the CPU: %s", error)
                return
            for claim in placed:
                compiled = claim.compiled
                if request.sha256 is not None:
                    compiled = dataclasses.replace(compiled, source_sha256=request.sha256)
                data, notes = compiled.payload()
                nodes = (ctypes.c_int64 * len(claim.nodes))(*claim.nodes)
                source = 0
                if plan.options.emulation == "source":
                    source = _sources.add(_SourceSegment.of(plan, claim))
                library.akida_backend_onnxruntime_claim(
                    claims, nodes, len(nodes), data, len(data), notes.encode(), source
                )
        except BaseException as error:  # create_session raises it, or onnxruntime does
            request.error = error
            known = isinstance(error, AkidaBackendError)
            text = str(error) if known else f"{type(error).__name__}: {error}"
            library.akida_backend_onnxruntime_refuse(claims, text.encode(errors="replace"))

    callbacks = (_Place(place), _Compute(_sources.compute), _Release(_sources.remove))
    library.akida_backend_onnxruntime_install(*callbacks)
    _CALLBACKS.append(callbacks)
    # A session may outlive the interpreter.
    atexit.register(library.akida_backend_onnxruntime_install, _Place(), _Compute(), _Release())
    return library


def _model(data: bytes) -> onnx.ModelProto:
    """The model with its constants, which the library leaves where onnxruntime keeps them."""
    proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    for tensor in proto.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where.get("location") == CONSTANTS_IN_MEMORY:
            length = int(where["length"])
            tensor.raw_data = ctypes.string_at(int(where["offset"]), length) if length else b""
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return proto


def _options(data: bytes) -> dict[str, object]:
    parts = data.decode(errors="replace").split("\0")[:-1]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _place(
    proto: onnx.ModelProto, given: Mapping[str, object], request: _Request
) -> tuple[Plan, list[Claim]]:
    """What of a model runs on the device.

    Raises:
        AkidaBackendError: As `compile` does.
    """
    options = dict(given)
    if options.pop(FLOAT_WEIGHTS, None) is not None:
        logger.warning(
            "%s=1 makes onnxruntime fold quantized weights to float before the device could take "
            "them; leave it out",
            FLOAT_WEIGHTS,
        )
    if request.calibration is not None:
        options["calibration"] = request.calibration
    if options.get("host") == "reference":
        raise InputError(
            "option 'host': in an onnxruntime session onnxruntime runs what stays on the host\n"
            "  leave the option out, or use akida_backend.InferenceSession"
        )
    device = str(options.pop("device", Options().device))
    graph = load(proto, name=request.label or proto.graph.name)
    denied = Options.parse(options).deny
    while True:
        plan = compile_model(graph, device, **{**options, "deny": denied})
        found = claims_of(plan, proto.graph)
        claims = [claim for claim in found if isinstance(claim, Claim)]
        stuck = [claim for claim in found if isinstance(claim, Unclaimable)]
        if not stuck:
            return plan, claims
        names = dict.fromkeys(name for claim in stuck for name in claim.operations(plan))
        for claim in stuck:
            logger.warning("%s: a segment stays on the host: %s", graph.name, claim.reason)
        denied = (*denied, *names)


# Source emulation


@dataclass(frozen=True, slots=True, eq=False)
class _SourceSegment:
    """A device segment as the operations it stands for."""

    graph: Graph
    claim: Claim
    operations: tuple[Operation, ...]

    @classmethod
    def of(cls, plan: Plan, claim: Claim) -> _SourceSegment:
        graph = plan.graph
        wanted = {claim.segment.program.output.tensor}
        chosen: list[Operation] = []
        for op in reversed(graph.operations):
            if wanted.intersection(op.outputs):
                chosen.append(op)
                wanted.update(name for name in op.inputs if name != claim.tensor)
        return cls(graph, claim, tuple(reversed(chosen)))

    def run(self, x: int, y: int, batch: int) -> None:
        """From one address to another, in the file's order of axes."""
        entry, output = self.claim.input, self.claim.compiled.output
        source = self.graph.tensors[self.claim.tensor]
        sink = self.graph.tensors[self.claim.segment.program.output.tensor]
        read = source.dtype.numpy if entry.real is None else np.dtype(np.float32)
        given = _array(x, (batch, *entry.shape[1:]), read)
        result = _array(y, (batch, *output.shape[1:]), sink.dtype.numpy)
        for begin in range(0, batch, _SAMPLES_AT_ONCE):
            part = slice(begin, begin + _SAMPLES_AT_ONCE)
            values = _transposed(given[part], entry.transposed)
            if entry.real is not None:
                scale, zero_point = entry.real
                codes = np.rint(values.astype(np.float32) / np.float32(scale)) + zero_point
                values = codes.astype(source.dtype.numpy)
            stored = {source.name: values.reshape(-1, *(n or 1 for n in source.shape[1:]))}
            run_operations(self.operations, self.graph, stored)
            computed = _transposed(stored[sink.name], output.transposed)
            result[part] = computed.reshape(-1, *result.shape[1:])


def _transposed(values: AnyArray, matrix: tuple[int, int] | None) -> AnyArray:
    return values if matrix is None else values.reshape(-1, *matrix).transpose(0, 2, 1)


class _SourceSegments:
    """Those of live sessions, by number."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._segments: dict[int, _SourceSegment] = {}

    def add(self, segment: _SourceSegment) -> int:
        number = next(self._numbers)
        self._segments[number] = segment
        return number

    def remove(self, number: int) -> None:
        self._segments.pop(number, None)

    def compute(
        self, number: int, x: int, y: int, batch: int, problem: int, problem_bytes: int
    ) -> int:
        try:
            self._segments[number].run(x, y, batch)
        except BaseException as error:  # onnxruntime raises it
            text = f"{type(error).__name__}: {error}".encode(errors="replace")
            text = text[: problem_bytes - 1] + b"\0"
            ctypes.memmove(problem, text, len(text))
            return -1
        return 0


def _array(address: int, shape: Shape, dtype: np.dtype[np.generic]) -> AnyArray:
    """Memory of somebody else."""
    lengths = nominal_shape(shape)
    count = math.prod(lengths) * dtype.itemsize
    view = memoryview((ctypes.c_uint8 * count).from_address(address)).cast("B")
    values: AnyArray = np.frombuffer(view, dtype).reshape(lengths)
    return values


_sources: Final = _SourceSegments()
