"""Which axis counts samples: networks that have no batch, their twins that have one, and what overrules."""

from __future__ import annotations

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

import onnxscope
from onnxscope.cli.main import run as run_command
from onnxscope.errors import InputError

RNG = np.random.default_rng(12)
COUNT = 20  # more than two batches of eight, and no multiple of it
HEADER = '<ir_version: 9, opset_import: ["": 17]>'
RECURRENT = {
    "W": RNG.normal(size=(1, 16, 3)),
    "R": RNG.normal(size=(1, 16, 4)),
    "W1": RNG.normal(size=(1, 4, 3)),
    "R1": RNG.normal(size=(1, 4, 4)),
    "W3": RNG.normal(size=(1, 12, 3)),
    "R3": RNG.normal(size=(1, 12, 4)),
    "V": RNG.normal(size=(3, 5)),
}


def network(text):
    """A model of this text, with those of the weights that it reads."""
    model = onnx.parser.parse_model(HEADER + text)
    read = {name for node in model.graph.node for name in node.input}
    for name, values in RECURRENT.items():
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


ONE_SAMPLE = {
    "LSTM": (
        "g (float[T, 2, 3] x) => (float[T, 1, 2, 4] y) { y, h, c = LSTM<hidden_size = 4>(x, W, R) }",
        {"x": normal(COUNT, 2, 3)},
    ),
    "GRU": (
        "g (float[T, 2, 3] x) => (float[T, 1, 2, 4] y) { y, h = GRU<hidden_size = 4>(x, W3, R3) }",
        {"x": normal(COUNT, 2, 3)},
    ),
    "RNN": (
        "g (float[T, 2, 3] x) => (float[T, 1, 2, 4] y) { y, h = RNN<hidden_size = 4>(x, W1, R1) }",
        {"x": normal(COUNT, 2, 3)},
    ),
    "point cloud": (
        "g (float[P, 3] x) => (float[5] y) { h = MatMul(x, V)  y = ReduceMax<axes = [0], keepdims = 0>(h) }",
        {"x": normal(COUNT, 3)},
    ),
    "graph": (
        "g (float[N, 3] x, float[N, N] edges) => (float[N, 5] y) { h = MatMul(x, V)  y = MatMul(edges, h) }",
        {"x": normal(COUNT, 3), "edges": normal(COUNT, COUNT)},
    ),
    "Softmax": ("g (float[N, 3] x) => (float[N, 3] y) { y = Softmax<axis = 0>(x) }", {"x": normal(COUNT, 3)}),
    "ReduceMean": (
        "g (float[N, 3] x) => (float[N, 3] y) { m = ReduceMean<axes = [0]>(x)  y = Sub(x, m) }",
        {"x": normal(COUNT, 3)},
    ),
    "Transpose": (
        "g (float[N, 3] x) => (float[3, N] y) { t = Transpose<perm = [1, 0]>(x)  y = Softmax<axis = -1>(t) }",
        {"x": normal(COUNT, 3)},
    ),
    "Reshape": (
        "g (float[N, 3] x) => (float[K] y) <int64[1] s = {-1}> { r = Reshape(x, s)  y = Softmax<axis = 0>(r) }",
        {"x": normal(COUNT, 3)},
    ),
    "CumSum": (
        "g (float[N, 3] x) => (float[N, 3] y) <int64 a = {0}> { y = CumSum(x, a) }",
        {"x": normal(COUNT, 3)},
    ),
    "other symbols": (
        "g (float[N, 3] x, float[E, 3] z) => (float[N, E] y) { t = Transpose<perm = [1, 0]>(z)  y = MatMul(x, t) }",
        {"x": normal(COUNT, 3), "z": normal(COUNT, 3)},
    ),
}
SAMPLES = {
    "LSTM": (
        "g (float[N, 7, 3] x) => (float[7, 1, N, 4] y) "
        "{ t = Transpose<perm = [1, 0, 2]>(x)  y, h, c = LSTM<hidden_size = 4>(t, W, R) }",
        {"x": normal(COUNT, 7, 3)},
    ),
    "GRU": (
        "g (float[N, 7, 3] x) => (float[N, 7, 4] y) { t = Transpose<perm = [1, 0, 2]>(x) "
        "z, h = GRU<hidden_size = 4>(t, W3, R3)  q = Transpose<perm = [2, 0, 1, 3]>(z) "
        "y = Reshape(q, s) }".replace("=> (float[N, 7, 4] y)", "=> (float[N, 7, 4] y) <int64[3] s = {0, 7, 4}>"),
        {"x": normal(COUNT, 7, 3)},
    ),
    "RNN": (
        "g (float[N, 7, 3] x) => (float[7, 1, N, 4] y) "
        "{ t = Transpose<perm = [1, 0, 2]>(x)  y, h = RNN<hidden_size = 4>(t, W1, R1) }",
        {"x": normal(COUNT, 7, 3)},
    ),
    "point cloud": (
        "g (float[N, 9, 3] x) => (float[N, 5] y) { h = MatMul(x, V)  y = ReduceMax<axes = [1], keepdims = 0>(h) }",
        {"x": normal(COUNT, 9, 3)},
    ),
    "graph": (
        "g (float[N, 6, 3] x, float[N, 6, 6] edges) => (float[N, 6, 5] y) { h = MatMul(x, V)  y = MatMul(edges, h) }",
        {"x": normal(COUNT, 6, 3), "edges": normal(COUNT, 6, 6)},
    ),
    "Softmax": ("g (float[N, 3] x) => (float[N, 3] y) { y = Softmax<axis = 1>(x) }", {"x": normal(COUNT, 3)}),
    "ReduceMean": (
        "g (float[N, 3] x) => (float[N, 3] y) { m = ReduceMean<axes = [1]>(x)  y = Sub(x, m) }",
        {"x": normal(COUNT, 3)},
    ),
    "Transpose": (
        "g (float[N, 3] x) => (float[3, N] y) { t = Transpose<perm = [1, 0]>(x)  y = Softmax<axis = 0>(t) }",
        {"x": normal(COUNT, 3)},
    ),
    "Reshape": (
        "g (float[N, 4, 3] x) => (float[K, 5] y) <int64[2] s = {-1, 3}> "
        "{ t = Transpose<perm = [1, 0, 2]>(x)  r = Reshape(t, s)  y = MatMul(r, V) }",
        {"x": normal(COUNT, 4, 3)},
    ),
    "CumSum": (
        "g (float[N, 3] x) => (float[N, 3] y) <int64 a = {1}> { y = CumSum(x, a) }",
        {"x": normal(COUNT, 3)},
    ),
    "other symbols": (
        "g (float[N, 3] x, float[E, 3] z) => (float[N, 3] y) { y = Mul(x, z) }",
        {"x": normal(COUNT, 3), "z": normal(COUNT, 3)},
    ),
}


