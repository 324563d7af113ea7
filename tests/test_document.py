# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from akida_backend import document
from akida_backend.document import Block, Code, Heading, Items, Lines, Table

LONG = "a reason that is far longer than the eighty columns a terminal has by default, word by word"
BLOCKS: list[Block] = [
    Heading("Title"),
    Lines(("first", "second")),
    Table((("name", "fold"), ("count", "right")), (("a|b [red]", "1"), (LONG, "20"))),
    Items((("head", ("one", "two")),)),
    Code(("pip install x",)),
]


def test_text_without_a_terminal_is_complete_and_aligned() -> None:
    width = len(LONG)
    assert document.text(BLOCKS).splitlines() == [
        "Title",
        "",
        "first",
        "second",
        "",
        f"{'name':{width}}   count",
        "─" * (width + 8),
        f"{'a|b [red]':{width}}       1",
        f"{LONG}      20",
        "",
        "  head",
        "      one",
        "      two",
        "",
        "    pip install x",
    ]


def test_text_on_a_terminal_folds_cells_and_loses_nothing() -> None:
    folded = document.text(BLOCKS, width=40)
    table = folded.split("\n\n")[2]
    assert max(map(len, table.splitlines())) <= 40
    words = [word for line in table.splitlines() for word in line.split()]
    assert [word for word in words if word in LONG.split()] == LONG.split()


def test_markdown_escapes_what_would_be_markup() -> None:
    assert document.markdown(BLOCKS) == (
        "## Title\n\n"
        "first  \nsecond\n\n"
        "| name | count |\n| --- | ---: |\n| a\\|b [red] | 1 |\n"
        f"| {LONG} | 20 |\n\n"
        "- head\n  - one\n  - two\n\n"
        "```sh\npip install x\n```\n"
    )
    assert document.markdown([Lines(("CONV_2D <b>*",))]) == "CONV\\_2D \\<b>\\*\n"


def test_html_escapes_names() -> None:
    made = document.html_page_part([Table((("n", "left"),), (("<script>",),)), Lines(("a & b",))])
    assert made == (
        "<table><thead><tr><th>n</th></tr></thead><tbody><tr><td>&lt;script&gt;</td></tr></tbody>"
        "</table>\n<p>a &amp; b</p>"
    )


def test_a_terminal_too_narrow_loses_no_column() -> None:
    table = Table((("name", "fold"), ("a", "left"), ("b", "right")), ((LONG, "x" * 30, "y" * 30),))
    lines = document.text([table], width=20).splitlines()
    assert lines[0].split() == ["name", "a", "b"]
    assert lines[2].endswith(f"   {'x' * 30}   {'y' * 30}")
