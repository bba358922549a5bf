"""What takes the time: shares, sums, what is in what, bodies that count once, memory."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest
import small_networks
from onnx import numpy_helper

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.errors import InputError, RunError
from onnxscope.model.loading import load_model
from onnxscope.timing.profile_events import Call, ModelRun
from onnxscope.timing.run_graph import RunNode
from onnxscope.timing.time_model import time_feeds, time_model
from onnxscope.timing.time_shares import share_out


def stored(text, **shapes):
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(3)
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.1, shape).astype("float32"), name))
    return model


@pytest.fixture(scope="module")
def costly():
    """Three layers, of which the second multiplies a hundred times as much as both others together."""
    model = stored(
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 64] x) => (float[N, 10] y) {
            a = MatMul(x, w1)  b = Add(a, b1)  r = Relu(b)  c = MatMul(r, w2)  s = Sigmoid(c)  y = MatMul(s, w3)
        }""",
        w1=(64, 256),
        b1=(256,),
        w2=(256, 2048),
        w3=(2048, 10),
    )
    for node, name in zip(model.graph.node, ("first", "bias", "relu", "costly", "sigmoid", "last"), strict=True):
        node.name = name
    return model


def test_the_costly_layer_has_the_time(costly):
    summary = onnxscope.inspect(costly, {"x": np.ones((32, 64), "float32")}, time=True, repeats=3)
    first, middle, last = summary.layers
    assert (first.layer, middle.layer, last.layer) == ("first", "costly", "last")
    assert middle.time.share > 0.5
    assert middle.time.share > 3 * max(first.time.share, last.time.share)
    assert middle.time.multiply_accumulates == 32 * 256 * 2048
    assert middle.time.per_second == pytest.approx(32 * 256 * 2048 / middle.time.seconds)


def test_the_rows_are_the_run(costly):
    timing = time_model(load_model(costly), {"x": np.ones((8, 64), "float32")}, RunOptions(), repeats=3)
    assert sum(row.seconds for row in timing.rows) == pytest.approx(timing.run_s, rel=1e-9)
    assert timing.attributed == 1
    assert [row.layer for row in timing.rows] == ["first", "costly", "last", "outside nodes"]
    assert timing.repeats == 3


@pytest.mark.parametrize("name", ["convolutions", "bodies", "quantized_pairs", "dynamically_quantized", "recurrent"])
def test_the_rows_are_the_run_whatever_the_operators(name):
    network = getattr(small_networks, name)()
    timing = time_feeds(load_model(network.model), network.feeds, repeats=3)
    assert sum(row.seconds for row in timing.rows) == pytest.approx(timing.run_s, rel=1e-9)
    assert timing.attributed == 1
    assert min(row.seconds for row in timing.rows) >= 0


def test_what_is_fused_into_a_layer_is_said_to_be_in_it():
    network = small_networks.convolutions()
    summary = onnxscope.inspect(network.model, network.feeds, time=True, repeats=1)
    layers = {layer.layer: layer for layer in summary.layers}
    assert layers["Conv_0"].time is not None
    assert layers["BatchNormalization_0"].time is None
    assert layers["BatchNormalization_0"].timed_in == "Conv_0"
    (row,) = [row for row in summary.table().rows if row[0] == "BatchNormalization_0"]
    assert "in Conv_0" in row
    chosen = onnxscope.inspect(network.model, network.feeds, select="op:Relu", time=True, repeats=1)
    assert [(layer.time, layer.timed_in) for layer in chosen.layers] == [(None, "Conv_0")]


def spent(*calls):
    return ModelRun(sum(call.duration_us for call in calls) + 7, calls)


def call(op, duration, *bodies):
    return Call(op, op, duration, 100 * duration, 1000 * duration, bodies)