def assert_same_statistics(text, feeds):
    """Statistics of `stats` are those of `features`, and of what onnx's reference computes at once."""
    model = network(text)
    statistics = onnxscope.stats(model, feeds, select="*", exact=True)
    maps = {layer.tap.name: layer for layer in onnxscope.features(model, feeds, select="*")}
    y = ReferenceEvaluator(model).run(["y"], feeds)[0].astype(np.float64)
    names = [tap.name for tap in statistics]
    assert "y" in names
    for tap in statistics:
        mean, deviation = maps[tap.name].data.mean(dtype=np.float64), maps[tap.name].data.std(dtype=np.float64, ddof=1)
        assert tap.overall.mean == pytest.approx(mean, rel=1e-5, abs=1e-6), tap.name
        assert tap.overall.std == pytest.approx(deviation, rel=1e-5, abs=1e-6), tap.name
        assert maps[tap.name].data.size == tap.overall.count
    assert statistics[names.index("y")].overall.mean == pytest.approx(y.mean(), rel=1e-4, abs=1e-6)
    return statistics


@pytest.mark.parametrize("kind", ONE_SAMPLE)
def test_what_is_no_batch_is_one_sample(kind):
    text, feeds = ONE_SAMPLE[kind]
    statistics = assert_same_statistics(text, feeds)
    assert statistics.profile.samples == 1
    assert any("axis 0 counts no samples" in note and "--batch-axis 0" in note for note in statistics.notes)
    assert statistics.profile.input["batch_axes"] == dict.fromkeys(feeds)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_batch_is_still_cut(kind):
    text, feeds = SAMPLES[kind]
    statistics = assert_same_statistics(text, feeds)
    assert statistics.profile.samples == COUNT
    assert statistics.notes == ()
    assert statistics.profile.input["batch_axes"] == dict.fromkeys(feeds, 0)


