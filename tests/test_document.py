# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

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


PLACED = Table(
    (("op", "right"), ("type", "left"), ("name", "fold"), ("MACs", "right"), ("codes", "fold")),
    (
        ("3", "DEPTHWISE_CONV_2D", "Relu6;FusedBatchNormV3", "12,345,678", "V2-CONV-MAXPOOL-SIZE"),
        ("117", "ADD", "x" * 70, "", ""),
    ),
)


@pytest.mark.parametrize("width", range(24, 140))
def test_a_table_fits_every_width_and_cuts_no_number(width: int) -> None:
    tables = document.text([PLACED], width=width)
    assert max(map(len, tables.splitlines())) <= width
    assert {"3", "117", "12,345,678"} <= set(tables.split())
    assert "".join(sorted(tables)).count("x") == 70
    for piece in ("DEPTHWISE_", "CONV_", "2D", "Relu6;", "V3", "V2-", "SIZE"):
        assert piece in tables


def test_columns_that_do_not_fit_follow_in_a_table_of_the_rows_that_have_them() -> None:
    assert document.text([PLACED], width=40).split("\n\n")[1].splitlines() == [
        "op         MACs   codes",
        "─" * 38,
        " 3   12,345,678   V2-CONV-MAXPOOL-SIZE",
    ]


def test_a_column_without_values_is_left_out() -> None:
    table = Table((("result", "left"), ("accuracy", "right"), ("dB", "right")), (("a", "", "1"),))
    assert document.text([table]).splitlines() == ["result   dB", "─" * 11, "a         1"]
    assert "accuracy" not in document.markdown([table]) + document.html_page_part([table])


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", "±"), ("ascii", "+-")])
def test_standard_errors_are_broken_off_numbers_at_last_and_both_keep_their_unit(
    encoding: str, sign: str
) -> None:
    cells = ("97.00 ± 1.7 %", "100.00 %", "5 ± 2")
    table = Table((("result", "right"),), tuple((cell,) for cell in cells))
    assert document.text([table], width=9, encoding=encoding).splitlines()[2:] == [
        "  97.00 %",
        f"{sign + ' 1.7 %':>9}",
        " 100.00 %",
        f"{'5 ' + sign + ' 2':>9}",
    ]


def test_prose_is_wrapped_and_a_path_is_not() -> None:
    path = "a/" * 30 + "b.tflite"
    lines = document.text([Lines((f"{LONG} {path}",)), Items((("head", (LONG,)),))], width=40)
    assert lines.splitlines() == [
        "a reason that is far longer than the",
        "  eighty columns a terminal has by",
        "  default, word by word",
        f"  {path}",
        "",
        "  head",
        "      a reason that is far longer than",
        "        the eighty columns a terminal",
        "        has by default, word by word",
    ]
    wide = document.text([Lines((f"{LONG} and {LONG}",))], width=300)
    assert max(map(len, wide.splitlines())) <= 100


@pytest.mark.parametrize(
    ("encoding", "rule", "share"),
    [
        ("utf-8", "─", "97.00 ± 1.7 %"),
        ("cp1252", "-", "97.00 ± 1.7 %"),
        ("ascii", "-", "97.00 +- 1.7 %"),
    ],
)
def test_an_encoding_without_the_marks_gets_others(encoding: str, rule: str, share: str) -> None:
    table = Table((("größe", "left"), ("agrees", "right")), (("x", "97.00 ± 1.7 %"),))
    head, line, row = document.text([table], encoding=encoding).splitlines()
    assert row.endswith(f"   {share}")
    assert line == rule * len(row) == rule * len(head)
    assert head.startswith("gr\\xf6\\xdfe" if encoding == "ascii" else "größe")


def test_wide_characters_take_two_columns() -> None:
    table = Table((("name", "fold"), ("n", "right")), (("画像" * 8, "1"),))
    assert document.text([table], width=19).splitlines() == [
        "name              n",
        "─" * 19,
        "画像画像画像画像  1",
        "画像画像画像画像",
    ]


def test_names_do_not_control_the_terminal() -> None:
    table = Table((("name", "left"),), (("\x1b[2Jx\r",),))
    shown = document.text([Heading("a\x07"), table, Items((("\x9b1m", ("\x00",)),))])
    assert shown.splitlines() == [
        "a\\x07", "", "name", "─" * 10, "\\x1b[2Jx\\r", "", "  \\x9b1m", "      \\x00"
    ]  # fmt: skip
