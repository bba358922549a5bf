"""The fewest layers to keep in float, against every set there is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError
from onnxscope.narrowing import pass_budget
from onnxscope.narrowing.formats import FORMATS
from onnxscope.narrowing.kept_layers import Target, read_target
from onnxscope.narrowing.measuring import measure_sets
from onnxscope.narrowing.narrowed_layers import find_narrowed_layers
from onnxscope.narrowing.narrowed_runs import NarrowedRuns
from onnxscope.narrowing.quality import Quality
from onnxscope.narrowing.sample_halves import Batches

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = FIXTURES / "digits.onnx"
DATA = np.load(FIXTURES / "digits.npz")["digits"]


@pytest.fixture(scope="module")
def qualities():
    """Of all sets of layers that are kept."""
    model, options = onnxscope.load_model(DIGITS), RunOptions()
    every = Batches(open_dataset({"digits": DATA}, model, options), range(len(DATA)), 64)
    layers = find_narrowed_layers(model, [])[0]
    runs = NarrowedRuns(model, layers, of="weights", scheme=None, threads=1)
    sets = [kept for count in range(5) for kept in itertools.combinations(layers, count)]
    narrowed = [([layer for layer in layers if layer not in kept], FORMATS["int4"]) for kept in sets]
    found = measure_sets(runs, every, narrowed)
    return {frozenset(layer.layer for layer in kept): quality for kept, quality in zip(sets, found, strict=True)}


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("target", ["21dB", "24dB", "28dB", "33dB", "90dB", "kl=1e-3", "kl=1e-9", "top1=1"])
def test_the_set_is_as_small_as_the_smallest_of_all(qualities, monkeypatch, target, small):
    if not small:
        monkeypatch.setattr(pass_budget, "_SMALL_WORK", 0)
    found = onnxscope.sensitivity(DIGITS, {"digits": DATA}, formats="int4", target=target).kept[0]
    fewest = min(len(kept) for kept, quality in qualities.items() if read_target(target).is_met(quality))
    assert len(found.found.layers) <= fewest + (not small)
    quality = qualities[frozenset(layer.layer for layer in found.found.layers)]
    assert found.found.output.noise == pytest.approx(quality.noise, rel=1e-3, abs=1e-9)
    assert found.target.is_met(found.found.output)
    assert all(not found.target.is_met(step.output) for step in found.steps if len(step.layers) < fewest)


def test_a_target_is_decibels_a_share_of_samples_or_nats():
    assert read_target("30dB") == read_target("30 db") == Target("dB", 30.0)
    assert read_target("top1=0.99") == Target("top1", 0.99)
    assert read_target("kl=1e-3") == Target("kl", 1e-3)
    for text in ("30", "dB", "top1=0.99dB", "top1=99", "cosine=1", "", "kl=-1", "1e999dB"):
        with pytest.raises(InputError, match=r"^no target: "):
            read_target(text)
    with pytest.raises(InputError, match="no output scores classes, so that nothing has a top1"):
        onnxscope.sensitivity(maps(), np.ones((2, 2, 3), np.float32), target="top1=0.9")


def test_what_is_without_error_is_good_enough_and_what_breaks_is_not():
    clean, broken = Quality(), Quality()
    values = np.ones((2, 3))
    clean.add({"y": values}, {"y": values})
    broken.add({"y": values}, {"y": np.array([[np.inf, 1, 1], [1, 1, 1]])})
    for text in ("500dB", "top1=1", "kl=0"):
        assert read_target(text).is_met(clean)
        assert not read_target(text).is_met(broken)


def maps():
    """Two layers whose nodes have no names, and outputs that score nothing."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, T, 3] x) => (float[N, T, 3] y) { h = MatMul(x, w)  y = MatMul(h, v) }""")
    rng = np.random.default_rng(0)
    for name in "wv":
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(3, 3)).astype(np.float32), name))
    return model


def test_nodes_without_names_cannot_be_excluded_and_that_is_said():
    found = onnxscope.sensitivity(maps(), np.ones((2, 2, 3), np.float32), target="999dB")
    assert len(found.kept[0].found.layers) == 2
    assert found.to_dict()["kept"][0]["nodes_to_exclude"] == []
    assert any(note.startswith("2 nodes have no names, so that no quantizer") for note in found.notes)


def test_the_command_prints_what_can_be_pasted(capsys):
    arguments = ["sensitivity", str(DIGITS), "-i", str(FIXTURES / "digits.npz"), "--as", "int4", "--target", "28dB"]
    assert run([*arguments, "--format", "json"]) == 0
    (kept,) = json.loads(capsys.readouterr().out)["kept"]
    names = {node.name for node in onnx.load(DIGITS).graph.node}
    assert kept["nodes_to_exclude"]
    assert set(kept["nodes_to_exclude"]) <= names
    assert run(arguments) == 0
    out = capsys.readouterr().out
    assert f"nodes_to_exclude={json.dumps(kept['nodes_to_exclude'])}" in out
    assert "the fewest layers in float, all others narrowed" in out
    assert f"int4, 28dB: {kept['kept']} of 4 layers in float: {', '.join(kept['layers'])}" in out
    assert max(map(len, out.splitlines())) <= 80
    assert run([*arguments[:-1], "30"]) == 2
    assert "no target: '30'" in capsys.readouterr().err
