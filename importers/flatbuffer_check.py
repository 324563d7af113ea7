# SPDX-License-Identifier: Apache-2.0
"""FlatBuffers tables read with every access checked.

The generated Python readers follow any offset they find. Here each of their errors becomes an
`ImportModelError` that names the section and field, the length of a vector is compared with
the file before anything is read from it, and what all vectors together take is bounded, so that
many tables that point at one large vector cost no more than the file could honestly hold.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from flatbuffers.number_types import Int32Flags

from akida_backend.errors import ImportModelError
from akida_backend.graph import AnyArray

_READER_ERRORS = (struct.error, TypeError, ValueError, IndexError, OverflowError)

DAMAGED = "The file is damaged or truncated: export it again, or compare its checksum."


class Allowance:
    """An amount that may be taken in parts."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._left = total

    def take(self, amount: int) -> bool:
        """Take `amount` if that much is left."""
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Budget:
    """What reading one file may take.

    An honest file holds each vector once. Sharing is legal, so a few times the file is allowed.

    Attributes:
        file_bytes: Size of the file.
        scanned: Bytes of vectors looked at where they lie in the file.
        memory: Bytes of decoded or computed constants.
        entries: Entries of vectors that become Python objects.
    """

    def __init__(self, file_bytes: int) -> None:
        self.file_bytes = file_bytes
        self.scanned = Allowance(4 * file_bytes + 2**24)
        self.memory = Allowance(min(8 * file_bytes + 2**24, 2**29))
        self.entries = Allowance(2**20)


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file behind its generated reader class.

    Attributes:
        reader: Generated accessor object.
        where: File and section, for messages.
        budget: Shared by all tables of a file.
    """

    reader: Any
    where: str
    budget: Budget

    def error(self, field: str, problem: str, *, remedy: str = DAMAGED) -> ImportModelError:
        """What is wrong with a field of this table; `field` as the generated class names it."""
        where = f"{self.where}, field {_schema_name(field)}"
        return ImportModelError(where, problem, remedy=remedy)

    def has(self, field: str) -> bool:
        """Whether the file gives a sub-table."""
        return self._read(field, field) is not None

    def flag(self, field: str) -> bool:
        return bool(self._read(field, field))

    def real(self, field: str) -> float:
        """A finite number."""
        value = float(self._read(field, field))
        if not math.isfinite(value):
            raise self.error(field, f"{value} is not finite")
        return value

    def integer(self, field: str) -> int:
        return int(self._read(field, field))

    def int32_at(self, slot: int, field: str) -> int:
        """An int32 field, 0 by default, by its place in the table's list of offsets."""
        try:
            table = self.reader._tab
            offset = table.Offset(slot)
            return int(table.Get(Int32Flags, table.Pos + offset)) if offset else 0
        except _READER_ERRORS as error:
            raise self.error(field, "points outside the file") from error

    def text_at(self, slot: int, field: str) -> str:
        """A string field, "" by default, without characters that a terminal would obey.

        Not through the generated accessor, which shortens a string that leaves the file.
        """
        try:
            table = self.reader._tab
            offset = table.Offset(slot)
            start, length = (table.Vector(offset), table.VectorLen(offset)) if offset else (0, 0)
        except _READER_ERRORS as error:
            raise self.error(field, "points outside the file") from error
        if start + length > self.budget.file_bytes:
            raise self.error(field, f"a string of {length} bytes leaves the file")
        self._scan(length, field)
        text = bytes(table.Bytes[start : start + length]).decode("utf-8", errors="replace")
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)

    def length(self, field: str) -> int:
        """Entries of a vector; every entry takes at least a byte of the file."""
        count = int(self._read(f"{field}Length", field))
        if count > self.budget.file_bytes:
            raise self.error(
                field, f"a vector of {count} entries in a file of {self.budget.file_bytes} bytes"
            )
        return count

    def array(self, field: str) -> AnyArray:
        """A vector of scalars, without a copy."""
        if self.length(field) == 0:
            return np.zeros(0, np.uint8)
        values: AnyArray = self._read(f"{field}AsNumpy", field)
        self._scan(values.nbytes, field)
        return values

    def integers(self, field: str) -> tuple[int, ...]:
        """A short vector of integers."""
        values = self.array(field)
        if not self.budget.entries.take(values.size):
            raise self.error(field, "the index vectors of this file have over a million entries")
        return tuple(values.tolist())

    def child(self, field: str, where: str, *index: int) -> Table:
        """A sub-table, or entry `index` of a vector of tables; the caller checked the range."""
        reader = self._read(field, field, *index)
        if reader is None:
            raise self.error(field, "is missing")
        return Table(reader, where, self.budget)

    def optional_child(self, field: str) -> Table | None:
        reader = self._read(field, field)
        if reader is None:
            return None
        return Table(reader, f"{self.where}, {_schema_name(field)}", self.budget)

    def union(self, field: str, reader: Any, where: str) -> Table:  # noqa: ANN401
        """A sub-table of one of several kinds, read by `reader`, an unbound generated object."""
        table = self.child(field, where).reader
        try:
            reader.Init(table.Bytes, table.Pos)
        except _READER_ERRORS as error:
            raise self.error(field, "points outside the file") from error
        return Table(reader, where, self.budget)

    def count(self, field: str, most: int) -> int:
        """Entries of a vector of tables, at most `most`."""
        count = self.length(field)
        if count > most:
            raise self.error(
                field,
                f"{count} entries, more than the {most} this importer reads",
                remedy="Split the model, or report this file if it is genuine.",
            )
        return count

    def _scan(self, size: int, field: str) -> None:
        if not self.budget.scanned.take(size):
            raise self.error(
                field,
                f"the vectors of this file add up to over {self.budget.scanned.total} bytes, "
                f"but it has {self.budget.file_bytes}",
            )

    def _read(self, accessor: str, field: str, *arguments: int) -> Any:  # noqa: ANN401
        try:
            return getattr(self.reader, accessor)(*arguments)
        except _READER_ERRORS as error:
            raise self.error(field, "points outside the file") from error


def _schema_name(field: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", field).lower()
