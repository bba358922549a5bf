"""Tables as text, CSV, Markdown and HTML."""

from __future__ import annotations

import csv
import io

import pytest

from onnxscope.base.tables import Table

TABLE = Table("t", ("name", "n", "mean", "shape"), (("conv1", 1234567, 1e-12, (1, 3)), ("fc", 7, None, ())))


def test_text_aligns_names_left_and_numbers_right():
    assert TABLE.text().splitlines() == [
        "t",
        "name           n   mean  shape",
        "-----  ---------  -----  ------",
        "conv1  1,234,567  1e-12  1 × 3",
        "fc             7         scalar",
    ]


def test_a_long_name_keeps_both_ends():
    table = Table("", ("name",), (("first/" + "m" * 200 + "/last",),))
    (line,) = table.shown_rows(max_cell=20)[0]
    assert line.startswith("first/")
    assert line.endswith("/last")
    assert "…" in line
    assert len(line) == 20


def test_csv_keeps_full_precision():
    table = Table("", ("x",), ((0.1 + 0.2,),))
    assert table.csv() == "x\n0.30000000000000004\n"


@pytest.mark.parametrize("name", ["=1+1", "+a", "-b", "@c"])
def test_csv_never_hands_a_formula_to_a_spreadsheet(name):
    row = list(csv.reader(io.StringIO(Table("", ("name",), ((name,),)).csv())))[1]
    assert row == ["'" + name]


def test_a_negative_number_is_no_formula():
    assert Table("", ("x",), ((-1.5,),)).csv() == "x\n-1.5\n"


def test_markdown_escapes_what_would_be_markup():
    text = Table("", ("name",), (("a|b<script>`*_",),)).markdown()
    assert "<script>" not in text
    assert "a\\|b" in text


def test_html_escapes_and_says_what_it_leaves_out():
    table = Table("<t>", ("<c>",), tuple((f"<{index}>",) for index in range(5)))
    text = table.html(max_rows=2)
    assert "<t>" not in text
    assert "&lt;1&gt;" in text
    assert "3 more rows" in text


def test_html_aligns_numbers_also_without_style_and_puts_pictures_beside_the_first_cell():
    table = Table("", ("name", "n"), (("a", 1), ("b", 2)))
    assert table.html(pictures=["<img>"]) == (
        '<table><thead><tr><th>name</th><th></th><th class="n" align="right">n</th></tr></thead><tbody>'
        '<tr><td>a</td><td><img></td><td class="n" align="right">1</td></tr>'
        '<tr><td>b</td><td></td><td class="n" align="right">2</td></tr></tbody></table>'
    )
    assert table.html(pictures=["", ""]) == table.html()


def test_html_stops_before_it_becomes_too_long():
    table = Table("", ("name",), tuple((f"{index}" + "&" * 500,) for index in range(90)))
    text = table.html(max_bytes=10_000)
    assert 8_000 < len(text.encode()) < 10_200
    assert f"… and {90 - text.count('<td>')} more rows" in text


def test_control_characters_never_reach_a_terminal():
    text = Table("\x1b[31m", ("name",), (("\x1b]0;title\x07\n",),)).text()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b" in text


def test_columns_that_are_empty_throughout_are_not_shown_to_people_but_kept_for_programs():
    table = Table("", ("name", "note", "n"), (("a", "", 0), ("b", None, 1)))
    assert table.text().splitlines()[0] == "name  n"
    assert table.csv().splitlines()[0] == "name,note,n"


def test_a_sentence_is_shown_whole():
    sentence = "weights look untrained, as an initializer leaves them, in 37 of 37 layers that can be judged"
    assert sentence in Table("", ("remark",), ((sentence,),)).text()
    (shown,) = Table("", ("remark",), (("word " * 1000,),)).shown_rows()[0]
    assert len(shown) == 400


def test_a_row_of_totals_is_for_people_and_stays_at_the_end():
    table = Table("", ("name", "n", "note"), (("a", 1, ""), ("b", 2, "")), total=("total", 3, None))
    assert table.text().splitlines()[-1] == "total  3"
    assert table.markdown().splitlines()[-1] == "| total | 3 |  |"
    assert table.csv().splitlines()[-1] == "b,2,"
    assert table.with_marks("mark", ["", "x"]).text().splitlines()[-1] == "total  3"