@pytest.mark.parametrize("kind", ONE_SAMPLE)
def test_what_is_no_batch_is_one_sample_of_two_as_well(kind):
    text, feeds = ONE_SAMPLE[kind]
    two = {name: array[:2, :2] if array.shape == (COUNT, COUNT) else array[:2] for name, array in feeds.items()}
    statistics = onnxscope.stats(network(text), two, select="*")
    assert statistics.profile.samples == 1


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_batch_of_two_is_still_cut(kind):
    text, feeds = SAMPLES[kind]
    statistics = onnxscope.stats(network(text), {name: array[:2] for name, array in feeds.items()}, select="*")
    assert statistics.profile.samples == 2


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize("count", [2, COUNT])
def test_samples_that_are_mixed_are_found_at_any_scale(scale, count):
    mixing = "g (float[N, 3] x) => (float[N, 3] y) { m = ReduceMax<axes = [0]>(x)  y = Sub(x, m) }"
    plain = "g (float[N, 3] x) => (float[N, 3] y) { m = ReduceMax<axes = [1]>(x)  y = Sub(x, m) }"
    x = (normal(count, 3) * scale).astype(np.float32)
    assert onnxscope.stats(network(mixing), x, select="*").profile.samples == 1
    assert onnxscope.stats(network(plain), x, select="*").profile.samples == count


def test_equal_samples_show_nothing_and_the_graph_decides():
    text, _ = ONE_SAMPLE["point cloud"]
    statistics = onnxscope.stats(network(text), np.ones((COUNT, 3), np.float32), select="*")
    assert statistics.profile.samples == 1
    assert "ReduceMax" in statistics.notes[0]
    text, _ = SAMPLES["Softmax"]
    assert onnxscope.stats(network(text), np.ones((COUNT, 3), np.float32), select="*").profile.samples == COUNT


def test_a_value_without_samples_is_no_dependence():
    text = """g (float[N, 3] x) => (float[N, 3] y)
        { u = Shape<start = 1>(x)  w = Cast<to = 1>(u)  k = Concat<axis = 0>(w, w, w)  y = Mul(x, k) }"""
    assert onnxscope.stats(network(text), normal(COUNT, 3), select="*").profile.samples == COUNT


def test_random_numbers_are_no_dependence():
    text = "g (float[N, 3] x) => (float[N, 3] y) { r = RandomNormalLike(x)  y = Add(x, r) }"
    assert onnxscope.stats(network(text), normal(COUNT, 3), select="*").profile.samples == COUNT


def test_a_batch_axis_that_is_not_the_first():
    text, _ = ONE_SAMPLE["LSTM"]
    model = network(text.replace("T, 2, 3", "T, N, 3").replace("T, 1, 2, 4", "T, 1, N, 4"))
    data = normal(6, COUNT, 3)
    statistics = onnxscope.stats(model, {"x": data}, select="*", batch_axis=1, exact=True)
    assert statistics.profile.samples == COUNT
    assert statistics.profile.input["batch_axes"] == {"x": 1}
    y = ReferenceEvaluator(model).run(["y"], {"x": data})[0]
    assert statistics.layer("y").overall.count == y.size
    assert statistics.layer("y").overall.mean == pytest.approx(y.mean(), rel=1e-4)


