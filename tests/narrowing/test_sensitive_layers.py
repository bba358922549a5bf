"""`sensitivity`, against numpy and onnxruntime on models whose weights were replaced by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import InputError, SelectorError
from onnxscope.narrowing import pass_budget

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = FIXTURES / "digits.onnx"
DATA = np.load(FIXTURES / "digits.npz")["digits"]
FOUR = "int8,int4,bfloat16,fp8"
KEYS = [
    *("name", "layer", "op_type", "as", "of", "output_sqnr_db", "own_sqnr_db", "gain", "measured"),
    *("top1_agreement", "kl_nats"),
]


def deep(count=20, width=8):
    """Residual layers, x + Relu(x w)."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for place in range(count):
        weights.append(numpy_helper.from_array(rng.normal(0, 0.3, (width, width)).astype(np.float32), f"w{place}"))
        nodes += [
            helper.make_node("MatMul", [value, f"w{place}"], [f"m{place}"], name=f"layer{place}"),
            helper.make_node("Relu", [f"m{place}"], [f"r{place}"]),
            helper.make_node("Add", [value, f"r{place}"], [f"a{place}"]),
        ]
        value = f"a{place}"
    sides = [helper.make_tensor_value_info(name, 1, ["N", width]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "deep", sides[:1], sides[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def decibels(clean, changed):
    return 10 * np.log10(np.square(clean).sum() / np.square(changed - clean).sum())


def test_all_layers_in_eight_bits_are_a_model_whose_weights_were_all_replaced():
    found = onnxscope.sensitivity(DIGITS, {"digits": DATA})
    proto = onnx.load(DIGITS)
    (clean,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"digits": DATA})
    for tensor in proto.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.ndim > 1:
            scale = np.abs(weight).max() / 127
            tensor.CopyFrom(numpy_helper.from_array(np.round(weight / scale) * scale, tensor.name))
    (changed,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"digits": DATA})
    (whole,) = found.whole
    assert whole.output.sqnr_db == pytest.approx(decibels(clean.astype(float), changed.astype(float)), abs=0.01)
    assert whole.output.top1 == np.mean(clean.argmax(1) == changed.argmax(1))
    logs = [
        array - np.log(np.exp(array).sum(1, keepdims=True)) for array in (clean.astype(float), changed.astype(float))
    ]
    assert whole.output.kl_nats == pytest.approx((np.exp(logs[0]) * (logs[0] - logs[1])).sum(1).mean(), rel=1e-2)


def test_rows_are_the_worst_first_and_say_what_the_record_promises():
    found = onnxscope.sensitivity(DIGITS, {"digits": DATA}, formats=["int8", "bf16"])
    record = found.to_dict()
    assert [list(row) for row in record["layers"]] == [KEYS] * 8
    losses = [row["output_sqnr_db"] for row in record["layers"]]
    assert losses == sorted(losses)
    assert {row["layer"] for row in record["layers"]} == {"stem.0", "block.0", "down.0", "classifier.2"}
    assert {row["as"] for row in record["layers"]} == {"int8", "bfloat16"}
    last = next(row for row in record["layers"] if row["layer"] == "classifier.2")
    assert last["gain"] == pytest.approx(1)
    assert (last["op_type"], last["of"], last["measured"]) == ("Gemm", "weights", True)
    assert len(found.to_frame()) == 8


def test_activations_are_narrowed_where_they_leave_the_layer_and_ranges_are_from_other_samples():
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(6, 6)).astype(np.float32) for _ in range(2))
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 6] x) => (float[N, 6] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }""")
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for array, name in ((first, "w"), (second, "v"))
    )
    x = rng.normal(size=(200, 6)).astype(np.float32)
    found = onnxscope.sensitivity(model, x, of="activations")

    def narrowed(values, calibrating):
        low, high = min(calibrating.min(), 0), max(calibrating.max(), 0)
        scale = (high - low) / 255
        zero = np.round(-low / scale)
        return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale

    hidden = np.maximum(x.astype(float) @ first, 0)
    clean = hidden @ second
    one = narrowed(hidden[1::2], hidden[::2]) @ second
    rows = {row.name: row for row in found}
    assert rows["h"].output.sqnr_db == pytest.approx(decibels(clean[1::2], one), abs=0.05)
    assert rows["y"].output.sqnr_db == pytest.approx(decibels(clean[1::2], narrowed(clean[1::2], clean[::2])), abs=0.05)
    both = narrowed(one, clean[::2])
    assert found.whole[0].output.sqnr_db == pytest.approx(decibels(clean[1::2], both), abs=0.05)
    assert found.to_dict()["samples"] == {"ranges": 100, "errors": 100, "rows": 100, "gains": 100}
    assert found.ranges["r"].high == pytest.approx(hidden[::2].max(), rel=1e-5)


def test_ranges_that_clip_other_samples_are_said():
    x = DATA.copy()
    x[1::2] *= 3
    found = onnxscope.sensitivity(DIGITS, {"digits": x}, of="activations")
    assert any(note.startswith("int8: ranges of some samples clip others at ") for note in found.notes)
    assert found.to_dict()["whole"][0]["must_run"] == 4
    assert "run, clips" in found.table().text()


def test_many_layers_are_run_on_as_many_samples_as_the_passes_allow(monkeypatch):
    model, x = deep(), np.random.default_rng(2).normal(size=(48, 8)).astype(np.float32)
    every = onnxscope.sensitivity(model, x, formats=FOUR, batch_size=48)
    assert every.samples.rows == 48
    monkeypatch.setattr(pass_budget, "_SMALL_WORK", 0)
    few = onnxscope.sensitivity(model, x, formats=FOUR, batch_size=48)
    assert few.passes <= 0.6 * 20 < every.passes
    assert 1 <= few.samples.rows < 12
    assert len(few) == 4 * 20
    assert all(row.measured for row in few)
    assert f"each layer was run on {few.samples.rows} of 48 samples" in few.notes
    ranks = []
    for found in (every, few):
        order = [row.name for row in found if row.form == "int8"]
        ranks.append([order.index(f"m{place}") for place in range(20)])
    assert np.corrcoef(ranks)[0, 1] > 0.7


def test_of_few_samples_the_worst_rows_and_those_that_must_be_are_run(monkeypatch):
    monkeypatch.setattr(pass_budget, "_SMALL_WORK", 0)
    x = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    found = onnxscope.sensitivity(deep(), x, formats=FOUR)
    run = [row for row in found if row.measured]
    assert 20 <= len(run) < len(found) == 80
    assert all(row.measured for row in found if row.form == "int4")
    assert f"{len(run)} of 80 rows were run, on 4 samples; the others are predicted by the layers' gains" in found.notes
    for row in found:
        if not row.measured:
            assert row.output.noise_power == pytest.approx(row.gain * row.own.noise_power, rel=1e-6)
    assert "predicted" in found.table().text()


def test_what_overflows_in_half_precision_is_first_and_said():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] v = {1e-6, 0.3, 0.2, 0.1}, float[2, 2] w = {1e6, 0.1, 0, 1}> {
            h = MatMul(x, v)  y = MatMul(h, w) }""")
    found = onnxscope.sensitivity(model, np.ones((4, 2), np.float32), formats="float16")
    assert found[0].name == "y"
    assert found.to_dict()["broken"] == [{"name": "y", "as": "float16", "count": 4}]
    assert found.to_dict()["layers"][0]["output_sqnr_db"] is None
    assert f"outputs are not finite any more with {found[0].layer} as float16" in found.notes
    assert "not finite" in found.table().text()


