"""What a CPU hides: values of half precision whose numbers their type cannot hold, against float32 in numpy."""

from __future__ import annotations

import json
from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

import onnxscope
from onnxscope.base.tables import render
from onnxscope.cli.main import run
from onnxscope.gate.settings import Settings
from onnxscope.model.loading import load_model
from onnxscope.runtime import half_range
from onnxscope.runtime.half_range import Unfit, merged_unfit, unfit_sentence
from onnxscope.runtime.session import Session

RNG = np.random.default_rng(6)
X = RNG.normal(size=(4, 8)).astype(np.float32)
NORM = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[N, 8] x) => (float[N, 8] y) {
        [cast] half = Cast<to = 10>(x)
        [scale] large = MatMul(half, w)
        [norm_mean] mean = ReduceMean(large, last)
        [norm_sub] centred = Sub(large, mean)
        [norm_pow] squared = Mul(centred, centred)
        [norm_var] variance = ReduceMean(squared, last)
        [norm_sqrt] deviation = Sqrt(variance)
        [norm_div] normed = Div(centred, deviation)
        y = Cast<to = 1>(normed)
    }"""
NAMES = {name: f"norm/{word}" for name, word in (("norm_pow", "Pow"), ("norm_var", "Var"), ("norm_sub", "Sub"))}


def network(scale):
    model = onnx.parser.parse_model(NORM)
    for node in model.graph.node:
        node.name = NAMES.get(node.name, node.name)
    model.graph.initializer.append(numpy_helper.from_array((np.eye(8) * scale).astype(np.float16), "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "last"))
    return model


def expected_magnitudes(x, scale):
    """Of every value, in float32: the largest magnitude by the value's name."""
    half = x.astype(np.float16).astype(np.float32)
    large = half * np.float32(np.float16(scale))
    centred = large - large.mean(axis=1, keepdims=True)
    squared = centred * centred
    variance = squared.mean(axis=1, keepdims=True)
    values = {"half": half, "large": large, "centred": centred, "squared": squared, "variance": variance}
    return {name: float(np.abs(value).max()) for name, value in values.items()}


def sentence_of(record):
    return "computed in float32 here; 2 values do not fit float16, the first norm/Pow" in record


def test_values_that_do_not_fit_are_named_in_execution_order_with_their_magnitude():
    statistics = onnxscope.stats(network(1000), X, select="value:y")
    expected = {name: size for name, size in expected_magnitudes(X, 1000).items() if size >= 65520}
    assert list(expected) == ["squared", "variance"]
    unfit = statistics.profile.unfit
    assert [(value.value, value.node) for value in unfit] == [("squared", "norm/Pow"), ("variance", "norm/Var")]
    for value in unfit:
        assert value.largest == pytest.approx(expected[value.value], rel=2e-3)
        assert value.dtype == "float16"
    (finding,) = [finding for finding in statistics.findings if finding.kind == "does_not_fit"]
    assert sentence_of(finding.message)
    assert sentence_of(repr(statistics))
    assert [value["value"] for value in statistics.to_dict()["unfit"]] == ["squared", "variance"]


@pytest.mark.parametrize("scale", [0.1, 1, 50])
def test_values_that_fit_are_not_named(scale):
    assert max(expected_magnitudes(X, scale).values()) < 65504
    statistics = onnxscope.stats(network(scale), X, select="value:y")
    assert statistics.profile.unfit == ()
    assert statistics.to_dict()["unfit"] == []
    assert "unfit" not in statistics.profile.to_dict()
    assert onnxscope.diff(network(scale), network(scale), X).equal
    assert onnxscope.check(network(scale), onnxscope.snapshot(network(scale), X), X).ok