def test_the_axis_asked_for_overrules():
    text, feeds = ONE_SAMPLE["Softmax"]
    cut = onnxscope.stats(network(text), feeds, select="*", batch_axis=0)
    assert cut.profile.samples == COUNT
    assert "the results depend on which samples make a batch" in cut.notes[0]
    text, feeds = SAMPLES["Softmax"]
    whole = onnxscope.stats(network(text), feeds, select="*", batch_axis="none")
    assert whole.profile.samples == 1
    text, feeds = ONE_SAMPLE["graph"]
    shared = {**feeds, "edges": feeds["edges"][:8, :8]}
    text = text.replace("MatMul(edges, h)", "Identity(h)")
    named = onnxscope.stats(network(text), shared, select="*", batch_axis={"x": 0})
    assert named.profile.samples == COUNT
    assert named.profile.input["batch_axes"] == {"x": 0, "edges": None}


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (2, "input 'x' has no axis 2 for a batch: it has 2 axes"),
        ({"z": 0}, "no input 'z' has a batch axis"),
        ("first", "no axis of samples: 'first'"),
    ],
)
def test_an_axis_that_does_not_exist_is_refused(axis, message):
    text, feeds = SAMPLES["Softmax"]
    with pytest.raises(InputError, match=message):
        onnxscope.stats(network(text), feeds, batch_axis=axis)


def test_inputs_of_different_length_are_refused():
    text, _ = SAMPLES["other symbols"]
    with pytest.raises(InputError, match="do not agree on how many samples there are: 3, 4"):
        onnxscope.stats(network(text), {"x": normal(3, 3), "z": normal(4, 3)}, batch_axis=0)


TRAINING = """g (float[N, 3, 2] x) => (float[N, 3, 2] y)
    <float[3] s = {1, 1, 1}, float[3] b = {0, 0, 0}, float[3] m = {0, 0, 0}, float[3] v = {1, 1, 1}>
    { y, rm, rv = BatchNormalization<training_mode = 1>(x, s, b, m, v) }"""


def test_a_result_that_depends_on_the_batch_is_said():
    data = normal(COUNT, 3, 2)
    model = network(TRAINING)
    taken = onnxscope.stats(model, data, select="y", exact=True)
    assert "BatchNormalization" in taken.notes[0]
    assert taken.profile.samples == 1
    evaluating = network(TRAINING.replace("training_mode = 1", "training_mode = 0").replace("{ y, rm, rv", "{ y"))
    assert onnxscope.stats(evaluating, data, select="y").notes == ()


def written(tmp_path, text, feeds):
    onnx.save(network(text), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **feeds)
    return str(tmp_path / "m.onnx"), str(tmp_path / "x.npz")


