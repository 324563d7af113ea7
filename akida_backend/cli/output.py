# SPDX-License-Identifier: Apache-2.0
"""Where results, files, messages and progress go."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from akida_backend import document
from akida_backend.document import Document
from akida_backend.errors import InputError
from akida_backend.graph import AnyArray
from akida_backend.writing import replacing

LINE = 76  # of a narrow terminal
NARROWEST = 40  # columns that reports are laid out for


def show(parsed: argparse.Namespace, shown: Document, data: dict[str, Any]) -> None:
    """Print a result, and write it as JSON where that was asked for."""
    as_json = json.dumps(data, indent=2, allow_nan=False) + "\n"
    if parsed.json == "-":
        to_stdout(as_json)
        return
    if parsed.json is not None:
        with replacing(Path(parsed.json)) as file:
            file.write(as_json.encode())
    if getattr(parsed, "format", "text") == "markdown":
        to_stdout(document.markdown(shown))
    else:
        encoding = sys.stdout.encoding or "utf-8"
        to_stdout(document.text(shown, width=_width(), encoding=encoding))


def _width() -> int:
    """Columns of the terminal or of COLUMNS; else always the same, to compare transcripts."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return document.WIDTH
    return max(shutil.get_terminal_size((document.WIDTH, 24)).columns, NARROWEST)


def to_stdout(text: str) -> None:
    """Print; a reader that closed the pipe early, as ``head`` does, is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whatever is still buffered goes nowhere when the interpreter flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UnicodeEncodeError:
        sys.stdout.write(document.plain(text, sys.stdout.encoding or "ascii"))
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered must not fail a second time at the end of the interpreter.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError(f"standard output cannot be written: {error.strerror}") from error


def say(message: str) -> None:
    """A message to the person at the terminal."""
    sys.stderr.write(f"akida-backend: {message}\n")


def write_arrays(file: BinaryIO, arrays: Mapping[str, AnyArray]) -> None:
    """A .npz of arrays by name; numpy's own function cannot write one named ``file``."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error while samples run; nothing where no one watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


class _QuantizerLine(logging.Handler):
    """One line of a terminal that names the layer being quantized, and goes when it is done."""

    shown = 0  # columns of the line that is there

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.show(message if message.startswith("quantizing") else "")

    def show(self, message: str) -> None:
        """Blanks clear what was there: not every terminal knows a command for it."""
        message = document.plain(message, "utf-8")
        text = message if len(message) <= LINE else f"{message[: LINE - 3]}..."
        if self.shown:
            sys.stderr.write(f"\r{' ' * self.shown}\r")
        sys.stderr.write(text)
        sys.stderr.flush()
        self.shown = len(text)


@contextmanager
def quantizer_shown() -> Iterator[None]:
    """Name layers on standard error while they are quantized; nothing where no one watches."""
    if not sys.stderr.isatty():
        yield
        return
    logger, line = logging.getLogger("akida_backend.four_bit"), _QuantizerLine()
    level = logger.level
    logger.addHandler(line)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(line)
        logger.setLevel(level)
        line.show("")
