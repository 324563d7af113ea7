# SPDX-License-Identifier: Apache-2.0
"""The native engine: runs a Program as `simulator.Simulator` does, at the speed of the processor.

Its library is found beside this package's files, or where an editable installation has put it;
``AKIDA_BACKEND_LIBRARY`` names another one. ``AKIDA_BACKEND_ISA`` forces an instruction set
(baseline, avx2, avxvnni, avx512vnni); one that cannot run here is passed over, and `engine_status`
says so.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final, Literal, overload

import numpy as np
from numpy.typing import NDArray

from akida_backend.errors import EngineError, InputError, ProgramError
from akida_backend.graph import AnyArray
from akida_backend.options import MAX_THREADS
from akida_backend.program import Program
from akida_backend.program_format import program_to_bytes
from akida_backend.simulator import wrong_input

ABI: Final = 2
NOT_BUILT: Final = "not built with this installation (no C++ compiler that works)"
HOW_TO_GET: Final = (
    "Install a C++17 compiler (g++ or clang++), then akida-backend again: pip install "
    "--force-reinstall --no-deps, from the same place."
)
_SUFFIX: Final = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_NAME: Final = f"libakida_backend{_SUFFIX}"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What the native engine can do here.

    Attributes:
        library: File in use, None without one.
        version: Of that library.
        instruction_set: That programs are loaded for.
        instruction_sets: All it knows, best first, with the reason where one cannot run here.
        problem: Why there is no library, or why the instruction set is not the one forced.
    """

    library: Path | None
    version: str | None
    instruction_set: str | None
    instruction_sets: Mapping[str, str | None]
    problem: str | None


def engine_status() -> EngineStatus:
    """What `doctor` says about the native engine."""
    found = _library()
    if isinstance(found, str):
        return EngineStatus(None, None, None, {}, found)
    path, library = found
    sets = dict(_instruction_sets(library))
    chosen = _text(library.akida_backend_instruction_set())
    forced = os.environ.get("AKIDA_BACKEND_ISA")
    problem = None
    if forced and forced != chosen:
        reason = sets.get(forced, f"unknown; this library knows {', '.join(sets)}")
        problem = f"AKIDA_BACKEND_ISA={forced} is not used, but {chosen}: {reason}"
    return EngineStatus(path, _text(library.akida_backend_version()), chosen, sets, problem)


class NativeEngine:
    """A program ready to run on batches of any size, also from several threads at once.

    Args:
        program: What to run.
        threads: That one call of `run` uses, the calling one included.
        instruction_set: Instead of the best, or of the one ``AKIDA_BACKEND_ISA`` names.

    Raises:
        EngineError: There is no library, or the instruction set cannot run here.
        ProgramError: The program is not well-formed.
    """

    def __init__(
        self, program: Program, *, threads: int = 1, instruction_set: str | None = None
    ) -> None:
        found = _library()
        if isinstance(found, str):
            raise EngineError(f"no native engine: {found}\n  The numpy simulator does not need it.")
        _, self._library = found
        if instruction_set is not None:
            problem = dict(_instruction_sets(self._library)).get(instruction_set, "unknown")
            if problem is not None:
                raise EngineError(f"instruction set '{instruction_set}' cannot run here: {problem}")
        if not 1 <= threads <= MAX_THREADS:
            raise EngineError(f"threads: needs 1 to {MAX_THREADS}, found {threads}")
        data = program_to_bytes(program)
        name = None if instruction_set is None else instruction_set.encode()
        handle = self._library.akida_backend_program_load(data, len(data), name)
        if not handle:
            raise ProgramError(_error(self._library))
        weakref.finalize(self, self._library.akida_backend_program_free, handle)
        self._handle: int = handle
        # No array of the program is kept: it may be a view of all its bytes.
        self._name = program.name
        self._port = dataclasses.replace(program.input, recode=np.empty(0, np.int16))
        self.threads = threads
        self.instruction_set = _text(self._library.akida_backend_program_instruction_set(handle))
        source, sink = program.input, program.output
        output = program.tensors[sink.device]
        self._input_dtype = source.dtype.numpy
        self._input_shape = source.shape[1:]
        self._output_dtype = sink.dtype.numpy
        self._output_shape = tuple(side for side in sink.shape[1:] if side is not None)
        self._raw_dtype, self._raw_shape = output.code.dtype, output.shape
        self._idle: list[_Context] = []

    @overload
    def run(self, x: AnyArray, *, raw: Literal[False] = False) -> AnyArray: ...
    @overload
    def run(self, x: AnyArray, *, raw: Literal[True]) -> tuple[AnyArray, AnyArray]: ...
    def run(self, x: AnyArray, *, raw: bool = False) -> AnyArray | tuple[AnyArray, AnyArray]:
        """Host integers in, host integers out: the same as `simulator.Simulator.run`.

        Raises:
            InputError: Shape or dtype of `x` is not the port's.
        """
        self._check(x)
        batch = len(x)
        values = np.ascontiguousarray(x)
        stored: AnyArray = np.empty((batch, *self._output_shape), self._output_dtype)
        codes: AnyArray | None = None
        if raw:
            codes = np.empty((batch, *self._raw_shape), self._raw_dtype)
        if batch == 0:
            return stored if codes is None else (stored, codes)
        context = self._context()
        try:
            failed = self._library.akida_backend_run(
                context.handle,
                array_address(values),
                array_address(stored),
                None if codes is None else array_address(codes),
                batch,
            )
            if failed:
                raise EngineError(_error(self._library))
        finally:
            self._idle.append(context)
        return stored if codes is None else (stored, codes)

    def bind(self, x: AnyArray) -> tuple[Callable[[], int], AnyArray]:
        """A call that computes the same again: of a copy of `x`, into the array returned beside it.

        What other runtimes offer as an interpreter's tensors or as bound inputs and outputs; for
        one thread at a time. The first call has been done, later ones cannot fail.

        Raises:
            InputError: Shape or dtype of `x` is not the port's, or it has no samples.
        """
        self._check(x)
        if not len(x):
            raise InputError("an array to bind needs samples")
        values: AnyArray = np.array(x, order="C")
        stored: AnyArray = np.empty((len(x), *self._output_shape), self._output_dtype)
        context = _Context(self._library, self._handle, self.threads)
        # Without declared types nothing is converted any more: twice as fast.
        call = partial(
            self._library["akida_backend_run"],
            _Pointer(context.handle, context),
            _Pointer(array_address(values), values),
            _Pointer(array_address(stored), stored),
            _Pointer(0, None),
            ctypes.c_size_t(len(x)),
        )
        if call():
            raise EngineError(_error(self._library))
        return call, stored

    def _check(self, x: AnyArray) -> None:
        if x.dtype != self._input_dtype or x.ndim < 1 or x.shape[1:] != self._input_shape:
            raise wrong_input(self._name, self._port, x)

    def _context(self) -> _Context:
        """One that no other thread uses."""
        try:
            return self._idle.pop()
        except IndexError:
            return _Context(self._library, self._handle, self.threads)


