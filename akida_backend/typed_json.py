# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses as JSON beside a heap of arrays, and back, led by their type hints.

What is written: None, bool, int, float, str; enumerations as their value; tuples as lists;
mappings from str as objects; dataclasses as objects with every field and, under ``class``, their
name. An array is ``[dtype, shape, offset]`` and bytes are ``[offset, size]``, both in the heap, at
multiples of 64 bytes from its beginning; equal arrays are stored once. Floats that JSON lacks are
``"nan"``, ``"inf"`` and ``"-inf"``. Equal values give equal bytes.

Reading builds nothing but what the hints name: unknown classes, missing and further fields and
values of another type are refused.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

import numpy as np

from akida_backend.constraint_rules import Limit
from akida_backend.graph import AnyArray
from akida_backend.sealed_bytes import ALIGNMENT

T = TypeVar("T")

Skipped = frozenset[tuple[type, str]]  # fields that keep their default

_CLASS: Final = "class"
_NOT_FINITE: Final = ("nan", "inf", "-inf")
_MAX_RANK: Final = 16
_DTYPES: Final = frozenset(
    {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
    | {"float16", "float32", "float64"}
)
# Aliases that name themselves, which `typing.get_type_hints` resolves to a finite depth.
_RECURSIVE: Final = {"Limit": Limit}


class MalformedError(Exception):
    """A JSON value does not fit its type hint; the text says where and why."""


# Writing


@dataclass
class Writer:
    """Encodes values; `heap` grows by their arrays.

    Attributes:
        skipped: Fields that are not written.
        heap: What stands behind the JSON text.
    """

    skipped: Skipped = frozenset()
    heap: bytearray = field(default_factory=bytearray)
    _known: dict[bytes, int] = field(default_factory=dict)

    def encode(self, value: object) -> object:
        """The JSON value of `value`.

        Raises:
            TypeError: A value of a type this form does not have.
        """
        match value:
            case enum.Enum():
                return value.value
            case None | bool() | str():
                return value
            case int() | np.integer():
                return int(value)
            case float():
                return float(value) if math.isfinite(value) else repr(float(value))
            case tuple():
                return [self.encode(item) for item in value]
            case bytes():
                return [self._store(value), len(value)]
            case np.ndarray():
                return self._array(value)
            case Mapping():
                return {_text(key): self.encode(item) for key, item in value.items()}
            case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
                return {_CLASS: type(value).__name__, **self._fields(type(value), value)}
            case _:
                raise TypeError(f"{type(value).__name__} has no written form")

    def _fields(self, kind: type, value: object) -> dict[str, object]:
        written: dict[str, object] = {}
        for name, hint in _hints(kind).items():
            if (kind, name) not in self.skipped:
                item = getattr(value, name)
                # A number that the hint calls a float comes back as one.
                written[name] = self.encode(float(item) if hint is float else item)
        return written

    def _array(self, array: AnyArray) -> object:
        if array.dtype.name not in _DTYPES:
            raise TypeError(f"an array of {array.dtype.name} has no written form")
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return [array.dtype.name, list(array.shape), self._store(data)]

    def _store(self, data: bytes) -> int:
        known = self._known.get(data)
        if known is not None:
            return known
        self.heap += bytes(-len(self.heap) % ALIGNMENT)
        offset = self._known[data] = len(self.heap)
        self.heap += data
        return offset


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{type(key).__name__} as a key has no written form")
    return key


# Reading


@dataclass(frozen=True, slots=True)
class Reader:
    """Decodes values; arrays are views of `heap`.

    Attributes:
        heap: What stands behind the JSON text.
        skipped: Fields that are not written.
    """

    heap: memoryview
    skipped: Skipped = frozenset()

    def decode(self, wanted: type[T], value: object, where: str) -> T:
        """The object of class `wanted` that `value` stands for.

        Raises:
            MalformedError: It stands for none.
        """
        decoded = self._value(wanted, value, where)
        assert isinstance(decoded, wanted)
        return decoded

    def _value(self, hint: Any, value: object, where: str) -> object:  # noqa: ANN401
        if isinstance(hint, ForwardRef):
            hint = _RECURSIVE[hint.__forward_arg__]
        origin = get_origin(hint)
        if origin is Union or origin is types.UnionType:
            return self._union(hint, value, where)
        if origin is Literal:
            if value in get_args(hint):
                return value
            raise _malformed(where, f"one of {get_args(hint)}", value)
        if origin is tuple:
            return self._tuple(get_args(hint), value, where)
        if origin is np.ndarray:
            return self._array(hint, value, where)
        if origin is not None and issubclass(origin, Mapping):
            _, item = get_args(hint)
            return {
                key: self._value(item, entry, f"{where}[{key!r}]")
                for key, entry in _object(value, where).items()
            }
        if hint is bytes:
            offset, size = _numbers(value, 2, where)
            return bytes(self._part(offset, size, where))
        assert isinstance(hint, type)
        if dataclasses.is_dataclass(hint):
            return self._dataclass(hint, value, where)
        if issubclass(hint, enum.Enum):
            return _member(hint, value, where)
        return _plain(hint, value, where)

    def _union(self, hint: Any, value: object, where: str) -> object:  # noqa: ANN401
        classes, others = _members(hint)
        if isinstance(value, dict) and classes:
            name = value.get(_CLASS)
            if not isinstance(name, str) or name not in classes:
                raise _malformed(where, "a known class", name)
            return self._dataclass(classes[name], value, where)
        problem = None
        for member in others:
            try:
                return self._value(member, value, where)
            except MalformedError as error:
                problem = error
        raise problem or _malformed(where, "an object", value)

    def _dataclass(self, wanted: type, value: object, where: str) -> object:
        entries = dict(_object(value, where))
        name = entries.pop(_CLASS, None)
        if name != wanted.__name__:
            raise _malformed(where, f"a {wanted.__name__}", name)
        hints = {k: h for k, h in _hints(wanted).items() if (wanted, k) not in self.skipped}
        if entries.keys() != hints.keys():
            raise MalformedError(
                f"{where}: {wanted.__name__} has the fields {', '.join(hints)}; "
                f"found {', '.join(entries) or 'none'}"
            )
        fields = {k: self._value(h, entries[k], f"{where}.{k}") for k, h in hints.items()}
        built: object = wanted(**fields)
        return built

    def _tuple(self, members: tuple[Any, ...], value: object, where: str) -> tuple[object, ...]:
        items = _list(value, where)
        if members[1:] == (...,):
            members = members[:1] * len(items)
        if len(items) != len(members):
            raise MalformedError(f"{where}: {len(members)} entries expected, found {len(items)}")
        pairs = enumerate(zip(members, items, strict=True))
        return tuple(self._value(hint, item, f"{where}[{i}]") for i, (hint, item) in pairs)

    def _array(self, hint: Any, value: object, where: str) -> AnyArray:  # noqa: ANN401
        items = _list(value, where)
        if len(items) != 3 or not isinstance(items[0], str) or items[0] not in _DTYPES:
            raise _malformed(where, "an array", value)
        name, lengths, offset = items
        wanted = get_args(get_args(hint)[1])[0]
        if wanted is not np.generic and np.dtype(wanted).name != name:
            raise _malformed(where, f"an array of {np.dtype(wanted).name}", name)
        shape = _numbers(lengths, None, where)
        if len(shape) > _MAX_RANK:
            raise MalformedError(f"{where}: {len(shape)} axes, at most {_MAX_RANK} are read")
        dtype: np.dtype[np.generic] = np.dtype(str(name))
        (start,) = _numbers([offset], 1, where)
        part = self._part(start, math.prod(shape) * dtype.itemsize, where)
        stored = np.frombuffer(part, dtype.newbyteorder("<")).astype(dtype, copy=False)
        if dtype == np.bool_ and part.nbytes and max(part) > 1:
            raise MalformedError(f"{where}: bytes that are neither false nor true")
        array: AnyArray = stored.reshape(shape)
        return array

    def _part(self, offset: int, size: int, where: str) -> memoryview:
        if offset % ALIGNMENT or offset + size > len(self.heap):
            raise MalformedError(
                f"{where}: {size} bytes at {offset} of a heap of {len(self.heap)} bytes"
            )
        return self.heap[offset : offset + size]


@cache
def _hints(wanted: type) -> Mapping[str, Any]:
    """Type hints of the fields of a dataclass, in their order."""
    hints = typing.get_type_hints(wanted)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(wanted)}


