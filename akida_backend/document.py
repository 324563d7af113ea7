# SPDX-License-Identifier: Apache-2.0
"""Reports as blocks, and the blocks as plain text, Markdown or HTML."""

from __future__ import annotations

import dataclasses
import html
import itertools
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Format = Literal["text", "markdown", "html"]
Align = Literal["left", "right", "fold"]

WIDTH: Final = 100  # where no terminal says how wide it is, and of prose everywhere
FOLDED_WIDTH: Final = 20  # of a column aligned "fold", before others are folded
NARROW: Final = 14  # of a column of text, at most, where nothing else helps
GAP: Final = 3  # between columns
NARROW_GAP: Final = 2  # where they do not fit otherwise
SUBSTITUTES: Final = {"─": "-", "±": "+-"}  # for encodings without these

_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_BREAKS: Final = re.compile(r"(?<=[-_;/,.:])|(?<=[a-z])(?=[A-Z])")  # places to break a long word
_ERROR: Final = re.compile(r" ((?:±|\+-) [\d.]+)( \S+)?$", re.MULTILINE)


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

    Where a terminal is too narrow, columns aligned "fold" are folded first; they are aligned left.
    """

    columns: tuple[tuple[str, Align], ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Commands to copy."""

    lines: tuple[str, ...]


Block = Heading | Lines | Items | Table | Code
Document = Sequence[Block]


def _filled(block: Block) -> Block:
    """A table without the columns that have no values: they say nothing."""
    if not isinstance(block, Table) or not block.rows:
        return block
    kept = [any(column) for column in zip(*block.rows, strict=True)]
    columns = tuple(itertools.compress(block.columns, kept))
    return Table(columns, tuple(tuple(itertools.compress(row, kept)) for row in block.rows))