def test_bfloat16_holds_what_float16_does_not():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[N, 8] x) => (float[N, 8] y) { h = Cast<to = 16>(x)  y = Cast<to = 1>(h) }""")
    largest = float(np.finfo(np.float32).max)
    assert not np.isfinite(np.float32(largest).astype(ml_dtypes.bfloat16))
    for size, count in ((1e30, 0), (float(ml_dtypes.finfo(ml_dtypes.bfloat16).max), 0), (largest, 1)):
        x = X.copy()
        x[1, 1] = -size
        assert len(onnxscope.stats(model, x, select="value:y").profile.unfit) == count


def test_a_comparison_of_what_does_not_fit_is_not_equal():
    single = onnx.parser.parse_model(NORM.replace("to = 10", "to = 1"))
    single.graph.initializer.append(numpy_helper.from_array((np.eye(8) * 1000).astype(np.float32), "w"))
    single.graph.initializer.append(numpy_helper.from_array(np.array([1]), "last"))
    for first, second, sides in ((network(1000), network(1000), "ab"), (single, network(1000), "b")):
        compared = onnxscope.diff(first, second, X)
        assert not any(row.differs for row in (*compared.layers, *compared.outputs))
        assert not compared.equal
        assert sentence_of(compared.summary())
        assert sentence_of(compared.changes_table().text())
        assert sentence_of(compared._repr_html_())
        record = compared.to_dict()["unfit"]
        assert {side: len(values) for side, values in record.items()} == {side: 2 * (side in sides) for side in "ab"}


def test_a_check_fails_whatever_its_baseline_says_and_can_be_told_to_ignore_the_layer():
    model = network(1000)
    baseline = onnxscope.snapshot(model, X)
    assert sentence_of(repr(baseline))
    checked = onnxscope.check(model, baseline, X)
    (finding,) = checked.findings
    assert sentence_of(finding.message)
    assert sentence_of(render(checked, "table"))
    assert finding.found == baseline.unfit[0].largest
    layers = tuple(value.layer for value in baseline.unfit)
    assert onnxscope.check(model, baseline, X, settings=Settings(ignore=layers)).ok
    assert onnxscope.check(model, onnxscope.snapshot(model)).ok  # nothing was run


def test_exit_codes_and_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(1000), "m.onnx")
    np.save("x.npy", X)
    for arguments, code in (
        (["snapshot", "m.onnx", "-i", "x.npy", "-o", "b.json"], 0),
        (["check", "m.onnx", "--baseline", "b.json", "-i", "x.npy"], 1),
        (["diff", "m.onnx", "m.onnx", "-i", "x.npy"], 1),
        (["stats", "m.onnx", "-i", "x.npy", "-o", "p.json"], 0),
        (["report", "m.onnx", "-i", "x.npy", "-o", "r.html"], 0),
    ):
        assert run(arguments) == code, arguments
        assert "do not fit" in "".join(capsys.readouterr()), arguments
    assert "do not fit" in (tmp_path / "r.html").read_text()
    for name in ("b.json", "p.json"):
        assert [row["node"] for row in json.loads((tmp_path / name).read_text())["unfit"]] == ["norm/Pow", "norm/Var"]


def test_an_infinity_by_design_or_of_the_input_fits():
    mask = np.where(np.arange(8) > 5, -np.inf, 0).astype(np.float16)
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float16[N, 8] x) => (float16[N, 8] y) { s = Add(x, m)  t = Mul(s, k)  y = Softmax<axis = 1>(t) }""")
    model.graph.initializer.append(numpy_helper.from_array(mask, "m"))
    model.graph.initializer.append(numpy_helper.from_array(np.float16(2), "k"))
    x = X.astype(np.float16)
    assert onnxscope.stats(model, x, select="value:y").profile.unfit == ()
    x[0, 0] = 60000  # finite, and doubled behind the mask
    (unfit,) = onnxscope.stats(model, x, select="value:y").profile.unfit
    assert (unfit.value, unfit.largest) == ("t", 120000.0)
    x[0, 0] = np.inf
    assert onnxscope.stats(model, x, select="value:y").profile.unfit == ()


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("shape", [(), (3, 0), (1,), (2, 3, 4, 5)])
def test_every_shape_and_opset(opset, shape):
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        net (float16{list(shape)} x) => (float16{list(shape)} y) {{ h = Mul(x, x)  y = Neg(h) }}""".replace("[]", "")
    )
    x = np.full(shape, 300, np.float16)
    unfit = onnxscope.stats(model, {"x": x}, select="value:y").profile.unfit
    assert [(value.value, value.largest) for value in unfit] == ([("h", 90000.0), ("y", 90000.0)] if x.size else [])


def test_no_session_more_and_every_run_of_them_is_watched(monkeypatch):
    opened = Counter()
    make = Session.__init__

    def opening(session, proto, **options):
        opened[sum("magnitude" in output.name for output in proto.graph.output)] += 1
        make(session, proto, **options)

    monkeypatch.setattr(Session, "__init__", opening)
    onnxscope.stats(network(1000), X, select="value:y")
    assert opened == {8: 2}  # of eight values: the pilot's, and the one that runs every batch


def test_a_kernel_that_is_missing_costs_the_magnitudes_alone(monkeypatch):
    def failing(model, proto, prefix, **options):
        made = append(model, proto, prefix, **options)
        if made.outputs:
            proto.graph.node[-1].op_type = "NoSuchOperator"
        return made

    append = half_range.append_magnitudes
    monkeypatch.setattr(half_range, "append_magnitudes", failing)
    statistics = onnxscope.stats(network(1000), X, select="value:y")
    assert statistics.profile.unfit == ()
    assert statistics[0].overall.count == X.size


def test_profiles_keep_the_larger_magnitude_in_execution_order():
    def unfit(value, position, largest):
        return Unfit(value=value, node=value, layer="", dtype="float16", position=position, largest=largest)

    left, right = (unfit("a", 1, 7e4), unfit("c", 5, 9e4)), (unfit("b", 3, 8e4), unfit("c", 5, None))
    merged = merged_unfit(left, right)
    assert merged == merged_unfit(right, left) == (unfit("a", 1, 7e4), unfit("b", 3, 8e4), unfit("c", 5, None))
    assert "3 values do not fit float16, the first a (reaches 70000)" in unfit_sentence(merged)
    assert "1 value does not fit float16, the first c (is infinite)" in unfit_sentence(merged[2:])


def test_a_model_without_half_precision_is_not_asked_for_types():
    model = load_model(
        onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]> net (float[N, 8] x) => (float[N, 8] y) { h = Neg(x)  y = Relu(h) }""")
    )
    onnxscope.stats(model, X, select="value:y")
    assert model._types is None
    assert TensorProto.FLOAT16 == 10


