# SPDX-License-Identifier: Apache-2.0
"""Reports as blocks, and the blocks as plain text, Markdown or HTML."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Format = Literal["text", "markdown", "html"]
Align = Literal["left", "right", "fold"]

FOLDED_WIDTH: Final = 20  # of a folded column, at least
GAP: Final = 3  # between columns
UNLIMITED: Final = 100_000  # columns: where no terminal limits them, nothing is wrapped


@dataclass(frozen=True, slots=True)
class Heading:
    """Title of what follows."""

    text: str


@dataclass(frozen=True, slots=True)
class Lines:
    """Sentences, one per line."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """Heads with details below each."""

    items: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns as (title, alignment); every row has one cell per column.

    A terminal that is too narrow folds the columns aligned "fold", to the left.
    """

    columns: tuple[tuple[str, Align], ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Commands to copy."""

    lines: tuple[str, ...]


Block = Heading | Lines | Items | Table | Code
Document = Sequence[Block]


def text(document: Document, *, width: int | None = None) -> str:
    """Plain text, nothing cut. `width` is that of the terminal; None: lines of any length."""
    parts = [_text(block, width or UNLIMITED) for block in document]
    lines = "\n\n".join(part for part in parts if part).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _text(block: Block, width: int) -> str:
    match block:
        case Heading(title):
            return title
        case Lines(lines):
            return "\n".join(lines)
        case Code(lines):
            return "\n".join(f"    {line}" for line in lines)
        case Items(items):
            return "\n".join(
                line for head, details in items for line in (f"  {head}", *_indented(details, 6))
            )
        case Table():
            return _text_table(block, width)


def _indented(details: Sequence[str], by: int) -> list[str]:
    return [" " * by + line for detail in details for line in detail.splitlines()]


def _text_table(table: Table, width: int) -> str:
    from rich import box
    from rich import table as rich_table
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    shown = rich_table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    needed = 0
    for i, (title, align) in enumerate(table.columns):
        lines = [*title.splitlines(), *(row[i] for row in table.rows)]
        least = max((cell_len(line) for line in lines), default=0)
        if align == "fold":
            least = min(least, FOLDED_WIDTH)
        shown.add_column(
            title,
            justify="right" if align == "right" else "left",
            overflow="fold",
            no_wrap=align != "fold",
            min_width=least,
        )
        needed += least + GAP
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))  # names may hold what rich reads as markup
    # A terminal narrower than that wraps the lines itself; rich would leave columns out.
    console = Console(
        file=io.StringIO(), width=max(width, needed), color_system=None, legacy_windows=False
    )
    with console.capture() as captured:
        console.print(shown)
    return captured.get().rstrip("\n")


def markdown(document: Document) -> str:
    """GitHub-flavoured Markdown."""
    return "\n\n".join(_markdown(block) for block in document) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(title):
            return f"## {_escaped(title)}"
        case Lines(lines):
            return "\n".join(f"{_escaped(line)}  " for line in lines).rstrip()
        case Code(lines):
            return "\n".join(("```sh", *lines, "```"))
        case Items(items):
            return "\n".join(
                line
                for head, details in items
                for line in (f"- {_escaped(head)}", *_bullets(details))
            )
        case Table(columns, rows):
            rule = ["---:" if align == "right" else "---" for _, align in columns]
            table = [[_escaped(" ".join(title.split())) for title, _ in columns], rule]
            table += [[_escaped(cell) for cell in row] for row in rows]
            return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _bullets(details: Sequence[str]) -> list[str]:
    return [f"  - {_escaped(' '.join(detail.splitlines()))}" for detail in details]


def _escaped(cell: str) -> str:
    for mark in ("\\", "|", "*", "_", "<", "`"):
        cell = cell.replace(mark, f"\\{mark}")
    return cell


def html_page_part(document: Document) -> str:
    """HTML for a notebook cell, without scripts or styles of its own."""
    return "\n".join(_html(block) for block in document)


def _html(block: Block) -> str:
    match block:
        case Heading(title):
            return f"<h4>{html.escape(title)}</h4>"
        case Lines(lines):
            return f"<p>{'<br>'.join(html.escape(line) for line in lines)}</p>"
        case Code(lines):
            return f"<pre>{html.escape(chr(10).join(lines))}</pre>"
        case Items(items):
            listed = (
                f"<li>{html.escape(head)}<ul>"
                + "".join(f"<li>{html.escape(detail)}</li>" for detail in details)
                + "</ul></li>"
                for head, details in items
            )
            return f"<ul>{''.join(listed)}</ul>"
        case Table(columns, rows):
            head = "".join(f"<th>{html.escape(title)}</th>" for title, _ in columns)
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows
            )
            return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
