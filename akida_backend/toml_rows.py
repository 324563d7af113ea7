# SPDX-License-Identifier: Apache-2.0
"""The package's own TOML data, read with types: wrong data fails on load and says where."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from enum import StrEnum
from importlib.resources import files
from typing import TypeVar

ScalarT = TypeVar("ScalarT", str, int, bool)
EnumT = TypeVar("EnumT", bound=StrEnum)


class Row:
    """One TOML table. `finish` refuses the keys nobody asked for.

    Args:
        where: What messages name: file and row.
        table: The parsed table.
    """

    def __init__(self, where: str, table: object) -> None:
        if not isinstance(table, Mapping):
            raise ValueError(f"{where}: expected a table, found {table!r}")  # noqa: TRY004
        self.where = where
        self._left: dict[str, object] = {str(key): value for key, value in table.items()}

    def value(self, key: str) -> object:
        """The value as TOML gives it, None if the key is absent."""
        return self._left.pop(key, None)

    def find(self, key: str, kind: type[ScalarT]) -> ScalarT | None:
        value = self.value(key)
        if value is None:
            return None
        if type(value) is not kind:  # bool is an int to isinstance
            raise self.error(f"'{key}' is not of type {kind.__name__}: {value!r}")
        return kind(value)

    def need(self, key: str, kind: type[ScalarT]) -> ScalarT:
        value = self.find(key, kind)
        if value is None:
            raise self.error(f"'{key}' is missing")
        return value

    def list_of(self, key: str, kind: type[ScalarT]) -> tuple[ScalarT, ...]:
        value = self.value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or any(type(item) is not kind for item in value):
            raise self.error(f"'{key}' is not a list of {kind.__name__}: {value!r}")
        return tuple(kind(item) for item in value)

    def choice(self, key: str, kind: type[EnumT], default: EnumT | None = None) -> EnumT:
        value = self.find(key, str)
        if value is None and default is not None:
            return default
        names = [member.value for member in kind]
        if value not in names:
            raise self.error(f"'{key}' is {value!r}, not one of {', '.join(names)}")
        return kind(value)

    def rows(self, key: str) -> tuple[Row, ...]:
        """The tables of an array of tables, each named by its `id`."""
        value = self.value(key)
        if not isinstance(value, list):
            raise self.error(f"'{key}' is not an array of tables")
        return tuple(
            Row(
                f"{self.where}: {key} {item.get('id', '?') if isinstance(item, dict) else '?'}",
                item,
            )
            for item in value
        )

    def named_rows(self, key: str) -> dict[str, Row]:
        """The sub-tables of a table, by name."""
        table = Row(f"{self.where}: {key}", self.value(key))
        return {name: Row(f"{table.where}.{name}", value) for name, value in table._left.items()}

    def strings(self) -> dict[str, str]:
        """The whole table as names and strings."""
        return {name: self.need(name, str) for name in tuple(self._left)}

    def finish(self) -> None:
        if self._left:
            raise self.error(f"unknown key '{next(iter(self._left))}'")

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self.where}: {problem}")


def read_rows(name: str, text: str | None = None) -> Row:
    """Parse one file of ``akida_backend/profiles``, or `text` in its place."""
    if text is None:
        text = files("akida_backend").joinpath("profiles", name).read_text(encoding="utf-8")
    return Row(name, tomllib.loads(text))
