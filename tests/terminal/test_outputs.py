"""Where commands write when nobody says, and that a page or a folder is opened."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest

from onnxscope.cli.main import run

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model in one folder, while another one is the current."""
    for folder in ("models", "here"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(shutil.copy(FIXTURES / "digits.onnx", tmp_path / "models" / "my.net.onnx"))


@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("snapshot", "models/my.net.onnxscope.json"),
        ("stats -i random", "here/my.net.profile.json"),
        ("report", "here/my.net.report.html"),
        ("features -i random", "here/my.net.features/features.json"),
    ],
)
def test_without_a_name_a_command_writes_under_that_of_the_model(command, written, model, tmp_path, capsys):
    name, *options = command.split()
    assert run([name, model, *options]) == 0, capsys.readouterr().err
    assert (tmp_path / written).is_file()
    assert run(["check", model]) == (0 if name == "snapshot" else 2)


def test_a_missing_model_is_said_and_not_the_missing_output(capsys):
    assert run(["snapshot"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "onnxscope: error: Missing argument 'MODEL'"


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize(("command", "written"), [("report", "x.html"), ("features -i random", "x")])
def test_what_was_written_is_opened(command, written, code, model, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(click, "launch", lambda path: opened.append(path) or code)
    name, *options = command.split()
    assert run([name, model, *options, "-o", written]) == 0
    assert opened == []
    assert run([name, model, *options, "-o", written, "--open"]) == 0
    assert opened == [written]
    assert ("the system opens no such thing: " + written in capsys.readouterr().err) is bool(code)