def test_what_runs_in_a_body_is_not_counted_with_its_owner():
    """A Loop of 100 us of which its two rounds take 40 each; medians over three runs, the first for memory alone."""
    body = (RunNode("sin", "Sin"), RunNode("mul", "Mul"))
    nodes = (RunNode("loop", "Loop", bodies={"body": body}), RunNode("relu", "Relu"))
    turn = (call("Sin", 30), call("Mul", 10))
    runs = [
        spent(call("Loop", 900, turn), call("Relu", 50)),
        spent(call("Loop", 100, turn, turn), call("Relu", 5)),
        spent(call("Loop", 100, turn, turn), call("Relu", 7)),
        spent(call("Loop", 100, turn, turn), call("Relu", 9)),
    ]
    names = {node: node.name for node in (*nodes, *body)}
    shares = share_out(runs, 1, nodes, names)
    assert shares.microseconds == {"loop": 20, "sin": 60, "mul": 20, "relu": 7}
    assert shares.calls == {"loop": 1, "sin": 2, "mul": 2, "relu": 1}
    assert (shares.outside_us, shares.least_us, shares.peak_bytes) == (7, 7, 900_000)
    assert shares.in_use_bytes["relu"] == 5000
    del names[body[0]]
    assert share_out(runs, 1, nodes, names).unknown_us == 60


def test_a_body_that_nobody_knows_stays_its_owner_s():
    node = RunNode("search", "BeamSearch")
    shares = share_out([spent(call("BeamSearch", 50, (call("Sin", 30),)))] * 2, 1, [node], {node: "search"})
    assert shares.microseconds == {"search": 50}


def test_the_layers_of_a_body_have_times_of_their_own():
    network = small_networks.bodies()
    timing = time_feeds(load_model(network.model), network.feeds, repeats=3)
    kinds = {row.layer: row.kind for row in timing.rows}
    assert kinds["MatMul_2"] == "layer"  # in the Loop
    assert kinds["Loop_0"] == "node"


def test_memory_is_what_values_take():
    """Two large values alive at once, and the model's own input is the caller's."""
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[256, 1024] x) => (float y) {
            a = Sin(x)  b = Cos(a)  c = Tan(b)  d = Asin(c)  y = ReduceMax<keepdims = 0>(d)
        }""")
    value = 256 * 1024 * 4
    timing = time_feeds(load_model(model), {"x": np.full((256, 1024), 0.1, "float32")}, repeats=1)
    assert value <= timing.peak_row.in_use_bytes < 3 * value
    assert timing.peak_row.in_use_bytes <= timing.peak_bytes
    assert f"{timing.peak_bytes:,} bytes" in timing.memory_text()


def test_many_runs_take_the_first(costly):
    fixed = onnx.ModelProto()
    fixed.CopyFrom(costly)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    timing = time_model(load_model(fixed), {"x": np.ones((6, 64), "float32")}, RunOptions(), repeats=1)
    assert "several runs: the first one is measured" in " ".join(timing.notes)
    assert timing.rows[0].multiply_accumulates == 2 * 64 * 256


def test_nothing_but_what_runs_is_measured(costly):
    loaded = load_model(costly)
    with pytest.raises(InputError, match="0 repeats measure nothing"):
        time_model(loaded, "random", RunOptions(), repeats=0)
    with pytest.raises(InputError, match="nothing is fed, so nothing takes time"):
        onnxscope.inspect(costly, time=True)
    broken = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 4] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }""")
    with pytest.raises(RunError, match="cannot run the model"):
        time_feeds(load_model(broken), {"x": np.ones((1, 4), "float32"), "s": np.array([3, 3])}, repeats=1)


def test_the_command_shows_times(costly, tmp_path, capsys):
    path = str(tmp_path / "costly.onnx")
    onnx.save(costly, path)
    assert run(["inspect", path, "--time", "-i", "random", "--repeats", "2"]) == 0
    told = capsys.readouterr()
    assert "ms a run, median of 2: " in told.out
    assert "share %" in told.out
    assert "the input is random" in told.err
    assert run(["inspect", path, "--time", "-i", "random", "--repeats", "2", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [layer["layer"] for layer in record["layers"] if "ms" in layer] == ["first", "costly", "last"]
    assert sum(row["ms"] for row in record["timing"]["rows"]) == pytest.approx(record["timing"]["run_ms"], rel=0.01)
    assert run(["inspect", path, "--format", "json"]) == 0
    assert "timing" not in json.loads(capsys.readouterr().out)
    for wrong, message in (
        (["--time"], "--time needs what the model is fed"),
        (["-i", "random"], "is measured: --time"),
    ):
        assert run(["inspect", path, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_nothing_is_left_behind(costly, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    time_model(load_model(costly), "random", RunOptions(), repeats=1)
    assert list(tmp_path.iterdir()) == []
