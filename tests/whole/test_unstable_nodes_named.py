"""Every command names random and stateful nodes, and says nothing of a model without any."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from unstable_models import X, dropping, noisy, quiet

from onnxscope.cli.main import run

COMMANDS = {
    "inspect": "inspect {model}",
    "stats": "stats {model} -i x.npy -o profile.json",
    "report": "report {model} -i x.npy -o report.html",
    "diff": "diff {model} {model} -i x.npy",
    "diff without inputs": "diff {model} {model}",
    "snapshot": "snapshot {model} -i x.npy -o again.json",
    "check": "check {model} --baseline {model}.json",
}
SENTENCES = {
    "dropping": ["Dropout drop1 is in training mode: random; it reaches 2 of 3 layers and the output y"],
    "noisy": [
        "BatchNormalization norm is in training mode, normalizing by the batch at hand: stateful; it reaches 2 of 2",
        "RandomNormalLike noise draws other numbers in every run: random; it reaches 1 of 2 layers and the output y",
        "RandomUniformLike(e) in a body of choice draws other numbers in every run: random; it reaches none of 2",
    ],
    "quiet": [],
}


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    (tmp_path / "empty.toml").touch()
    for name, model in (("dropping", dropping()), ("noisy", noisy()), ("quiet", quiet())):
        onnx.save(model, f"{name}.onnx")
        assert run(["snapshot", f"{name}.onnx", "-o", f"{name}.onnx.json"]) == 0
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", SENTENCES)
def test_a_command_names_them(folder, capsys, command, name):
    code = run(COMMANDS[command].format(model=f"{name}.onnx").split())
    out, err = capsys.readouterr()
    assert code in (0, 1), err
    for sentence in SENTENCES[name]:
        assert sentence in " ".join(f"{out} {err}".split())
    if not SENTENCES[name]:
        assert not any(word in f"{out}{err}" for word in ("random", "stateful", "training mode"))


def test_the_page_of_a_report_shows_them_escaped(folder, capsys):
    proto = dropping()
    proto.graph.node[1].name = "<b>drop</b>"
    onnx.save(proto, "marked.onnx")
    assert run(["report", "marked.onnx", "-o", "report.html"]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Dropout &lt;b&gt;drop&lt;/b&gt; is in training mode: random" in page
    assert "<b>drop</b>" not in page


def test_the_records_name_them(folder, capsys):
    assert run(["inspect", "noisy.onnx", "--format", "json"]) == 0
    kinds = ["stateful", "random", "random"]
    assert [node["kind"] for node in json.loads(capsys.readouterr().out)["unstable"]] == kinds
    assert run(["stats", "noisy.onnx", "-i", "x.npy", "-o", "profile.json", "--format", "json"]) == 0
    found = [finding["kind"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert [kind for kind in found if kind in kinds] == ["random", "random", "stateful"]
    assert [node["kind"] for node in json.loads((folder / "noisy.onnx.json").read_text())["unstable"]] == kinds
    assert "unstable" not in json.loads((folder / "quiet.onnx.json").read_text())
