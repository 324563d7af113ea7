# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from akida_backend.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only once it is complete.

    Raises:
        InputError: It cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or device such as /dev/null
            with path.open("wb") as special:
                yield special
            return
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                yield file  # type: ignore[misc]
                file.close()
                temporary.chmod(0o666 & ~_umask())  # temporary files are private
                temporary.replace(path)
            except BaseException:
                file.close()
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