def test_normalization_that_a_quantizer_would_fold_is_said():
    (note,) = onnxscope.sensitivity(DIGITS, {"digits": DATA}).notes
    assert note.startswith("2 layers have a BatchNormalization apart, which quantizers fold into the weights first")
    folded = onnxscope.sensitivity(FIXTURES / "digits_deployed.onnx", {"digits": DATA})
    assert not any("BatchNormalization" in each for each in folded.notes)


def test_what_cannot_be_done_is_said():
    for options, message in (
        ({"formats": "int9"}, "no format is called 'int9'"),
        ({"of": "biases"}, "unknown of: 'biases'"),
        ({"ranges": "guess"}, "unknown ranges: 'guess'"),
        ({"scheme": "row"}, "unknown scheme 'row'"),
    ):
        with pytest.raises(InputError, match=message):
            onnxscope.sensitivity(DIGITS, {"digits": DATA}, **options)
    with pytest.raises(SelectorError):
        onnxscope.sensitivity(DIGITS, {"digits": DATA}, select="stem.7")
    without = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }""")
    with pytest.raises(InputError, match="no layer multiplies by a stored matrix"):
        onnxscope.sensitivity(without, "random")


def test_the_command_prints_what_the_library_finds(capsys):
    arguments = ["sensitivity", str(DIGITS), "-i", str(FIXTURES / "digits.npz"), "--as", "int8", "--as", "fp16"]
    assert run([*arguments, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == onnxscope.sensitivity(DIGITS, str(FIXTURES / "digits.npz"), formats=["int8", "float16"]).to_dict()
    assert run([*arguments, "--select", "stem.0", "--select", "down.0"]) == 0
    out = capsys.readouterr().out
    assert "weights of all 2 layers narrowed" in out
    assert max(map(len, out.splitlines())) <= 80