def text(document: Document, *, width: int = WIDTH, encoding: str = "utf-8") -> str:
    """Plain text of at most `width` columns, of prose at most `WIDTH`; no number is cut.

    What `encoding` does not have is replaced; words without a place to break may be wider.
    """
    parts = [_text(_filled(block), width, encoding) for block in document]
    lines = "\n\n".join(part for part in parts if part).split("\n")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def plain(text: str, encoding: str) -> str:
    """Text of characters that `encoding` has, and that do not control the terminal."""
    for mark, substitute in SUBSTITUTES.items():
        if mark in text and not _encodable(mark, encoding):
            text = text.replace(mark, substitute)
    text = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _encodable(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _text(block: Block, width: int, encoding: str) -> str:
    match block:
        case Heading(title):
            return _prose([title], 0, width, encoding)
        case Lines(lines):
            return _prose(lines, 0, width, encoding)
        case Code(lines):
            return "\n".join(f"    {plain(line, encoding)}" for line in lines)
        case Items(items):
            return "\n".join(
                _prose(lines, indent, width, encoding)
                for head, details in items
                for lines, indent in (((head,), 2), (details, 6))
                if lines
            )
        case Table():
            columns = [
                _Column(
                    plain(title, encoding), align, [plain(row[i], encoding) for row in block.rows]
                )
                for i, (title, align) in enumerate(block.columns)
            ]
            return "\n\n".join(
                _table(_without_blanks(part) if number else part, width, encoding)
                for number, part in enumerate(_parts(columns, width))
            )


def _prose(lines: Sequence[str], indent: int, width: int, encoding: str) -> str:
    """Lines, what is too long continued two columns further in. Paths are not broken."""
    given = (line for text in lines for line in plain(text, encoding).split("\n"))
    return "\n".join(
        textwrap.fill(
            line.lstrip(),
            min(width, WIDTH),
            initial_indent=(lead := " " * (indent + len(line) - len(line.lstrip()))),
            subsequent_indent=f"{lead}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in given
    )


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    align: Align
    cells: list[str]

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """In falling order: unbroken, with its title broken, with long cells broken, at least."""
        title = _longest(self.title.split())
        cells = _longest(line for cell in self.cells for line in cell.split("\n"))
        unbroken = max(_longest(self.title.split("\n")), cells)
        words = [word for cell in self.cells for word in _words(cell, self.align)]
        if self.align == "right":
            least = max(title, _longest(words))
            return unbroken, max(title, cells), max(title, cells), least
        pieces = _longest(piece for word in words for piece in _BREAKS.split(word))
        least = max(title, min(pieces, NARROW, cells))
        folded = min(cells, FOLDED_WIDTH) if self.align == "fold" else cells
        return unbroken, max(title, cells), max(title, folded), least


def _parts(columns: list[_Column], width: int) -> list[list[_Column]]:
    """The columns, in several tables that repeat the first column where one is too wide."""
    if not columns:
        return []
    key, *others = columns
    parts: list[list[_Column]] = [[key]]
    taken = first = key.widths[-1]
    for column in others:
        taken += (least := NARROW_GAP + column.widths[-1])
        if taken > width and len(parts[-1]) > 1:
            parts.append([key])
            taken = first + least
        parts[-1].append(column)
    return parts


def _without_blanks(columns: list[_Column]) -> list[_Column]:
    """The rows that have more than their first cell."""
    rows = zip(*(column.cells for column in columns), strict=True)
    kept = [any(others) for _, *others in rows]
    return [
        dataclasses.replace(column, cells=list(itertools.compress(column.cells, kept)))
        for column in columns
    ]


def _table(columns: list[_Column], width: int, encoding: str) -> str:
    stages = list(zip(*(column.widths for column in columns), strict=True))
    fits = sum(stages[0]) + GAP * (len(columns) - 1) <= width
    gap = " " * (GAP if fits else NARROW_GAP)
    widths = list(stages[0])
    for floors in stages[1:]:
        # The widest first: a column that is narrow anyway gives nothing away.
        while sum(widths) + len(gap) * (len(columns) - 1) > width:
            excess = [i for i, floor in enumerate(floors) if widths[i] > floor]
            if not excess:
                break
            widths[max(excess, key=lambda i: widths[i])] -= 1
    heads = [
        _broken(column.title.replace("\n", " ") if at < unbroken else column.title, at, "left")
        for column, at, unbroken in zip(columns, widths, stages[0], strict=True)
    ]
    height = max(map(len, heads))
    rule = plain("─", encoding) * (sum(widths) + len(gap) * (len(columns) - 1))
    lines = _row([[""] * (height - len(head)) + head for head in heads], columns, widths, gap)
    lines.append(rule)
    for cells in zip(*(column.cells for column in columns), strict=True):
        broken = [
            _broken(cell, at, column.align)
            for cell, column, at in zip(cells, columns, widths, strict=True)
        ]
        lines += _row(broken, columns, widths, gap)
    return "\n".join(lines)


def _row(cells: list[list[str]], columns: list[_Column], widths: list[int], gap: str) -> list[str]:
    """The lines of one row, of cells that are broken to their width."""
    return [
        gap.join(
            " " * (at - _columns(line)) + line
            if column.align == "right"
            else line + " " * (at - _columns(line))
            for line, column, at in zip(lines, columns, widths, strict=True)
        )
        for lines in itertools.zip_longest(*cells, fillvalue="")
    ]


def _words(cell: str, align: Align) -> list[str]:
    """What is broken only if it is too wide itself: a number, and its standard error.

    On two lines, each has the unit that stands behind both on one.
    """
    if align == "right":
        return _ERROR.sub(r"\2\n\1\2", cell).split("\n")
    return re.split(r"[\n ]", cell)


def _broken(cell: str, width: int, align: Align) -> list[str]:
    """A cell as lines of at most `width` columns, broken at blanks, else within words."""
    lines: list[str] = []
    for given in cell.split("\n"):
        if _columns(given) <= width:
            lines.append(given)
            continue
        line = ""
        for word in _words(given, align):
            if _columns(line) + 1 + _columns(word) <= width and line:
                line += f" {word}"
                continue
            lines += [line] if line else []
            *full, line = _broken_word(word, width)
            lines += full
        lines.append(line)
    return lines


def _broken_word(word: str, width: int) -> list[str]:
    if _columns(word) <= width:
        return [word]
    lines: list[str] = []
    line = ""
    for piece in _BREAKS.split(word):
        if _columns(line) + _columns(piece) <= width:
            line += piece
            continue
        lines += [line] if line else []
        *full, line = _chopped(piece, width)
        lines += full
    return [*lines, line]


def _chopped(word: str, width: int) -> list[str]:
    """A word without a place to break it, broken anyway."""
    lines: list[str] = []
    start = taken = 0
    for end, mark in enumerate(word):
        taken += (columns := _columns(mark))
        if taken > width:
            lines.append(word[start:end])
            start, taken = end, columns
    return [*lines, word[start:]]


def _columns(text: str) -> int:
    """That a terminal takes for it: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(mark) else 1 + (unicodedata.east_asian_width(mark) in "WF")
        for mark in text
    )


def _longest(texts: Iterable[str]) -> int:
    return max(map(_columns, texts), default=0)


def markdown(document: Document) -> str:
    """GitHub-flavoured Markdown."""
    return "\n\n".join(_markdown(_filled(block)) for block in document) + "\n"


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
    return "\n".join(_html(_filled(block)) for block in document)


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