def run(*arguments):
    """Exit code, stdout and stderr of the command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(list(arguments))
    return SimpleNamespace(exit_code=code, stdout=out.getvalue(), stderr=err.getvalue(), output=err.getvalue())


@pytest.mark.parametrize("kind", ["point cloud", "graph", "LSTM"])
def test_every_command_takes_all_of_it_for_one_sample(kind, tmp_path):
    text, feeds = ONE_SAMPLE[kind]
    model, data = written(tmp_path, text, feeds)
    base = str(tmp_path / "m.onnxscope.json")
    taken = run("snapshot", model, "-i", data, "-o", base)
    assert taken.exit_code == 0, taken.output
    assert json.loads((tmp_path / "m.onnxscope.json").read_text())["input"]["batch_axes"] == dict.fromkeys(feeds)
    assert run("check", model, "-i", data).exit_code == 0
    compared = run("diff", model, model, "-i", data, "--format", "json")
    assert compared.exit_code == 0
    record = json.loads(compared.stdout)["input"]
    assert (record["samples"], record["batch_axes"]) == (1, dict.fromkeys(feeds))
    assert "axis 0 counts no samples" in compared.stderr
    page = run("report", model, "-i", data, "--against", model, "-s", "*", "-o", str(tmp_path / "r.html"))
    assert page.exit_code == 0, page.output
    assert "axis 0 counts no samples" in page.stderr


def test_the_page_takes_its_numbers_from_everything():
    text, feeds = ONE_SAMPLE["point cloud"]
    content = onnxscope.report(network(text), feeds, select="*").content
    expected = (feeds["x"].astype(np.float64) @ RECURRENT["V"]).max(0).mean()
    assert content.statistics.layer("y").overall.mean == pytest.approx(expected, rel=1e-4)
    assert {layer.tap.name: layer.data for layer in content.maps}["y"].mean() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("axis", [["0"], ["x=0"], ["none"]])
def test_the_option_overrules_on_every_command(axis, tmp_path):
    text, feeds = ONE_SAMPLE["Softmax"]
    model, data = written(tmp_path, text, feeds)
    options = [part for text in axis for part in ("--batch-axis", text)]
    expected = 1 if axis == ["none"] else COUNT
    for command, more in (
        (["stats", model, "-s", "*"], ["-o", str(tmp_path / "p.json"), "--format", "json"]),
        (["snapshot", model], ["-o", str(tmp_path / "m.onnxscope.json"), "--format", "json"]),
        (["diff", model, model], ["--format", "json"]),
    ):
        result = run(*command, "-i", data, *options, "--batch-size", "5", *more)
        assert result.exit_code == 0, result.output
        record = json.loads(result.stdout)
        assert record["input"]["samples"] == expected
    assert run("check", model, "-i", data, *options, "--batch-size", "5").exit_code == 0
    page = run("report", model, "-i", data, *options, "--batch-size", "5", "-s", "*", "-o", str(tmp_path / "r.html"))
    assert page.exit_code == 0, page.output


@pytest.mark.parametrize("given", [["x"], ["x=first"], ["0", "1"]])
def test_an_option_that_is_no_axis_is_refused(given, tmp_path):
    text, feeds = ONE_SAMPLE["Softmax"]
    model, data = written(tmp_path, text, feeds)
    options = [part for text in given for part in ("--batch-axis", text)]
    result = run("diff", model, model, "-i", data, *options)
    assert result.exit_code == 2
    assert "no axis of samples" in result.stderr


def test_a_check_cuts_as_its_baseline_was_cut(tmp_path):
    text, feeds = SAMPLES["Softmax"]
    model, data = written(tmp_path, text, feeds)
    base = tmp_path / "m.onnxscope.json"
    assert run("snapshot", model, "-i", data, "-o", str(base)).exit_code == 0
    onnx.save(network(text.replace("axis = 1", "axis = 0")), model)
    changed = run("check", model, "-i", data, "--format", "json")
    assert changed.exit_code == 1, changed.stderr
    assert not json.loads(changed.stdout)["ok"]
    assert "the results depend on which samples make a batch" in changed.stderr


def test_a_snapshot_says_what_is_one_sample(tmp_path):
    text, feeds = ONE_SAMPLE["Softmax"]
    model, data = written(tmp_path, text, feeds)
    taken = run("snapshot", model, "-i", data, "-o", str(tmp_path / "b.json"))
    assert "axis 0 counts no samples" in taken.stderr


def test_images_stay_samples_and_the_note_says_what_they_share(tmp_path):
    for number in range(3):
        pixels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    model = network(
        "g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { m = ReduceMean<axes = [0, 2, 3]>(x)  y = Sub(x, m) }"
    )
    taken = onnxscope.stats(model, tmp_path, preprocess="unit", select="*")
    assert taken.profile.samples == 3
    assert any(note.startswith("the results depend on which samples make a batch: ReduceMean") for note in taken.notes)
    alone = network(
        "g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { m = ReduceMean<axes = [1, 2, 3]>(x)  y = Sub(x, m) }"
    )
    assert onnxscope.stats(alone, tmp_path, preprocess="unit", select="*").notes == ()


def test_values_that_shapes_alone_make_mix_no_samples():
    """As exporters write the sizes that they reshape to."""
    text = """g (float[N, T, 4] x) => (float[N, T, 2, 2] y) <int64[2] halves = {2, 2}>
        { n = Shape<start = 0, end = 1>(x)  t = Shape<start = 1, end = 2>(x)  size = Concat<axis = 0>(n, t, halves)
          h = Relu(x)  y = Reshape(h, size) }"""
    result = onnxscope.stats(network(text), {"x": normal(5, 3, 4)}, select="value:*")
    assert result.profile.samples == 5
    assert result.profile.input["batch_axes"] == {"x": 0}
    assert result.notes == ()
