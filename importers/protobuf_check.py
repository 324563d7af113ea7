# SPDX-License-Identifier: Apache-2.0
"""What a protobuf message would cost to parse, counted on its bytes before anything is built.

A parser makes an object of some hundred bytes from a record of two: a small file could fill the
memory. Here the records are counted first, along the message's own description; the values of
large constants are skipped, not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_RECORDS: Final = 2**19
MAX_DEPTH: Final = 64

_TEXT_TYPE: Final = 9
_MESSAGE_TYPE: Final = 11
# A packed list of varints grows from one byte to eight an entry.
_PACKED_BYTES_PER_RECORD: Final = 128
_VALUE_FIELDS: Final = frozenset({"raw_data", "float_data", "double_data", "doc_string"})


class CostlyMessageError(Exception):
    """The bytes hold too many records, or no well-formed records."""


def count_records(data: bytes, descriptor: Any) -> int:  # noqa: ANN401
    """Records in a serialised message.

    Raises:
        CostlyMessageError: There are more than `MAX_RECORDS`, or the bytes are malformed.
    """
    return _Scan(data).message(0, len(data), descriptor, 0)


@dataclass(frozen=True, slots=True)
class _Field:
    """What a field holds: a message of this description, text, or values."""

    message: Any = None
    is_text: bool = False
    is_skipped: bool = False


_UNKNOWN: Final = _Field()


class _Scan:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_RECORDS
        self._fields: dict[str, Mapping[int, _Field]] = {}

    def message(self, start: int, end: int, descriptor: Any, depth: int) -> int:  # noqa: ANN401
        if depth > MAX_DEPTH:
            raise CostlyMessageError(f"messages lie in one another {depth} deep")
        fields = self._fields_of(descriptor)
        position, found = start, 0
        while position < end:
            key, position = self._varint(position, end)
            field = fields.get(key >> 3, _UNKNOWN)
            self._take(1)
            found += 1
            match key & 7:
                case 0:
                    _, position = self._varint(position, end)
                case 1:
                    position += 8
                case 5:
                    position += 4
                case 2:
                    size, position = self._varint(position, end)
                    if position + size > end:
                        raise CostlyMessageError(
                            f"a record of {size} bytes at {position} goes beyond the end"
                        )
                    if field.message is not None:
                        found += self.message(position, position + size, field.message, depth + 1)
                    elif field.is_text:
                        self._check_text(position, size)
                    elif not field.is_skipped:
                        self._take(size // _PACKED_BYTES_PER_RECORD)
                    position += size
                case kind:
                    raise CostlyMessageError(f"a record of kind {kind} at {position}")
        if position != end:
            raise CostlyMessageError(f"the record at {position} goes beyond the end")
        return found

    def _check_text(self, position: int, size: int) -> None:
        try:
            self._data[position : position + size].decode()
        except UnicodeDecodeError:
            raise CostlyMessageError(f"the text at {position} is not UTF-8") from None

    def _fields_of(self, descriptor: Any) -> Mapping[int, _Field]:  # noqa: ANN401
        """The fields of a message by number."""
        known = self._fields.get(descriptor.full_name)
        if known is None:
            known = {
                field.number: _Field(
                    field.message_type if field.type == _MESSAGE_TYPE else None,
                    is_text=field.type == _TEXT_TYPE,
                    is_skipped=field.name in _VALUE_FIELDS,
                )
                for field in descriptor.fields
            }
            self._fields[descriptor.full_name] = known
        return known

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while position < end and shift < 70:
            byte = self._data[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
        raise CostlyMessageError(f"a number without end at {position}")

    def _take(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise CostlyMessageError(f"the file holds more than {MAX_RECORDS} records")
