# SPDX-License-Identifier: Apache-2.0
"""Data a caller gives: files, arrays, or arrays by name, as the stored values a graph takes."""

from __future__ import annotations

import hashlib
import itertools
import lzma
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from akida_backend.arithmetic import quantized
from akida_backend.errors import InputError
from akida_backend.graph import AnyArray, DType, Graph, Quantize, Tensor
from akida_backend.options import MOST_LISTED, unknown

Data = str | os.PathLike[str] | NDArray[np.generic] | Mapping[str, NDArray[np.generic]]

CUT_OFF: Final = 0.01  # share of values beyond the range that is worth a word
MAX_BYTES: Final = 2 << 30  # of one array once unpacked: a .npz of a few KB may claim anything
RANDOM_SAMPLES: Final = 32
_SEED: Final = 0
_DATA_NAME: Final = "x"
_LABELS_NAME: Final = "y"
_ZIP_MAGIC: Final = b"PK\x03\x04"
_UNREADABLE: Final = (
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
_QUANTIZED_TYPES: Final = frozenset(
    {DType.INT4, DType.UINT4, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32}
)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs of a graph, ready to execute.

    Attributes:
        feeds: Stored values by input name, samples on axis 0.
        labels: Class index per sample, where the data has them.
        origin: Where they came from, for reports.
        path: The file, if they came from one.
        notes: What a reader of figures on them should know.
    """

    feeds: Mapping[str, AnyArray]
    labels: NDArray[np.int64] | None
    origin: str
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return max(map(len, self.feeds.values()), default=1)

    def part(self, begin: int, end: int | None) -> Samples:
        """Samples ``begin:end``."""
        return self._picked(lambda values: values[begin:end])

    def without(self, known: Collection[bytes], batch: int | None) -> Samples:
        """Samples whose digest is not among `known`; whole groups of a fixed batch stay or go."""
        new = np.array([digest not in known for digest in digests(self.feeds)])
        if batch is not None and len(new) % batch == 0:
            new = np.repeat(new.reshape(-1, batch).all(axis=1), batch)
        return self._picked(lambda values: values[np.repeat(new, len(values) // len(new))])

    def _picked(self, pick: Callable[[AnyArray], AnyArray]) -> Samples:
        labels = None if self.labels is None else pick(self.labels).astype(np.int64)
        return replace(
            self, feeds={name: pick(each) for name, each in self.feeds.items()}, labels=labels
        )


def read_samples(graph: Graph, data: Data | Samples) -> Samples:
    """Samples from a .npz or .npy file, an array, or arrays by name.

    A file or mapping holds the inputs by name, or ``x`` for a graph with one input, and may hold
    class indices ``y``. Axis 0 is the sample.

    Raises:
        InputError: The data cannot be read, or does not fit; expected and found are named.
    """
    if isinstance(data, Samples):
        return data
    if isinstance(data, np.ndarray):
        return _from_arrays(graph, {_DATA_NAME: data}, "array")
    if isinstance(data, Mapping):
        return _from_arrays(graph, data, "arrays")
    if not isinstance(data, str | os.PathLike):
        raise InputError(
            f"samples are given as a path, an array or arrays by name, not as "
            f"{type(data).__name__}\n"
            "  Give one array with the samples on its first axis, or {'input': array}."
        )
    path = Path(data)
    wanted = {*graph.inputs, _DATA_NAME, _LABELS_NAME}
    arrays, present = read_arrays(path, wanted)
    return replace(_from_arrays(graph, arrays, str(path), present), path=path)


def calibration_samples(graph: Graph, data: Data, limit: int) -> Samples:
    """The first `limit` samples of `data`."""
    return first_samples(graph, read_samples(graph, data), limit)


def digests(feeds: Mapping[str, AnyArray]) -> list[bytes]:
    """One per sample, equal for equal ones.

    Inputs of a fixed batch may differ in their rows; then a sample is the least that has whole
    rows of each.
    """
    count = math.gcd(*map(len, feeds.values()))
    hashes = [hashlib.sha256() for _ in range(count)]
    for _, values in sorted(feeds.items()):
        for sum_, part in zip(hashes, np.split(values, count), strict=True):
            sum_.update(part.tobytes())
    return [sum_.digest() for sum_ in hashes]


def first_samples(graph: Graph, samples: Samples, limit: int | None) -> Samples:
    """At most `limit` samples, the first ones; whole groups of a fixed batch, at least one."""
    if limit is not None and graph.batch is not None:
        limit = max(1, limit // graph.batch) * graph.batch
    first = samples.part(0, limit)
    if samples.path is None and first.count < samples.count:  # origin may tell how many
        first = replace(first, origin=f"the first {first.count} of {samples.origin}")
    return first


def random_samples(graph: Graph, count: int = RANDOM_SAMPLES) -> Samples:
    """Seeded samples over the whole range of codes; the same on every machine."""
    generator = np.random.default_rng(_SEED)
    feeds = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        group = 1 if graph.batch is None else _rows(tensor)
        groups = count if graph.batch is None else -(-count // group)
        feeds[name] = _random(generator, tensor, (groups * group, *_tail(tensor)))
    return Samples(feeds, None, f"{count} random samples, seed {_SEED}")


def _random(generator: np.random.Generator, tensor: Tensor, shape: tuple[int, ...]) -> AnyArray:
    if tensor.dtype.is_float:
        return generator.uniform(-1.0, 1.0, shape).astype(tensor.dtype.numpy)
    if not _takes_reals(tensor):
        # Indices and flags: only 0 and 1 are sure to be inside what they index.
        return generator.integers(0, 2, shape).astype(tensor.dtype.numpy)
    low, high = tensor.dtype.code_range
    return generator.integers(low, high, shape, endpoint=True).astype(tensor.dtype.numpy)


def _from_arrays(
    graph: Graph,
    arrays: Mapping[str, AnyArray],
    origin: str,
    present: Collection[str] | None = None,
) -> Samples:
    if all(name in arrays for name in graph.inputs):
        by_input = {name: arrays[name] for name in graph.inputs}
    elif _DATA_NAME in arrays and len(graph.inputs) == 1:
        by_input = {graph.inputs[0]: arrays[_DATA_NAME]}
    else:
        raise InputError(
            f"{origin}: no data for the model's inputs\n"
            f"  expected arrays {', '.join(repr(n) for n in graph.inputs)}"
            f"{' or x' if len(graph.inputs) == 1 else ''}; "
            f"found {_listed(arrays if present is None else present)}"
        )
    feeds = stored_feeds(graph, by_input, origin)
    labels = arrays.get(_LABELS_NAME)
    notes = [_cut_off(graph, name, np.asarray(given), origin) for name, given in by_input.items()]
    samples = Samples(feeds, None, origin, notes=tuple(filter(None, notes)))
    if labels is None:
        return samples
    return replace(samples, labels=_labels(labels, samples.count, origin))


def _cut_off(graph: Graph, name: str, given: AnyArray, origin: str) -> str:
    """What is said of float values that saturate on the way in; nothing of a few."""
    tensor = graph.tensors[name]
    readers = graph.consumers.get(name, ())
    if tensor.dtype.is_float and readers and all(isinstance(op, Quantize) for op in readers):
        tensor = graph.tensors[readers[0].outputs[0]]
    if given.dtype.kind != "f" or not _takes_reals(tensor) or tensor.quantization is None:
        return ""
    low, high = tensor.real_range
    step = tensor.quantization.single_scale
    values = given.astype(np.float32, copy=False)
    share = np.count_nonzero((values < low - step) | (values > high + step)) / max(values.size, 1)
    if share <= CUT_OFF:
        return ""
    return (
        f"{origin}: {100 * share:.0f} % of the values lie outside {low:.4g}..{high:.4g}, the range "
        f"of input '{name}'; they were cut off"
    )


def _listed(names: Collection[str]) -> str:
    shown = [repr(str(name)) for name in itertools.islice(names, MOST_LISTED)]
    if len(names) > MOST_LISTED:
        shown.append(f"and {len(names) - MOST_LISTED} more")
    return ", ".join(shown) or "none"


def _labels(labels: AnyArray, count: int, origin: str) -> NDArray[np.int64]:
    flat = np.squeeze(labels)
    if labels.size == 1:
        flat = flat.reshape(1)
    if flat.ndim != 1 or len(flat) != count or flat.dtype.kind not in "iu":
        raise InputError(
            f"{origin}: labels 'y' do not fit the data\n"
            f"  expected {count} class indices of an integer type; "
            f"found {labels.dtype} {list(labels.shape)}"
        )
    return flat.astype(np.int64)


def stored_feeds(
    graph: Graph, given: Mapping[str, AnyArray], origin: str = "feeds"
) -> dict[str, AnyArray]:
    """Stored values of all inputs, samples on axis 0, equally many for each.

    Raises:
        InputError: A name, type, shape or value does not fit.
    """
    for name in given:
        if name not in graph.inputs:
            raise InputError(f"{origin}: {unknown('input', name, graph.inputs)}")
    missing = [name for name in graph.inputs if name not in given]
    if missing:
        raise InputError(f"{origin}: no value for input '{missing[0]}'")
    feeds: dict[str, AnyArray] = {}
    counts: dict[str, int] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        feeds[name] = _stored(graph, tensor, np.asarray(given[name]), origin)
        counts[name] = len(feeds[name]) // (1 if graph.batch is None else _rows(tensor))
    if len(set(counts.values())) > 1:
        sizes = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise InputError(f"{origin}: the inputs differ in their number of samples: {sizes}")
    return feeds


def _stored(graph: Graph, tensor: Tensor, array: AnyArray, origin: str) -> AnyArray:
    """Samples of one input in the type and shape the graph computes in."""

    def refuse(why: str) -> InputError:
        return InputError(
            f"{origin}: data for input '{tensor.name}' of {graph.name}: {why}\n"
            f"  expected {_expected(graph, tensor)}\n  found {_found(array)}"
        )

    if array.ndim and not len(array):
        raise refuse("no samples")
    shape = _sample_shape(graph, tensor, array)
    if shape is None:
        raise refuse("the shape does not fit")
    if array.dtype == tensor.dtype.numpy and tensor.dtype is not DType.OTHER:
        values = array.reshape(shape)
        if tensor.dtype in (DType.INT4, DType.UINT4):
            low, high = tensor.dtype.code_range
            if values.min() < low or values.max() > high:
                raise refuse("values lie outside the range")
        elif tensor.dtype.is_float and not np.isfinite(values).all():
            raise refuse("values that are not finite")
        return values
    if array.dtype == np.float32 and _takes_reals(tensor):
        if not np.isfinite(array).all():
            raise refuse("values that are not finite")
        return quantized(array.reshape(shape).astype(np.float32), tensor, graph.arithmetic)
    raise refuse("the type does not fit")


def _takes_reals(tensor: Tensor) -> bool:
    """Whether real numbers can be quantized to it."""
    scales = tensor.quantization
    return scales is not None and scales.is_per_tensor and tensor.dtype in _QUANTIZED_TYPES


def _rows(tensor: Tensor) -> int:
    """Length of axis 0 in one execution of a graph with a fixed batch."""
    return (tensor.shape[0] or 1) if tensor.shape else 1


def _tail(tensor: Tensor) -> tuple[int, ...]:
    return tuple(length or 1 for length in tensor.shape[1:])


def _sample_shape(graph: Graph, tensor: Tensor, array: AnyArray) -> tuple[int, ...] | None:
    """Shape of `array` as samples of `tensor`; None if it cannot be meant so.

    Axes of length one may be missing or added, and samples may be flat. Other reshapes, which
    would only hide swapped axes, do not fit.
    """
    wanted = _tail(tensor)
    if array.ndim == 0:
        return (1,) if not tensor.shape else None
    samples, *found = array.shape
    squeezed = [length for length in found if length != 1]
    same = squeezed == [length for length in wanted if length != 1]
    flat = len(squeezed) == 1 or len([length for length in wanted if length != 1]) == 1
    fits = same or (flat and int(np.prod(found)) == int(np.prod(wanted)))
    group = 1 if graph.batch is None else _rows(tensor)
    if not fits or samples == 0 or samples % group:
        return None
    return (samples, *wanted)


def _expected(graph: Graph, tensor: Tensor) -> str:
    first = "N" if graph.batch is None else f"a multiple of {_rows(tensor)}"
    shape = f"[{', '.join([first, *(str(length) for length in _tail(tensor))])}]"
    if _takes_reals(tensor):
        (low, high), (least, most) = tensor.dtype.code_range, tensor.real_range
        return (
            f"{tensor.dtype.value} {shape}, stored values {low}..{high}, "
            f"or float32 real values (range {least:.6g}..{most:.6g})"
        )
    return f"{tensor.dtype.value} {shape}"


def _found(array: AnyArray) -> str:
    text = f"{array.dtype} {list(array.shape)}"
    if array.size and array.dtype.kind in "iuf":
        text += f", values {array.min():.6g}..{array.max():.6g}"
    return text


def read_arrays(path: Path, wanted: set[str]) -> tuple[dict[str, AnyArray], list[str]]:
    """Arrays of a .npz by name, those in `wanted` only, or the array of a .npy as ``x``.

    Returns:
        The arrays, and the names of all that the file holds.

    Raises:
        InputError: No such file, another format, damaged, pickled objects, or too large.
    """
    with _readable(path):
        if zipfile.is_zipfile(path):
            arrays: dict[str, AnyArray] = {}
            present = []
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    name = entry.filename.removesuffix(".npy")
                    if name != entry.filename:
                        present.append(name)
                    if name in wanted and name != entry.filename:
                        with archive.open(entry) as member:
                            _check_claim(member, entry.file_size)
                        with archive.open(entry) as member:
                            arrays[name] = npy.read_array(member, allow_pickle=False)
            return arrays, present
        with path.open("rb") as file:
            if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
                raise ValueError("it begins as a .npz, but its end is missing or damaged")
            file.seek(0)
            _check_claim(file, path.stat().st_size)
            file.seek(0)
            array = np.asarray(npy.read_array(file, allow_pickle=False))
            return {_DATA_NAME: array}, [_DATA_NAME]


def _check_claim(file: IO[bytes], size: int) -> None:
    """Refuse a header that promises more than the file holds, before memory is taken for it."""
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    count = 1
    for length in shape:  # Python integers: no overflow
        count *= length
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if count * dtype.itemsize > min(size, MAX_BYTES):
        raise ValueError(
            f"its header says {dtype} {list(shape)}, more than "
            + ("the file holds" if count * dtype.itemsize > size else f"{MAX_BYTES} bytes")
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except _UNREADABLE as error:
        raise InputError(f"{path}: not a readable .npz or .npy file ({error})") from None
