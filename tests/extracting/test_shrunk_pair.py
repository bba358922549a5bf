"""Two models that differ become small together, and still differ: judged by plain onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from shrink_cases import HEADER

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.cli.main import run
from onnxscope.errors import InputError
from onnxscope.extracting.guilty_parts import extract_guilty
from onnxscope.extracting.shrunk_pair import shrink_pair

RNG = np.random.default_rng(11)
FIRST, SECOND = (RNG.standard_normal(shape).astype(np.float32) for shape in ((5, 4), (3, 5)))
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
POOL = (
    HEADER
    + """(float[N, 4, 6, 6] x) => (float[N, 4, A, B] y) {
    [r] a = Relu(x)
    [pool] b = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = KK> (a)
    [t] y = Tanh(b)
}"""
)
CHANNELS_FIRST = (
    HEADER
    + """(float[N, 4, 6, 6] x) => (float[N, 3, 6, 6] y) {
    [first] a = Conv(x, w)  [first_relu] r = Relu(a)
    [second] y = Conv(r, v)
}"""
)
CHANNELS_LAST = (
    HEADER
    + """(float[N, 4, 6, 6] x) => (float[N, 3, 6, 6] y) {
    t = Transpose <perm = [0, 2, 3, 1]> (x)
    [first] a = MatMul(t, w)  [first_relu] r = Relu(a)
    [second] b = MatMul(r, v)
    y = Transpose <perm = [0, 3, 1, 2]> (b)
}"""
)


def network(text, **weights):
    model = onnx.parser.parse_model(text)
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return model


def answers(part):
    content = part.model.proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: value.value for value in part.inputs})


def shrunk(a, b):
    models = onnxscope.load_model(a), onnxscope.load_model(b)
    parts = extract_guilty(onnxscope.diff(*models, {"x": X}), *models, {"x": X}, RunOptions(), shrink=True)
    for part in parts:
        onnx.checker.check_model(part.model.proto, full_check=True)
    (one,), (other,) = map(answers, parts)
    (expected,) = parts[0].outputs
    np.testing.assert_array_equal(one, expected.value)
    assert np.abs(one - other).max() > 4e-4 * np.abs(one).max()
    assert parts[1].outputs[0].max_abs == pytest.approx(np.abs(one - other).max())
    assert [part.reproduces for part in parts] == [True, False]
    return parts


def test_an_attribute_is_left_of_three_nodes():
    one, other = shrunk(*(onnx.parser.parse_model(POOL.replace("KK", number)) for number in "01"))
    for part, number in ((one, 0), (other, 1)):
        (node,) = part.model.proto.graph.node
        assert node.op_type == "AveragePool"
        said = {attribute.name: attribute.i for attribute in node.attribute}
        assert said.get("count_include_pad", 0) == number
        assert (part.shrunk.original_weights, part.shrunk.original_inputs) == (0, 0)
    np.testing.assert_array_equal(one.inputs[0].value, other.inputs[0].value)
    assert not np.isin(one.inputs[0].value, X).any()


def test_a_weight_is_shortened_and_said_to_be_the_model_s_own():
    """The second model has other axes: it is fed and read through Transposes."""
    second = SECOND.copy()
    second[1, 2] += 0.1
    a = network(CHANNELS_FIRST, w=FIRST[:, :, None, None], v=SECOND[:, :, None, None])
    one, other = shrunk(a, network(CHANNELS_LAST, w=FIRST.T, v=second.T))
    assert [node.op_type for node in one.model.proto.graph.node] == ["Conv"]
    assert [node.op_type for node in other.model.proto.graph.node] == ["Transpose", "MatMul", "Transpose"]
    held = [numpy_helper.to_array(part.model.proto.graph.initializer[0]).item() for part in (one, other)]
    assert held == [SECOND[1, 2], second[1, 2]]
    assert "not replaced: 2 numbers of the weights; they are what differs" in one.notes


def test_two_models_that_give_the_same_are_not_made_smaller():
    model = network(CHANNELS_FIRST, w=FIRST[:, :, None, None], v=SECOND[:, :, None, None])
    part = onnxscope.extract(model, {"x": X}, select="second")
    with pytest.raises(InputError, match="and both models give the same numbers"):
        shrink_pair(part, part)


def test_the_command_makes_both_smaller(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    for name, number in (("a.onnx", "0"), ("b.onnx", "1")):
        onnx.save(onnx.parser.parse_model(POOL.replace("KK", number)), name)
    assert run(["diff", "a.onnx", "b.onnx", "-i", "x.npy", "--extract", "parts", "--shrink"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert any(
        line.startswith("b: one model gives other numbers than the other, fed the same; 3 nodes") for line in err
    )
    assert all(Path("parts", side, "model.onnxtxt").is_file() for side in "ab")
    assert run(["diff", "a.onnx", "b.onnx", "-i", "x.npy", "--shrink"]) == 2
    assert "--shrink needs a place for the two parts: --extract" in capsys.readouterr().err