@pytest.fixture(scope="module")
def late():
    """Samples of which the last alone does not fit where all are multiplied by a thousand and squared."""
    x = np.tile(np.linspace(0.01, 0.02, 8, dtype=np.float32), (40, 1))
    x[-1] *= 1000
    assert [max(expected_magnitudes(part, 1000).values()) >= 65520 for part in (x[:-1], x)] == [False, True]
    return x


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("select", ["value:y", "value:large"])
def test_every_batch_of_statistics_is_watched(late, select, single):
    expected = [name for name, size in expected_magnitudes(late, 1000).items() if size >= 65520]
    for engine in ({}, {"workers": 2}):
        unfit = onnxscope.stats(network(1000), late, select=select, batch_size=4, exact=single, **engine).profile.unfit
        assert [value.value for value in unfit] == expected
    assert onnxscope.stats(network(1000), late[:-1], select=select, batch_size=4).profile.unfit == ()


def test_every_batch_of_a_comparison_and_of_a_check_is_watched(late):
    expected = [name for name, size in expected_magnitudes(late, 1000).items() if size >= 65520]
    compared = onnxscope.diff(network(1000), network(1000), late, batch_size=4)
    assert [[value.value for value in side] for side in compared.unfit] == [expected, expected]
    assert compared.verdict == "undecided"
    assert onnxscope.diff(network(1000), network(1000), late[:-1], batch_size=4).equal
    baseline = onnxscope.snapshot(network(1000), late, batch_size=4)
    assert [value.value for value in baseline.unfit] == expected
    assert not onnxscope.check(network(1000), baseline, late, batch_size=4).ok
    page = onnxscope.report(network(1000), late, batch_size=4)
    assert [value.value for value in page.content.statistics.profile.unfit] == expected


