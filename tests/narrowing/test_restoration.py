"""What a quantized model gains with one layer back in float, against numpy on two matrices rounded by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import quantized_copies
from onnx import numpy_helper

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import InputError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
HEAD = '<ir_version: 9, opset_import: ["": 17]>'
FLOAT = f"""{HEAD} g (float[N, 6] x) => (float[N, 4] y) {{
    [first] h = MatMul(x, w)  [bend] r = Relu(h)  [second] y = MatMul(r, v) }}"""
QUANTIZED = f"""{HEAD} g (float[N, 6] x) => (float[N, 4] y) {{
    xq = QuantizeLinear(x, xs, xz)  xd = DequantizeLinear(xq, xs, xz)  wd = DequantizeLinear(wq, ws, z)
    [first] h = MatMul(xd, wd)  RELU
    hq = QuantizeLinear(r, rs, rz)  rd = DequantizeLinear(hq, rs, rz)  vd = DequantizeLinear(vq, vs, z)
    [second] y = MatMul(rd, vd) }}"""


def made(text, **tensors):
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items())
    return model


def rounded(weight):
    scale = np.float32(np.abs(weight).max() / 127)
    return np.round(weight / scale).astype(np.int8), scale


@pytest.mark.parametrize("relu", ["[bend] r = Relu(h)", "r = Identity(h)"])
def test_a_layer_goes_on_as_in_float_and_the_others_stay_as_they_are(relu):
    """Quantizers drop a Relu where the least code stands for 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype(np.float32)
    w, v = rng.normal(size=(6, 6)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    (wq, ws), (vq, vs) = rounded(w), rounded(v)
    hidden = np.maximum(x @ w, 0)
    xs, rs = np.float32(np.ptp(x) / 255), np.float32(hidden.max() * 1.1 / 255)
    xz = np.uint8(np.round(-x.min() / xs))
    scales = {"xs": xs, "xz": xz, "ws": ws, "wq": wq, "rs": rs, "rz": np.uint8(0), "vs": vs, "vq": vq, "z": np.int8(0)}
    quantized = made(QUANTIZED.replace("RELU", relu), **scales)
    found = onnxscope.restoration(made(FLOAT, w=w, v=v), quantized, x)

    def cut(values, scale, zero):
        return (np.clip(np.round(values / scale) + zero, 0, 255) - zero) * float(scale)

    w8, v8 = wq * float(ws), vq * float(vs)
    clean = hidden.astype(float) @ v
    inner = np.maximum(cut(x, xs, int(xz)) @ w8, 0)
    expected = {
        "": cut(inner, rs, 0) @ v8,
        "first": hidden @ v8,
        "second": inner.clip(0, 255 * float(rs)) @ v,
    }
    ratios = {
        name: 10 * np.log10(np.square(clean).sum() / np.square(changed - clean).sum())
        for name, changed in expected.items()
    }
    rows = {row.layer: row for row in found}
    assert found.output.sqnr_db == pytest.approx(ratios[""], abs=0.05)
    for name in ("first", "second"):
        assert rows[name].output.sqnr_db == pytest.approx(ratios[name], abs=0.05)
        assert rows[name].gained_db == pytest.approx(ratios[name] - ratios[""], abs=0.1)
    assert found[0].gained_db == max(row.gained_db for row in found)


def test_the_command_ranks_the_layers_of_a_quantized_model(capsys, monkeypatch):
    monkeypatch.chdir(FIXTURES)
    arguments = ["sensitivity", "digits.onnx", "digits_qdq.onnx", "-i", "digits.npz"]
    assert run([*arguments, "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {row["layer"] for row in record["restored"]} == {"stem.0", "block.0", "down.0", "classifier.2"}
    gains = [row["gained_db"] for row in record["restored"]]
    assert gains == sorted(gains, reverse=True)
    assert record["quantized"]["model"]["name"] == "digits_qdq.onnx"
    assert run(arguments) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert run([*arguments, "--as", "int4"]) == 2
    assert "--as is for one model: with QUANTIZED nothing is simulated" in capsys.readouterr().err


def test_a_model_that_is_no_narrower_copy_is_told_and_nothing_is_ranked(tmp_path, monkeypatch, capsys):
    """Scaled forth by 3 and back behind the Relu, it is the same function, but for float32's rounding of 2**-24."""
    rng = np.random.default_rng(0)
    x, w, v = (rng.normal(size=size).astype(np.float32) for size in ((40, 6), (6, 6), (6, 4)))
    plain, other = made(FLOAT, w=w, v=v), made(FLOAT, w=w * np.float32(3), v=v / np.float32(3))
    assert [row.output.sqnr_db for row in onnxscope.restoration(plain, plain, x)] == []
    found = onnxscope.restoration(plain, other, x)
    clean, again = (np.maximum(x @ a, 0) @ b for a, b in ((w, v), (w * np.float32(3), v / np.float32(3))))
    error = np.square(clean.astype(float) - again).sum()
    assert found.output.sqnr_db == pytest.approx(10 * np.log10(np.square(clean, dtype=float).sum() / error), abs=3)
    assert len(found) == 0
    assert " is no narrower copy of " in found.notes[-1]
    assert len(onnxscope.restoration(plain, made(FLOAT, w=w, v=v * np.float32(1.0001)), x)) == 2  # 80 dB
    for name, model in (("a", plain), ("b", other)):
        onnx.save(model, tmp_path / f"{name}.onnx")
    np.save(tmp_path / "x.npy", x)
    monkeypatch.chdir(tmp_path)
    assert run(["sensitivity", "a.onnx", "b.onnx", "-i", "x.npy"]) == 0
    told = capsys.readouterr().err
    assert "b.onnx is no narrower copy of a.onnx: 1" in told
    assert "dB, and from 120 on nothing but rounding is left; no layer is ranked" in told


def test_a_float32_copy_of_a_float64_model_is_narrower():
    rng = np.random.default_rng(0)
    x, w, v = (rng.normal(size=size) for size in ((40, 6), (6, 6), (6, 4)))
    double = made(FLOAT.replace("float[", "double["), w=w, v=v)
    narrow = "c = Cast <to = 1>(x)  g = MatMul(c, w)  h = Cast <to = 11>(g)"
    single = FLOAT.replace("float[", "double[").replace("h = MatMul(x, w)", narrow)
    rows = onnxscope.restoration(double, made(single, w=w.astype(np.float32), v=v), x)
    assert rows.output.sqnr_db > 120
    assert len(rows) > 0


def test_a_model_without_any_of_the_layers_is_an_error():
    other = made(f"{HEAD} g (float[N, 6] x) => (float[N, 4] y) {{ y = Slice(x, s, e, a) }}", s=[0], e=[4], a=[1])
    rng = np.random.default_rng(0)
    model = made(FLOAT, w=rng.normal(size=(6, 6)).astype(np.float32), v=rng.normal(size=(6, 4)).astype(np.float32))
    with pytest.raises(InputError, match="no layer of the quantized model can be put back into float"):
        onnxscope.restoration(model, other, np.ones((2, 6), np.float32))


def test_dynamic_codes_are_put_back_and_codes_of_another_operator_are_said(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(32, 6)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        onnx.helper.make_node("MatMul", ["h", "v"], ["y"], name="second"),
    ]
    weights = {"w": rng.normal(size=(6, 8)).astype(np.float32), "v": rng.normal(size=(8, 4)).astype(np.float32)}
    proto = quantized_copies.model(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, weights)
    dynamic, codes = (
        quantized_copies.quantized(proto, x, tmp_path, form, per_channel=False) for form in ("dynamic", "QOperator")
    )
    found = onnxscope.restoration(*dynamic, x)
    assert {row.layer for row in found} == {"first", "second"}
    assert found[0].gained_db > 0
    with pytest.raises(InputError, match="no layer of the quantized model can be put back into float") as caught:
        onnxscope.restoration(*codes, x)
    assert caught.value.hint
