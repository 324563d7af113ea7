# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or not there."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from akida_backend.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is complete.

    A link is followed, and a file that was there passes on its permissions.

    Raises:
        InputError: It cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # /dev/null, or /dev/stdout that is a pipe
            with path.open("wb") as special:
                yield special
            return
        target = Path(os.path.realpath(path))
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        with open(temporary, "xb", opener=_private if mode is not None else None) as file:
            try:
                yield file
                file.close()
                if mode is not None:
                    temporary.chmod(mode)
                temporary.replace(target)
            except BaseException:
                file.close()
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """A text file with Unix line ends; folders that lead to it are made.

    Raises:
        InputError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    with replacing(path) as file:
        file.write(text.encode())


def spare(output: str | os.PathLike[str], inputs: Iterable[object]) -> None:
    """Refuse to write over a file that is read, also under another name.

    Args:
        output: Where to write.
        inputs: Paths; whatever else was given as input is passed over.

    Raises:
        InputError: One of the inputs is that file.
    """
    for given in inputs:
        if isinstance(given, str | os.PathLike) and _is_same(Path(output), Path(given)):
            raise InputError(
                f"{os.fspath(output)}: is the input {os.fspath(given)} itself, which would be "
                "lost\n  Give another name to write to."
            )


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.is_file() and second.is_file() and first.samefile(second)
    except (OSError, ValueError):
        return False  # whoever opens it says why it cannot be opened


def _private(path: str, flags: int) -> int:
    """Opens a file that only its owner reads; without it a new file gets the usual permissions."""
    return os.open(path, flags, 0o600)
