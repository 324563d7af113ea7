# SPDX-License-Identifier: Apache-2.0
"""Devices a model can be compiled for: published facts, from ``profiles/devices.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from akida_backend.errors import InputError
from akida_backend.options import unknown
from akida_backend.toml_rows import Row, read_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A chip, board or IP size. None where nothing is published.

    Attributes:
        name: Canonical name, such as ``akida2``.
        title: Name for reports.
        generation: 1 or 2.
        constraints: Name of the profile of layer limits.
        nodes: Nodes of four neural processors (NPs) each.
        nps: Neural processors.
        mesh: Rows and columns of nodes.
        virtual: Exists only as a simulated device of the vendor's tools.
        partial_reconfiguration: Can load a model in several passes.
        clock_mhz: Highest published clock.
        clock_note: What else is known of the clock.
        np_line_limit: Values of axis 1 one NP holds; a wider map is tiled over several.
        power_floor_mw: Lowest and highest published idle power.
        power_note: What that power includes.
        process: Manufacturing process.
        memory: Memory as published.
        interfaces: Host interfaces.
        hw_version: The vendor's version string.
        metatf_name: What the vendor's tools call it.
        sources: Publications, readable.
    """

    name: str
    title: str
    generation: int
    constraints: str
    nodes: int | None = None
    nps: int | None = None
    mesh: tuple[int, ...] = ()
    virtual: bool = False
    partial_reconfiguration: bool | None = None
    clock_mhz: int | None = None
    clock_note: str | None = None
    np_line_limit: int | None = None
    power_floor_mw: tuple[int, ...] = ()
    power_note: str | None = None
    process: str | None = None
    memory: str | None = None
    interfaces: tuple[str, ...] = ()
    hw_version: str | None = None
    metatf_name: str | None = None
    sources: tuple[str, ...]


@cache
def source_names() -> Mapping[str, str]:
    """Readable name of each publication, by the tag that the data use."""
    return read_rows("sources.toml").strings()


def devices() -> tuple[Device, ...]:
    """All devices, the default first."""
    return tuple(_table().values())


def device(name: str | Device) -> Device:
    """The device of a name: without regard to case, MetaTF names such as ``AKD1000()`` too.

    Raises:
        InputError: No such device; the nearest name and all names are given.
    """
    if isinstance(name, Device):
        name = name.name
    if not isinstance(name, str):
        raise InputError(
            f"a device is given by its name, not as {type(name).__name__}\n"
            f"  known: {', '.join(_table())}"
        )
    wanted = _key(name)
    for known in devices():
        names = (known.name, known.metatf_name or known.name)
        if wanted in map(_key, names):
            return known
    reason = _unsupported().get(wanted)
    every = tuple(_table())
    if reason is not None:
        raise InputError(f"device '{name}' is not supported: {reason}\n  known: {', '.join(every)}")
    raise InputError(unknown("device", name, every))


def _key(name: str) -> str:
    return name.strip().casefold().removesuffix("()")


@cache
def _table() -> Mapping[str, Device]:
    rows = read_rows("devices.toml").named_rows("device")
    return {name: _device(name, row) for name, row in rows.items()}


@cache
def _unsupported() -> Mapping[str, str]:
    file = read_rows("devices.toml")
    return Row("devices.toml: unsupported", file.value("unsupported")).strings()


def _device(name: str, row: Row) -> Device:
    built = Device(
        name=name,
        title=row.need("title", str),
        generation=row.need("generation", int),
        constraints=row.need("constraints", str),
        nodes=row.find("nodes", int),
        nps=row.find("nps", int),
        mesh=row.list_of("mesh", int),
        virtual=row.find("virtual", bool) or False,
        partial_reconfiguration=row.find("partial_reconfiguration", bool),
        clock_mhz=row.find("clock_mhz", int),
        clock_note=row.find("clock_note", str),
        np_line_limit=row.find("np_line_limit", int),
        power_floor_mw=row.list_of("power_floor_mw", int),
        power_note=row.find("power_note", str),
        process=row.find("process", str),
        memory=row.find("memory", str),
        interfaces=row.list_of("interfaces", str),
        hw_version=row.find("hw_version", str),
        metatf_name=row.find("metatf_name", str),
        sources=tuple(source_names()[tag] for tag in row.list_of("sources", str)),
    )
    row.finish()
    return built
