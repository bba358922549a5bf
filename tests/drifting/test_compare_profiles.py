"""`drift()` on a small model: what is planted is named first, and chance is not."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import InputError, ProfileError

MODEL = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3, 6, 6] image) => (float[N, 2] scores)
    <float[4, 3, 3, 3] w, float[4] gamma = {1, 2, 0.5, 1}, float[4] beta = {0, 1, -1, 0.5},
     float[4] mean = {0, 0, 0, 0}, float[4] var = {1, 1, 1, 1}, float[2, 4] head>
    { h = Conv(image, w)  n = BatchNormalization(h, gamma, beta, mean, var)  r = Relu(n)
      p = GlobalAveragePool(r)  f = Flatten(p)  scores = Gemm<transB = 1>(f, head) }"""
RNG = np.random.default_rng(0)
WEIGHTS = {"w": RNG.normal(0, 0.3, (4, 3, 3, 3)), "head": RNG.normal(0, 1, (2, 4))}


def images(count, seed):
    """Samples differ in brightness, and pixels of each."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 0.5, (count, 3, 1, 1)) + rng.normal(0, 1, (count, 3, 6, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    parsed = onnx.parser.parse_model(MODEL.replace("w,", "w = {0},", 1).replace("head>", "head = {0}>", 1))
    kept = [tensor for tensor in parsed.graph.initializer if tensor.name not in WEIGHTS]
    del parsed.graph.initializer[:]
    arrays = {name: array.astype(np.float32) for name, array in WEIGHTS.items()}
    data = images(2000, 9)
    convolved = onnxscope_values(arrays["w"], data)
    arrays |= {"mean": convolved.mean((0, 2, 3)), "var": convolved.var((0, 2, 3), ddof=1)}
    kept = [tensor for tensor in kept if tensor.name not in arrays]
    stored = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    parsed.graph.initializer.extend([*kept, *stored])
    return parsed


def onnxscope_values(weight, data):
    """The convolution in numpy, float64."""
    windows = np.lib.stride_tricks.sliding_window_view(data.astype(np.float64), (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64))


def profile(model, data, **options):
    return onnxscope.stats(model, data, **options)


@pytest.fixture(scope="module")
def first(model):
    return profile(model, images(600, 1))


def test_more_of_the_same_data_shows_no_drift(model, first):
    found = onnxscope.drift(first, profile(model, images(500, 2)), threshold=0.0)
    assert found.verdict == "equal"
    assert [row.drift for row in found] == [0.0] * len(found)
    assert "no drift in 2 values" in repr(found)


def test_a_dead_camera_channel_is_named_first(model, first):
    data = images(500, 2)
    data[:, 1] = 0
    found = onnxscope.drift(first, profile(model, data))
    assert found.verdict == "differs"
    assert (found[0].name, found[0].is_input, found[0].of_state("dead")) == ("image", True, (1,))
    assert found[0].channels[0].channel == 1
    assert found[0].message().startswith("dead 1")
    assert found.to_dict()["values"][0]["drift"] is None  # infinite
    assert onnxscope.drift(first, profile(model, data)).to_dict() == found.to_dict()


def test_a_brighter_channel_moves_by_what_numpy_says(model, first):
    data = images(500, 2)
    data[:, 2] += 1.5
    found = onnxscope.drift(first, profile(model, data))
    row = found.layer("image")
    assert found[0] is row
    before = images(600, 1)[:, 2].astype(np.float64)
    after = data[:, 2].astype(np.float64)
    expected = (after.mean() - before.mean()) / before.std(ddof=1)
    assert row.channels[0].channel == 2
    assert row.channels[0].shift.value == pytest.approx(expected, rel=1e-6)
    x, y = images(600, 1).astype(np.float64).reshape(-1), data.astype(np.float64).reshape(-1)
    outside = ((y < x.min()) | (y > x.max())).mean()
    assert row.outside.value == pytest.approx(outside, abs=2e-4)
    quantile = (np.arange(10_000) + 0.5) / 10_000
    distance = np.abs(np.quantile(x, quantile) - np.quantile(y, quantile)).mean() / x.std(ddof=1)
    assert row.wasserstein.value == pytest.approx(distance, rel=0.02)


def test_a_model_s_running_statistics_stand_for_the_first_data(model):
    good = profile(model, images(500, 3), select="op:Conv", at="pre")
    found = onnxscope.drift(model, good)
    assert (found.verdict, found.samples, [row.name for row in found]) == ("equal", (None, 500), ["h"])
    data = images(500, 3) * 4
    bad = onnxscope.drift(model, profile(model, data, select=["op:Conv", "op:BatchNormalization"], at="pre"))
    assert bad.verdict == "differs"
    assert sorted(row.name for row in bad) == ["h", "n"]
    convolved = onnxscope_values(WEIGHTS["w"].astype(np.float32), data)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for channel in bad.layer("h").channels:
        spread = convolved[:, channel.channel].std(ddof=1) / math.sqrt(stored["var"][channel.channel])
        assert channel.ratio.value == pytest.approx(spread, rel=1e-4)
    assert len(bad.layer("h").channels) == 4


def test_what_cannot_be_told_is_undecided(model, first):
    few = profile(model, images(8, 4))
    found = onnxscope.drift(few, few)
    assert found.verdict == "undecided"
    assert "too few samples to tell" in found.summary()
    assert "both profiles are of the same samples" in found.notes
    other = onnxscope.drift(first, profile(model, images(500, 2), select=["op:Gemm", "op:Relu"]))
    assert other.unmatched
    assert other.verdict == "undecided"


def test_faults_are_said(model, first, tmp_path):
    plain = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }'
    )
    with pytest.raises(ProfileError, match="has no BatchNormalization: there is nothing to hold"):
        onnxscope.drift(plain, first)
    with pytest.raises(ProfileError, match="none of the values around its BatchNormalizations") as fault:
        onnxscope.drift(model, first)
    assert "--select op:BatchNormalization --at pre" in fault.value.hint
    with pytest.raises(ProfileError, match="no value in common"):
        onnxscope.drift(first, profile(plain, np.zeros((3, 3), np.float32)))
    with pytest.raises(ProfileError, match="no such file"):
        onnxscope.drift(tmp_path / "none.json", first)
    with pytest.raises(InputError, match="at least 0"):
        onnxscope.drift(first, first, threshold=-1)


def test_the_command(model, first, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(model, "m.onnx")
    data = images(500, 2)
    first.profile.save("a.json")
    profile(model, data).profile.save("b.json")
    profile(model, data + 2).profile.save("c.json")
    assert run(["drift", "a.json", "b.json"]) == 0
    assert "no drift in 2 values" in capsys.readouterr().out
    assert run(["drift", "a.json", "c.json"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("differs: 2 of 2 values, first image (g, 600 against 500 samples)")
    assert max(map(len, out.splitlines())) <= 80
    assert run(["drift", "a.json", "c.json", "--threshold", "1000"]) == 0
    assert run(["drift", "a.json", "c.json", "--format", "json"]) == 1
    assert "Infinity" not in capsys.readouterr().out
    profile("m.onnx", data + 2, select="op:Conv", at="pre").profile.save("pre.json")
    assert run(["drift", "m.onnx", "pre.json", "--format", "json", "-q"]) == 1
    assert json.loads(capsys.readouterr().out.split("\n\n")[-1])["samples"] == [None, 500]
    assert run(["drift", "m.onnx", "b.json"]) == 2
    assert run(["drift", "none.json", "b.json"]) == 2
    assert "none.json" in capsys.readouterr().err
