"""Every command's tables at five widths, with long names and extreme numbers: none is broken, no line is too long."""

from __future__ import annotations

import io
import itertools
import math
import re
import shutil
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import onnxscope
from onnxscope.base.fitted_tables import fit_table, fit_text, show_table
from onnxscope.base.tables import Table
from onnxscope.cli.main import run
from onnxscope.terminal.options import Presentation

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
WIDTHS = (60, 80, 100, 120, 200)
COMMANDS = (
    "inspect digits.onnx",
    "weights digits_qdq.onnx",
    "features digits.onnx -i random -o features",
    "stats digits.onnx -i random --samples 9 -o a.json --by position",
    "stats digits_qdq.onnx -i random:1 --samples 9 -o b.json",
    "drift a.json b.json --threshold 9",
    "diff digits.onnx digits_deployed.onnx -i random",
    "diff digits.onnx digits_qdq.onnx -i random",
    "diff digits.safetensors digits_deployed.onnx",
    "snapshot digits.onnx -i random -o base.json",
    "check digits_qdq.onnx --baseline base.json -i random",
    "sensitivity digits.onnx -i random --target 20dB",
    "sensitivity digits.onnx digits_qdq.onnx -i random",
    "extract digits.onnx --select block -i random -o part",
    "recipe digits.onnx -i random",
    "doctor",
)
EXTREME = (1.2345678e-38, -3.4028235e38, 0.1, math.nan, math.inf, 0.0, 12345.678, -5e-324, 99999.5, -0.0001)
NAMES = ("encoder/" + "block_of_the_layer." * 12 + "weight", "層" * 50, "a" * 300, "x")
SHAPES = (("batch", 16, 8, 8), ("past_sequence_length + sequence_length" * 9, None, 2**62), (), (1,) * 30)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """What the commands show, by a name for each table."""
    shown: dict[str, Table] = {}
    folder = tmp_path_factory.mktemp("tables")
    for path in FIXTURES.glob("digits*.*"):
        shutil.copy(path, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            each = itertools.count()
            patch.setattr(
                Presentation,
                "show_table",
                lambda _, table, at=command, n=each: shown.update({f"{at} {next(n)}": table}),
            )
            assert run(command.split()) in (0, 1), command
    assert len(shown) > len(COMMANDS)
    return shown


def stressed(table):
    """The table with long names, extreme numbers and odd shapes in the place of what it holds."""
    numbers, names, shapes = (itertools.cycle(each) for each in (EXTREME, NAMES, SHAPES))

    def other(cell):
        if isinstance(cell, bool) or cell is None:
            return cell
        if isinstance(cell, int):
            return cell + 2**40
        if isinstance(cell, float):
            return next(numbers)
        if isinstance(cell, str):
            return cell if " " in cell or re.search(r"^[\d.]", cell) else next(names)
        return next(shapes)

    return replace(table, title=f"{NAMES[0]} and more", rows=tuple(tuple(map(other, row)) for row in table.rows))


def width_of(text):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def parts(line, rule):
    """The cells of a line, by where the columns of the rule begin and end."""
    places = [(found.start(), found.end()) for found in re.finditer("-+", rule)]
    wide = "".join(c + ("\0" if unicodedata.east_asian_width(c) in "WF" else "") for c in line)
    return [wide[start:end].replace("\0", "").strip() for start, end in places]


def assert_whole(table, lines, width):
    """Heads are the table's, rows are all there, each number is one of its row's, in four digits at least."""
    assert all(width_of(line) <= width for line in lines)
    table = table.filled()
    if any("distribution" in line for line in lines):
        table = table.with_marks("distribution", ["█" * len(heights) for heights in table.charts])
    at = next(place for place, line in enumerate(lines) if re.fullmatch(r"-[- ]*", line))
    end = next((place for place, line in enumerate(lines) if line.startswith("`--wide`")), len(lines))
    heads, *body = (parts(line, lines[at]) for line in (lines[at - 1], *lines[at + 1 : end]))
    assert [head for head in table.columns if head in heads] == heads
    tail = " ".join(lines[end:]).removeprefix("`--wide` shows ")
    assert tail == ", ".join(head for head in table.columns if head not in heads)
    kept = [table.columns.index(head) for head in heads]
    for place, column in enumerate(kept):
        numbers = [row[column] for row in table.rows if is_number(row[column])]
        cells = [cells[place] for cells in body if cells[place]]
        if len(numbers) == sum(row[column] not in (None, "") for row in table.rows):
            assert as_numbers(cells[: len(numbers)]) == pytest.approx(numbers, rel=5.1e-4, abs=0, nan_ok=True)
        elif numbers:  # and words in the same column
            shown = as_numbers(cell for cell in cells if re.fullmatch(r"-?(\d[-+\d.,e]*|nan|inf)", cell))
            assert all(pytest.approx(number, rel=5.1e-4, nan_ok=True) in shown for number in numbers)
    for place, column in enumerate(kept):
        shapes = [row[column] for row in table.rows if isinstance(row[column], tuple)]
        sizes = {str(side) for shape in shapes for side in shape if isinstance(side, int)}
        if shapes and not any(isinstance(row[column], (int, str)) for row in table.rows):
            assert sizes.issuperset(word for cells in body[: len(table.rows)] for word in sizes_of(cells[place]))


def is_number(cell):
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def as_numbers(cells):
    return [float(cell.replace(",", "")) for cell in cells]


def sizes_of(text):
    """The sizes in a shape, whichever way it is written."""
    return [side for side in re.split(" × |, ", text.strip("[]")) if side.isdigit()]


@pytest.mark.parametrize("width", WIDTHS)
def test_tables_of_all_commands_are_whole_at_every_width(tables, width):
    for name, table in tables.items():
        table = replace(table, rows=table.rows[:12], charts=table.charts[:12])
        for is_plain, shown in ((False, table), (True, stressed(table))):
            lines = fit_table(shown, width, is_plain=is_plain)
            assert "×" not in "".join(lines) or not is_plain
            try:
                assert_whole(shown, lines, width)
            except Exception as error:
                raise AssertionError("\n".join((name, *lines))) from error


NUMBERS = Table(
    "t",
    ("name", "type", "small", "count"),
    (("conv1", "float32", 0.000012345678, 1234567), ("a.long.name.of.a.layer", "int8", 123.4567, None)),
    ("type",),
)


def test_digits_go_first_then_columns_then_the_middles_of_names():
    assert fit_table(NUMBERS, 60)[1:] == [
        "name                    type          small      count",
        "----------------------  -------  ----------  ---------",
        "conv1                   float32  1.2346e-05  1,234,567",
        "a.long.name.of.a.layer  int8         123.46",
    ]
    assert fit_table(NUMBERS, 53)[1:] == [
        "name                    type         small      count",
        "----------------------  -------  ---------  ---------",
        "conv1                   float32  1.235e-05  1,234,567",
        "a.long.name.of.a.layer  int8     1.235e+02",
    ]
    assert fit_table(NUMBERS, 45)[1:] == [
        "name                        small      count",
        "----------------------  ---------  ---------",
        "conv1                   1.235e-05  1,234,567",
        "a.long.name.of.a.layer  1.235e+02",
        "`--wide` shows type",
    ]
    assert fit_table(NUMBERS, 33)[1:] == [
        "name             small      count",
        "-----------  ---------  ---------",
        "conv1        1.235e-05  1,234,567",
        "a.lon…layer  1.235e+02",
        "`--wide` shows type",
    ]
    assert fit_table(NUMBERS, 20)[1:] == [
        "name           small",
        "---------  ---------",
        "conv1      1.235e-05",
        "a.lo…ayer  1.235e+02",
        "`--wide` shows type,",
        "count",
    ]


def test_sentences_go_on_in_the_next_line():
    table = Table("", ("layer", "what"), (("fc", "the weight changed by 1.25e-05 in channel 7 of 64"), ("b", "no")))
    assert fit_table(table, 30) == [
        "layer  what",
        "-----  -----------------------",
        "fc     the weight changed by",
        "       1.25e-05 in channel 7",
        "       of 64",
        "b      no",
    ]


def test_lines_of_text_are_broken_between_words():
    assert fit_text("source    torch 2.13.0, a network of one layer", 40, indent=10) == [
        "source    torch 2.13.0, a network of one",
        "          layer",
    ]
    assert fit_text("x" * 50, 9) == ["xxxx…xxxx"]
    assert fit_text("", 9) == []


def test_a_terminal_gets_a_table_of_its_width_and_all_of_it_when_asked(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "45")
    monkeypatch.setenv("NO_COLOR", "1")
    show_table(NUMBERS)
    assert capsys.readouterr().out.splitlines()[-1] == "`--wide` shows type"
    show_table(NUMBERS, is_wide=True)
    assert "float32" in capsys.readouterr().out


def test_commands_ask_the_terminal_for_its_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(["weights", str(FIXTURES / "digits.onnx")]) == 0
    out = capsys.readouterr().out
    assert max(map(len, re.sub(r"\x1b\[[\d;]*m", "", out).splitlines())) <= 60
    assert "`--wide` shows" in out
    assert run(["weights", str(FIXTURES / "digits.onnx"), "--wide"]) == 0
    assert "float32" in capsys.readouterr().out


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_is_not_utf_8_gets_signs_that_it_has(encoding, is_terminal, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["inspect", str(FIXTURES / "digits.onnx"), "--top", "2"]) == 0
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")
    assert "float32 [batch, 1, 8, 8]" in text
    assert "~ and 4 more rows" in text


def test_a_chart_stands_in_a_cell_where_there_is_room_and_the_signs_are_there():
    table = Table("", ("name", "n"), (("a", 1), ("b", 2)), ("distribution",), charts=((0, 1, 50, 100), ()))
    assert fit_table(table, 60) == ["name  n  distribution", "----  -  ------------", "a     1  ▁▂▅█", "b     2"]
    assert fit_table(table, 20) == ["name  n", "----  -", "a     1", "b     2", "`--wide` shows", "distribution"]
    assert fit_table(table, 60, is_plain=True)[0] == table.text().splitlines()[0] == "name  n"


def test_charts_of_weights_show_what_their_histograms_count():
    numbers = np.concatenate([np.full(8, -1.0), np.full(2, 1.5), np.full(4, 11.0)]).astype(np.float32)[:, None]
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 14] x) => (float[N, 1] y) <float[14, 1] w> { y = MatMul(x, w) }"""
    )
    del model.graph.initializer[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(numbers, "w"))
    (line,) = (line for line in fit_table(onnxscope.weights(model).table(), 120) if line.startswith("w "))
    expected = np.histogram(numbers, 12)[0]
    assert [block != "▁" for block in line.split()[-1]] == [count > 0 for count in expected]
    assert line.split()[-1][0] == "█"