class _Context:
    """Memory and helper threads of one caller at a time."""

    def __init__(self, library: ctypes.CDLL, program: int, threads: int) -> None:
        handle = library.akida_backend_context_create(program, threads)
        if not handle:
            raise EngineError(_error(library))
        weakref.finalize(self, library.akida_backend_context_free, handle)
        self.handle: int = handle


class _Pointer(ctypes.c_void_p):
    """An address that keeps what lies there."""

    def __init__(self, address: int, owner: object) -> None:
        super().__init__(address)
        self.owner = owner


def array_address(array: NDArray[np.generic]) -> int:
    """Of the first element; the array is not empty."""
    if array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))  # several times faster
    address: int = array.__array_interface__["data"][0]
    return address


def native_library() -> ctypes.CDLL | None:
    """The library in use, for its other functions."""
    found = _library()
    return None if isinstance(found, str) else found[1]


def _text(text: bytes) -> str:
    return text.decode(errors="replace")


def _error(library: ctypes.CDLL) -> str:
    return _text(library.akida_backend_error())


def _instruction_sets(library: ctypes.CDLL) -> Iterator[tuple[str, str | None]]:
    for index in range(16):
        problem = ctypes.c_char_p()
        name = library.akida_backend_instruction_set_at(index, ctypes.byref(problem))
        if name is None:
            return
        yield _text(name), None if problem.value is None else _text(problem.value)


# The library


def _candidates() -> Iterator[Path]:
    chosen = os.environ.get("AKIDA_BACKEND_LIBRARY")
    if chosen:
        yield Path(chosen)
        return
    yield Path(__file__).parent / "lib" / _NAME
    try:
        distribution = importlib.metadata.distribution("akida-backend")
    except importlib.metadata.PackageNotFoundError:
        return
    # An editable installation leaves the sources where they are.
    yield Path(str(distribution.locate_file(f"akida_backend/lib/{_NAME}")))


@cache
def _library() -> tuple[Path, ctypes.CDLL] | str:
    """The library and where it is from, or why there is none."""
    missing = NOT_BUILT
    for path in _candidates():
        if not path.is_file():
            if os.environ.get("AKIDA_BACKEND_LIBRARY"):
                missing = f"AKIDA_BACKEND_LIBRARY={path} is not a file"
            continue
        try:
            return path, _opened(path)
        except (OSError, AttributeError, EngineError) as error:
            return f"{path} cannot be used: {error}"
    return missing


def _opened(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    text, pointer, size = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
    signatures = {
        "abi": (ctypes.c_uint32, []),
        "version": (text, []),
        "error": (text, []),
        "instruction_set": (text, []),
        "instruction_set_at": (text, [size, ctypes.POINTER(text)]),
        "program_load": (pointer, [text, size, text]),
        "program_free": (None, [pointer]),
        "program_instruction_set": (text, [pointer]),
        "context_create": (pointer, [pointer, ctypes.c_int]),
        "context_free": (None, [pointer]),
        "run": (ctypes.c_int, [pointer, pointer, pointer, pointer, size]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"akida_backend_{name}")
        function.restype = result
        function.argtypes = arguments
    found = library.akida_backend_abi()
    if found != ABI:
        raise EngineError(f"its interface is version {found}, this package needs {ABI}")
    return library
