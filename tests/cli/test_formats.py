"""Every format says the verdict, what is undecided, and every row that the table has."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from compared_models import parsed

import onnxscope
from onnxscope.cli.main import cli

TEXT = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 4] x) => (float[N, 4] y) {
        [fc1] h = Gemm<transB = 1>(x, w)
        [act] a = LeakyRelu<alpha = 0.1>(h)
        [fc2] y = Gemm<transB = 1>(a, v)
    }"""
RANDOM = np.random.default_rng(8)
STORED = {name: RANDOM.standard_normal((4, 4), np.float32) for name in "wv"}
NOISY = TEXT.replace("(h)", "(k)").replace("[act]", "n = RandomNormalLike(h) k = Add(h, n) [act]")


@pytest.fixture
def files(tmp_path):
    models = {
        "a": parsed(TEXT, **STORED),
        "b": parsed(TEXT.replace("0.1", "0.3"), **{**STORED, "v": STORED["v"] * np.float32(1.5)}),
        "noisy": parsed(NOISY, **STORED),
    }
    for name, model in models.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    np.save(tmp_path / "x.npy", RANDOM.standard_normal((3, 4), np.float32))
    return tmp_path


def run(files, command, form, *arguments):
    paths = [str(files / word) if "." in word else word for word in (*command.split(), *arguments)]
    return CliRunner().invoke(cli, [*paths, "--format", form, "-q"])


@pytest.mark.parametrize("form", ["table", "csv", "md"])
@pytest.mark.parametrize("inputs", [(), ("-i", "x.npy")])
def test_diff_says_the_verdict_and_all_changes_in_every_format(files, inputs, form):
    shown = run(files, "diff a.onnx b.onnx", form, *inputs)
    text = shown.stdout.replace("\\", "")
    assert shown.exit_code == 1
    result = onnxscope.diff(files / "a.onnx", files / "b.onnx", str(files / "x.npy") if inputs else None)
    assert result.weights
    assert result.structure
    assert result.summary() in text
    for change in (*result.weights, *result.structure):
        assert change.message in text


@pytest.mark.parametrize("form", ["table", "csv", "md"])
def test_diff_says_what_is_undecided_in_every_format(files, form):
    shown = run(files, "diff noisy.onnx noisy.onnx -i x.npy", form)
    assert shown.exit_code == 1
    record = json.loads(run(files, "diff noisy.onnx noisy.onnx -i x.npy", "json").stdout)
    reasons = [undecided["reason"] for undecided in record["undecided"]]
    assert reasons
    assert "undecided: " in shown.stdout
    assert shown.stdout.count("does not reproduce") >= len(reasons)


def test_csv_of_diff_is_one_rectangle(files):
    rows = list(csv.reader(io.StringIO(run(files, "diff a.onnx b.onnx -i x.npy", "csv").stdout)))
    assert {len(row) for row in rows} == {len(rows[0])}
    named = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert [row["operator"] for row in named].count("verdict") == 1
    assert (named[-1]["differs"], named[-1]["operator"]) == ("differs", "verdict")
    assert {"changed", "structure"} <= {row["differs"] for row in named if row["operator"] == "change"}


@pytest.mark.parametrize("form", ["table", "csv", "md"])
@pytest.mark.parametrize("models", ["a.onnx", "b.onnx", "a.onnx b.onnx"])
def test_check_says_the_verdict_in_every_format(files, models, form):
    for name in "ab":
        onnxscope.snapshot(files / "a.onnx").save(files / f"{name}.onnxscope.json")
    shown = run(files, f"check {models}", form)
    text = shown.stdout.replace("\\", "")
    assert ("as the baseline says: 2 layers, 2 weights" in text) == ("a.onnx" in models)
    assert ("2 findings, first in fc2" in text) == ("b.onnx" in models)
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(shown.stdout)))
        verdicts = [row["found"] for row in rows if row["statistic"] == "verdict"]
        assert verdicts == [{"a.onnx": "equal", "b.onnx": "differs"}[name] for name in models.split()]
