# SPDX-License-Identifier: Apache-2.0
"""The one schema of compile and run options: Python, command line, provider and delegate."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from akida_backend.errors import InputError

Fallback = Literal["allow", "warn", "error", "strict"]
Emulation = Literal["device", "source"]
Host = Literal["reference", "runtime"]
Calibration = (
    str | os.PathLike[str] | NDArray[np.generic] | Mapping[str, NDArray[np.generic]] | None
)


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """How to compile and run. Unknown names and values are refused by `Options.parse`.

    Attributes:
        device: Name of a device profile.
        emulation: ``device``: Akida integer arithmetic. ``source``: device segments executed
            as the source operations they stand for.
        threads: That run device segments, with the native engine.
        host: Who runs host segments: reference arithmetic, or an installed runtime.
        fallback: ``allow``; ``warn``: one line when work stays on the host; ``error``: refuse
            then; ``strict``: refuse also for boundary operations.
        allow: Only these run on the device: ``type:CONV_2D``, ``name:conv_1``, or ``op:12``, the
            number in reports. Empty: all.
        deny: These never run on the device, same form.
        max_partitions: Largest number of device segments, 0 for any.
        min_partition_macs: Segments with fewer MACs go to the host.
        calibration: Inputs to choose scales from: .npz or .npy path, array, or arrays by name.
        calibration_limit: Samples of it that are used, the first ones.
        allow_uncalibrated: Where calibration inputs are too few to be of use, do without them
            instead of refusing.
        strict_converter: Also obey rules that only the vendor's converter states.
        strict_hardware: Rely on nothing undocumented, such as the activation of Add.
        diagonal_depthwise: On Akida 1.0 a depthwise layer with an activation of its own becomes a
            full convolution with zeros between the channels, which multiplies its MACs by their
            number.
    """

    device: str = "akida2"
    emulation: Emulation = "device"
    threads: int = 1
    host: Host = "reference"
    fallback: Fallback = "allow"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    max_partitions: int = 0
    min_partition_macs: int = 0
    calibration: Calibration = None
    calibration_limit: int = 64
    allow_uncalibrated: bool = False
    strict_converter: bool = False
    strict_hardware: bool = False
    diagonal_depthwise: bool = False

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Options:
        """Build options from names and values, which may be strings as plug-ins pass them.

        Raises:
            InputError: An unknown name (the nearest one and the list are named), or a value of
                the wrong type or range.
        """
        known = {f.name: f for f in dataclasses.fields(cls)}
        for name in given:
            if name not in known:
                raise InputError(unknown("option", name, tuple(known)))
        return cls(**{name: _value(name, value) for name, value in given.items()})  # type: ignore[arg-type]


_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "emulation": get_args(Emulation),
    "host": get_args(Host),
    "fallback": get_args(Fallback),
}
MAX_THREADS: Final = 256
_NUMBERS: Final[Mapping[str, tuple[int, int | None]]] = {  # least and greatest
    "threads": (1, MAX_THREADS),
    "max_partitions": (0, None),
    "min_partition_macs": (0, None),
    "calibration_limit": (0, None),
}
_FLAGS: Final = (
    "allow_uncalibrated",
    "strict_converter",
    "strict_hardware",
    "diagonal_depthwise",
)
_LISTS: Final = ("allow", "deny")


LISTED_LENGTH: Final = 400  # characters of names that are listed: all options fit
MOST_LISTED: Final = 5  # names, where all are longer


def unknown(kind: str, name: str, known: tuple[str, ...]) -> str:
    """Text for a name that is not known: the nearest one, and all or some of them."""
    by_lower = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=9, cutoff=0.4)
    near.sort(key=lambda entry: _likeness(entry, name.lower()), reverse=True)
    nearest = [by_lower[entry] for entry in near]
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    listed = ", ".join(known)
    if len(listed) > LISTED_LENGTH:
        few = list(dict.fromkeys((*nearest, *known)))[:MOST_LISTED]
        while len(few) > 1 and sum(map(len, few)) > LISTED_LENGTH:
            few.pop()
        listed = f"{', '.join(few)}, and {len(known) - len(few)} more"
    return f"unknown {kind} '{name}'{hint}\n  known: {listed}"


def _likeness(entry: str, name: str) -> tuple[float, int]:
    """Of equally near names, one that begins alike is meant."""
    matcher = difflib.SequenceMatcher(None, entry, name)
    first = matcher.get_matching_blocks()[0]
    return matcher.ratio(), first.size if first.a == first.b == 0 else 0


def _value(name: str, value: object) -> object:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise InputError(unknown(f"value of option '{name}'", str(value), _CHOICES[name]))
        return value
    if name in _NUMBERS:
        least, greatest = _NUMBERS[name]
        try:
            number = int(str(value))
        except ValueError:
            number = -1
        if number < least or (greatest is not None and number > greatest):
            span = f"of at least {least}" if greatest is None else f"from {least} to {greatest}"
            raise InputError(f"option '{name}' needs a whole number {span}, got {value!r}")
        return number
    if name in _FLAGS:
        text = str(value).lower()
        if text not in ("true", "false", "1", "0"):
            raise InputError(f"option '{name}' needs true or false, got {value!r}")
        return text in ("true", "1")
    if name in _LISTS:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (tuple, list)):
            raise InputError(
                f"option '{name}' needs a list of type:..., name:... and op:..., got {value!r}"
            )
        entries = tuple(str(part).strip() for part in parts if str(part).strip())
        for entry in entries:
            if not entry.startswith(("type:", "name:", "op:")):
                raise InputError(
                    f"option '{name}' needs entries of the form type:CONV_2D, name:conv_1 or "
                    f"op:12, got '{entry}'"
                )
        return entries
    return value