BODIES = {
    "If": """
        y16 = If (c) <then_branch = a () => (float16[N, 8] p) { s = Mul(h, h)  p = Sqrt(s) },
                      else_branch = b () => (float16[N, 8] q) { q = Abs(h) }>""",
    "Loop": """
        y16 = Loop (n, , h) <body = b (int64 i, bool on, float16[N, 8] v) => (bool go, float16[N, 8] p) {
            go = Identity(on)  s = Mul(v, v)  p = Sqrt(s) }>""",
    "Scan": """
        y16 = Scan (h) <num_scan_inputs = 1,
            body = b (float16[8] v) => (float16[8] p) { s = Mul(v, v)  p = Sqrt(s) }>""",
    "nested": """
        y16 = Loop (n, , h) <body = b (int64 i, bool on, float16[N, 8] v) => (bool go, float16[N, 8] w) {
            go = Identity(on)
            w = If (c) <then_branch = a () => (float16[N, 8] p) { s = Mul(v, v)  p = Sqrt(s) },
                        else_branch = e () => (float16[N, 8] q) { q = Abs(v) }> }>""",
}


def with_body(kind, taken=True):
    return onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[N, 8] x) => (float[N, 8] y) <bool c = {{{int(taken)}}}, int64 n = {{3}}> {{
            h = Cast<to = 10>(x)  {BODIES[kind]}  y = Cast<to = 1>(y16) }}""")


@pytest.mark.parametrize("kind", BODIES)
def test_values_inside_bodies_are_watched(kind):
    x = np.full((12, 8), 2, np.float32)
    x[-1, 3] = 300  # whose square is 90000
    for options in ({}, {"batch_size": 4}):
        unfit = onnxscope.stats(with_body(kind), x, select="value:y", **options).profile.unfit
        assert [(value.value, value.largest) for value in unfit] == [("s", 90000)]
        compared = onnxscope.diff(with_body(kind), with_body(kind), x, **options)
        assert [[value.value for value in side] for side in compared.unfit] == [["s"], ["s"]]
        assert not onnxscope.check(with_body(kind), onnxscope.snapshot(with_body(kind), x, **options), x, **options).ok
    fits = x[:-1]
    assert onnxscope.stats(with_body(kind), fits, select="value:y").profile.unfit == ()
    assert onnxscope.diff(with_body(kind), with_body(kind), fits).equal
    if kind in ("If", "nested"):
        assert onnxscope.diff(with_body(kind, taken=False), with_body(kind, taken=False), x).equal


def test_what_only_has_another_shape_or_is_bounded_costs_nothing():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[N, 8] x) => (float[N, 8] y) <int64[2] sides = {8, -1}> {
            h = Cast<to = 10>(x)  s = Mul(h, h)  t = Transpose(s)  r = Reshape(t, sides)  u = Transpose(r)
            g = Sigmoid(u)  k = Add(g, h)  y = Cast<to = 1>(k) }""")
    loaded = load_model(model)
    tapped = onnx.ModelProto()
    tapped.CopyFrom(loaded.proto)
    assert len(half_range.append_magnitudes(loaded, tapped, "own_").outputs) == 3  # h, s and k
    x = np.full((4, 8), 2, np.float32)
    assert onnxscope.stats(model, x, select="value:y").profile.unfit == ()
    x[2, 2] = 300
    unfit = onnxscope.stats(model, x, select="value:y").profile.unfit
    assert [(value.value, value.largest) for value in unfit] == [(name, 90000) for name in "stru"]
