"""The option `--dim` of the commands that run a model, and `dims=` in the library."""

from __future__ import annotations

import json
import pickle

import numpy as np
import onnx.parser
import pytest
from PIL import Image

import onnxscope
from onnxscope.cli.main import run


@pytest.fixture
def path(tmp_path):
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
        g (float[batch, seq, 2] x, float[?, ?, 2] z) => (float[batch, seq, 2] y, float[a, b, 2] w)
        { y = Relu (x)  w = Sigmoid (z) }""")
    for dim in model.graph.input[1].type.tensor_type.shape.dim:
        if dim.dim_param == "?":
            dim.ClearField("dim_param")
    onnx.save(model, tmp_path / "m.onnx")
    return str(tmp_path / "m.onnx")


GIVEN = ["-i", "random", "-s", "*", "--dim", "seq=5", "--dim", "z:1=3"]


def written(command, path, tmp_path, *more):
    out = {"features": tmp_path / "out", "report": tmp_path / "r.html"}.get(command, tmp_path / "out.json")
    assert run([command, path, *more, "-o", str(out), "--format", "json"]) == 0


@pytest.mark.parametrize("command", ["features", "stats", "report"])
def test_every_command_feeds_the_sizes_that_are_given(command, path, tmp_path, capsys):
    written(command, path, tmp_path, *GIVEN)
    record = json.loads(capsys.readouterr().out)
    assert record["input"]["dims"] == {"seq": 5, "z:1": 3}
    fed = [given["shape"] for given in record["input"]["inputs"]]
    assert fed == ([["batch", 5, 2], [None, 3, 2]] if command == "stats" else [[1, 5, 2], [1, 3, 2]])
    if command == "features":
        assert [tap["shape"] for tap in record["taps"]] == [[1, 5, 2], [1, 3, 2]]


def test_a_comparison_and_a_gate_take_them_too(path, tmp_path, capsys):
    sizes = GIVEN[4:]
    assert run(["diff", path, path, "-i", "random", *sizes, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"]["dims"] == {"seq": 5, "z:1": 3}
    sized = {"seq": 5, "z:1": 3}
    assert onnxscope.diff(path, path, "random", dims=sized).to_dict()["input"]["dims"] == sized
    baseline = str(tmp_path / "b.json")
    assert run(["snapshot", path, "-i", "random", *sizes, "-o", baseline]) == 0
    assert run(["check", path, "--baseline", baseline, "-i", "random", *sizes]) == 0
    assert run(["check", path, "--baseline", baseline]) == 0  # the declared sizes are the same
    capsys.readouterr()
    assert run(["check", path, "--baseline", baseline, "-i", "random"]) == 2
    assert "dims seq 5; z:1 3 became nothing" in capsys.readouterr().err


def test_arrays_of_another_size_are_refused(path, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 4, 2), np.float32), z=np.zeros((1, 3, 2), np.float32))
    assert run(["features", path, "-i", str(tmp_path / "x.npz"), "-o", str(tmp_path / "o"), "--dim", "seq=5"]) == 2
    assert "input 'x' takes (batch, 5, 2), not (1, 4, 2)" in capsys.readouterr().err


def test_inspect_takes_a_place_for_a_name(path, capsys):
    assert run(["inspect", path, "--dim", "x:1=7", "--dim", "z:0=4", "--format", "json", "-s", "*"]) == 0
    assert [layer["shape"] for layer in json.loads(capsys.readouterr().out)["layers"]] == [[1, 7, 2], [4, "b", 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seq", "not NAME=SIZE: 'seq'"),
        ("sequ=4", "no dimension of an input is called 'sequ': m.onnx"),
        ("x:2=4", "the dimension x:2 is fixed at 2, not 4: m.onnx"),
        ("seq=3 x:1=4", "two sizes, 3 and 4, for the dimension seq: m.onnx"),
        ("x:5=4", "no dimension of an input is called 'x:5': m.onnx"),
    ],
)
def test_a_size_that_cannot_be_given_is_an_error(text, message, path, tmp_path, capsys):
    given = [part for dim in text.split() for part in ("--dim", dim)]
    assert run(["features", path, "-i", "random", "-o", str(tmp_path / "o"), *given]) == 2
    err = capsys.readouterr().err
    assert message in err
    if "no dimension" in message:
        assert "=4`; open are batch, seq, z:0, z:1; the model takes " in err
    assert run(["features", path, "-i", "random", "-o", "o", "--dim", "seq=4", "--dim", "seq=5"]) == 2
    assert "two sizes, 4 and 5: 'seq'" in capsys.readouterr().err


def test_a_model_keeps_the_sizes_that_it_was_loaded_with(path):
    model = onnxscope.load_model(path, dims={"seq": 6})
    assert [spec.shape for spec in model.inputs] == [("batch", 6, 2), (None, None, 2)]
    assert model.declared_inputs[0].shape == ("batch", "seq", 2)
    assert pickle.loads(pickle.dumps(model)).inputs == model.inputs
    assert onnxscope.features(model, "random", dims={"z:0": 4}).input["dims"] == {"seq": 6, "z:0": 4}
    with pytest.raises(onnxscope.InputError, match="the size of a dimension is a whole number, not -1: 'seq'"):
        onnxscope.load_model(path, dims={"seq": -1})


def test_a_place_stands_for_the_symbol_that_is_there(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[n, seq] x, float[n, seq] y) => (float[n, seq] z) { z = Add (x, y) }"""
    model = onnxscope.load_model(onnx.parser.parse_model(text), dims={"y:1": 5})
    assert [spec.shape for spec in model.inputs] == [("n", 5), ("n", 5)]
    unknown = onnx.parser.parse_model(text)
    for value in unknown.graph.input:
        value.type.tensor_type.shape.dim[1].dim_param = "?"  # as some exporters write what they do not know
    assert [spec.shape for spec in onnxscope.load_model(unknown, dims={"y:1": 5}).inputs] == [("n", "?"), ("n", 5)]
    assert [spec.shape for spec in onnxscope.load_model(unknown, dims={"?": 5}).inputs] == [("n", 5), ("n", 5)]


def test_a_picture_is_brought_to_the_size_that_is_given(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[n, 3, h, w] x) => (float[n, 3, h, w] y) { y = Relu (x) }'
    Image.new("RGB", (40, 30)).save(tmp_path / "p.png")
    maps = onnxscope.features(
        onnx.parser.parse_model(text), str(tmp_path / "p.png"), preprocess="none", dims={"h": 16}, select="op:Relu"
    )
    assert maps[0].data.shape == (1, 3, 16, 21)  # in proportion
    assert maps.input["dims"] == {"h": 16}


def test_a_batch_that_is_given_is_made_of_so_many_samples(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[n, 2] x) => (float[n, 2] y) { y = Relu (x) }'
    model = onnx.parser.parse_model(text)
    stats = onnxscope.stats(model, "random", dims={"n": 3}, select="op:Relu")
    assert (stats.profile.samples, stats[0].overall.count) == (3, 6)
    assert onnxscope.features(model, "random", dims={"n": 3}, select="op:Relu")[0].data.shape == (3, 2)
    assert onnxscope.stats(model, "random", select="op:Relu").profile.samples == 1


def test_workers_feed_the_sizes_that_are_given(path):
    one, two = (
        onnxscope.stats(path, "random", dims={"seq": 5}, limit=4, batch_size=1, select="op:Relu", workers=workers)
        for workers in (1, 2)
    )
    assert one.to_dict() == two.to_dict()
    assert one[0].overall.count == 4 * 5 * 2
