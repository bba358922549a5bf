"""Which of two models is faster, and by what."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import InputError
from onnxscope.timing.compared_times import compare_times
from onnxscope.timing.layer_times import LayerTime, Timing


def timing(name, run_ms, **layers):
    run_s = run_ms / 1e3
    rows = [LayerTime("layer", layer, "Conv", layer, ms / 1e3, run_s, None, None) for layer, ms in layers.items()]
    rows.append(LayerTime("outside", "outside nodes", "", "", 0.0, run_s, None, None))
    return Timing({"name": name}, None, run_s, run_s, 1, tuple(rows), {}, None, (), {})


def test_the_sentence_names_what_makes_the_most_of_it():
    first = timing("a.onnx", 10, conv1=6, conv2=3, norm=1)
    second = timing("b.onnx", 5, conv1=2, conv2=1.5, other=1.5)
    times = compare_times(first, second, [("conv1", "conv1"), ("conv2", "conv2"), ("norm", "gone")])
    assert times.text == "b.onnx: 2x faster (10 and 5 ms a run), of which conv1 4 ms (80%), conv2 1.5 ms (30%)"
    assert [pair.ratio for pair in times.pairs] == [pytest.approx(3), pytest.approx(2), None]
    assert times.of("norm", "gone").cells() == (1.0, None, None)
    back = compare_times(second, first, [("conv1", "conv1")])
    assert back.text == "a.onnx: 2x slower (5 and 10 ms a run), of which conv1 4 ms (80%)"
    assert compare_times(first, timing("a.onnx", 10.1), []).text == "the second: as fast (10 and 10.1 ms a run)"


def network(inner, outer):
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 16] x) => (float[N, 4] y) {
            [first] a = MatMul(x, w1)  [costly] b = MatMul(a, w2)  [third] c = MatMul(b, w3)  [last] y = MatMul(c, w4)
        }""")
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (16, 16), "w2": (16, inner), "w3": (inner, outer), "w4": (outer, 4)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.1, shape).astype("float32"), name))
    return model


def test_layers_of_two_models_are_paired():
    """The second multiplies in the third layer a hundred times as often."""
    feeds = {"x": np.ones((64, 16), "float32")}
    compared = onnxscope.diff(network(1024, 8), network(1024, 1024), feeds, align="name", time=True, repeats=3)
    times = compared.times
    assert times.ratio < 1
    assert times.text.partition("of which ")[2].startswith("third ")
    assert times.of("third", "third").ratio < 0.5
    assert "times faster" in compared.table().columns
    assert times.text in repr(compared)
    assert {len(row) for row in compared.flat_table().rows} == {len(compared.flat_table().columns)}


def test_the_command_says_which_is_faster(tmp_path, capsys):
    path = str(tmp_path / "m.onnx")
    onnx.save(network(8, 8), path)
    assert run(["diff", path, path, "-i", "random", "--time", "--repeats", "2"]) == 0
    verdict, line = capsys.readouterr().out.splitlines()[-2:]
    assert verdict.startswith("equal: ")
    assert line.startswith("the second: ")
    code = run(["diff", path, "-i", "random", "--against-threads", "1", "--time", "--repeats", "1", "--format", "json"])
    record = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [pair["a"] for pair in record["times"]["pairs"]] == ["first", "costly", "third", "last"]
    assert record["ways"]["b"]["running"]["threads"] == 1


def test_time_needs_a_run_of_both_as_they_are(tmp_path, capsys):
    path = str(tmp_path / "m.onnx")
    onnx.save(network(8, 8), path)
    for extra, message in (
        ([], "--time needs what the models are fed"),
        (["-i", "random", "--explain"], "measures two models as they are"),
        (["-i", "random", "--replace", "first=zero"], "measures two models as they are"),
    ):
        assert run(["diff", path, path, "--time", *extra]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="nothing is run, so nothing takes time"):
        onnxscope.diff(path, path, time=True)