@cache
def _members(hint: Any) -> tuple[Mapping[str, type], tuple[Any, ...]]:  # noqa: ANN401
    """Members of a union: dataclasses by name, then the others."""
    members = get_args(hint)
    classes = [m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)]
    return {m.__name__: m for m in classes}, tuple(m for m in members if m not in classes)


def _member(wanted: type[enum.Enum], value: object, where: str) -> enum.Enum:
    try:
        return wanted(value)
    except ValueError:
        raise _malformed(where, f"a {wanted.__name__}", value) from None


def _plain(wanted: type, value: object, where: str) -> object:
    if wanted is float and value in _NOT_FINITE:
        return float(str(value))
    if type(value) is not wanted:  # a bool is no int here
        raise _malformed(where, wanted.__name__, value)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise _malformed(where, "a number of 64 bits", value)
    return value


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _malformed(where, "an object", value)
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise _malformed(where, "a list", value)
    return value


def _numbers(value: object, count: int | None, where: str) -> tuple[int, ...]:
    items = _list(value, where)
    numbers = tuple(item for item in items if type(item) is int and 0 <= item < 2**31)
    if len(numbers) != len(items) or (count is not None and len(items) != count):
        raise _malformed(where, "offsets and lengths", value)
    return numbers


def _malformed(where: str, wanted: str, found: object) -> MalformedError:
    text = repr(found)
    return MalformedError(
        f"{where}: {wanted} expected, found {text if len(text) <= 60 else text[:57] + '...'}"
    )
