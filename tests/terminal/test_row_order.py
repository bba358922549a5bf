"""`--sort` and `--top`: which rows are shown, and that every column that is offered is one of the command's table."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import click
import pytest

from onnxscope.base.tables import Table
from onnxscope.cli.main import cli, run
from onnxscope.terminal.row_order import RowOrder

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = str(FIXTURES / "digits.onnx")
ROWS = (("b10", 1.0), ("b9", math.nan), ("a", -3.0), ("B1", None), ("c", math.inf), ("d", "no error"))
TABLE = Table("t", ("name", "n"), ROWS)


def test_large_numbers_come_first_and_what_is_not_known_last():
    names = [row[0] for row in RowOrder("n").of(TABLE).rows]
    assert names == ["c", "b10", "a", "d", "b9", "B1"]


def test_names_come_in_natural_order():
    assert [row[0] for row in RowOrder("name").of(TABLE).rows] == ["a", "B1", "b9", "b10", "c", "d"]


def test_what_is_left_out_is_counted():
    assert RowOrder("n", 2).of(TABLE).text().splitlines()[3:] == ["c     inf", "b10     1", "… and 4 more rows"]
    assert RowOrder(None, 5).of(TABLE).markdown().endswith("\n\n… and 1 more row\n")
    assert RowOrder(None, 6).of(TABLE) == RowOrder("other").of(TABLE) == TABLE


def test_a_command_sorts_its_table_and_leaves_json_alone(capsys):
    def printed(form):
        assert run(["weights", DIGITS, "--sort", "std", "--top", "3", "--format", form]) == 0
        return capsys.readouterr().out

    weights = json.loads(printed("json"))["weights"]
    assert len(weights) == 14
    largest = sorted(weights, key=lambda weight: -weight["std"])[:3]
    rows = list(csv.DictReader(io.StringIO(printed("csv"))))
    assert [row["parameter"] for row in rows] == [weight["name"] for weight in largest]
    assert printed("table").splitlines()[-1] == "… and 11 more rows"


def test_a_column_that_is_not_there_is_said(capsys):
    assert run(["weights", DIGITS, "--sort", "average"]) == 2
    assert "average" in capsys.readouterr().err
    both = [DIGITS, str(FIXTURES / "digits_qdq.onnx")]
    run(["diff", *both, "-i", str(FIXTURES / "digits.npz"), "--sort", "noise", "--limit", "4"])
    assert "not sorted: this table has no column 'noise'\n" in capsys.readouterr().err


def offered(name):
    (option,) = (option for option in cli.commands[name].params if option.name == "column")
    assert isinstance(option.type, click.Choice)
    return set(option.type.choices)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("inspect", ["--time", "-i", "random"]),
        ("weights", []),
        ("features", ["-i", "random", "-o", "features"]),
        ("stats", ["-i", "random", "-o", "profile.json"]),
        ("snapshot", ["-i", "random", "-o", "baseline.json"]),
    ],
)
def test_offered_columns_are_those_of_the_table(name, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([name, DIGITS, *arguments, "--format", "csv"]) == 0
    assert offered(name) <= set(next(csv.reader(io.StringIO(capsys.readouterr().out))))


def test_offered_columns_of_comparisons_are_those_of_their_tables():
    from onnxscope.comparison.layer_difference import COLUMNS, RANKED
    from onnxscope.drifting.shifts import COLUMNS as SHIFTS

    assert offered("diff") <= {*COLUMNS, *RANKED}
    assert offered("drift") <= set(SHIFTS)
