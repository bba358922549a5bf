"""Why a layer differs: a planted attribute is named with the right value, a random change of a weight is not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.cli.main import run

RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
W = RNG.standard_normal((4, 4, 3, 3)).astype(np.float32)
V = RNG.standard_normal((4, 4, 1, 1)).astype(np.float32)
SCALE = (np.abs(RNG.standard_normal(4)) + 0.5).astype(np.float32)


def network(body, w=W, opset=20):
    text = f"""<ir_version: 9, opset_import: ["": {opset}]>
    net (float[N, 4, 6, 6] x) => (float[N, C, H, K] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w) {body} y = Conv(b, v) }}"""
    model = onnx.parser.parse_model(text)
    for name, values in (("w", w), ("v", V), ("s", SCALE)):
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return model


PLANTS = [
    ("b = LeakyRelu <alpha = {}> (a)", "0.2", "0.01", "alpha", 0.2),
    ("b = Elu <alpha = {}> (a)", "1.5", "1.0", "alpha", 1.5),
    ("b = Softmax <axis = {}> (a)", "1", "3", "axis", 1),
    ("b = Gelu <approximate = {}> (a)", '"none"', '"tanh"', "approximate", "none"),
    ("b = HardSigmoid <alpha = {}> (a)", "0.1666667", "0.2", "alpha", 0.1666667),
    ("b = LRN <size = 3, beta = {}> (a)", "0.5", "0.75", "beta", 0.5),
    ("b = BatchNormalization <epsilon = {}> (a, s, s, s, s)", "0.1", "0.001", "epsilon", 0.1),
    ("b = InstanceNormalization <epsilon = {}> (a, s, s)", "0.1", "0.001", "epsilon", 0.1),
    (
        "b = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = {}> (a)",
        "1",
        "0",
        "count_include_pad",
        1,
    ),
    ("n = Constant <value = int64 {{3}}> () b = CumSum <reverse = {}> (a, n)", "1", "0", "reverse", 1),
    (
        'b = DepthToSpace <blocksize = 1, mode = "DCR"> (a) c = Transpose <perm = {}> (b) d = Relu(c)',
        "[0, 1, 3, 2]",
        "[0, 1, 2, 3]",
        "perm",
        [0, 1, 3, 2],
    ),
    ("l = Constant <value = float {{{}}}> () b = Clip(a, l)", "-0.5", "0.0", "min", -0.5),
]


@pytest.mark.parametrize(
    ("body", "right", "wrong", "what", "value"), PLANTS, ids=[f"{p[3]}-{i}" for i, p in enumerate(PLANTS)]
)
def test_a_planted_parameter_is_named_with_the_first_model_s_value(body, right, wrong, what, value, tmp_path):
    if what == "perm":
        body = "c = Transpose <perm = {}> (a) b = Relu(c)"
    a, b = network(body.format(right)), network(body.format(wrong))
    result = onnxscope.explain(a, b, {"x": X}, mend=tmp_path / "mended.onnx")
    (explanation,) = result.explanations
    (edit,) = explanation.edits
    assert (edit.what, edit.wanted) == (what, pytest.approx(value) if isinstance(value, float) else value)
    assert result.mended.equal
    first, mended = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})[0]
        for model in (a, onnx.load(tmp_path / "mended.onnx"))
    )
    np.testing.assert_allclose(mended, first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_change_of_a_weight_is_explained_by_nothing(seed):
    rng = np.random.default_rng(seed)
    body = PLANTS[seed][0].format(PLANTS[seed][1])
    changed = W + (rng.standard_normal(W.shape) * 10.0 ** -(1 + seed % 4)).astype(np.float32)
    result = onnxscope.explain(network(body), network(body, changed), {"x": X})
    assert [each.text for each in result.explanations] == ["nothing in the table explains it"]
    assert not result.edits


def test_a_transposed_kernel_is_named():
    result = onnxscope.explain(network("b = Relu(a)"), network("b = Relu(a)", W.swapaxes(2, 3)), {"x": X})
    assert result.explanations[0].text == (
        "B's Conv has its `W` transposed, its axes in the order [0, 1, 3, 2]; with A's it is equal"
    )


def test_the_command_says_why_and_shows_the_mended_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(network("b = LeakyRelu <alpha = 0.2> (a)"), "a.onnx")
    onnx.save(network("b = LeakyRelu(a)"), "b.onnx")
    np.save("x.npy", X)
    assert run(["diff", "a.onnx", "b.onnx", "-i", "x.npy", "--mend", "out.onnx"]) == 1
    out = capsys.readouterr().out
    assert "B's LeakyRelu has `alpha` 0.01; with 0.2 it is equal" in out
    assert out.splitlines()[-1].startswith("out.onnx: equal")
    assert run(["diff", "a.onnx", "b.onnx", "-i", "x.npy", "--mend", "b.onnx"]) == 2
    assert "the output would replace an input" in capsys.readouterr().err
    assert run(["diff", "a.onnx", "b.onnx", "--explain"]) == 2
    assert "--explain and --mend need what the models are fed" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "expected"), [("2", 3), ("K", "K")])
def test_a_mended_copy_declares_the_sizes_that_its_outputs_have(size, expected, tmp_path):
    pool = "MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = {}>"
    paths = {}
    for name, ceil_mode, declared in (("a", 1, "K"), ("b", 0, size)):
        model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 20]>
            net (float[N, 4, 6, 6] x) => (float[N, 4, {declared}, {declared}] y) {{
                a = Conv <pads = [1, 1, 1, 1]> (x, w) y = {pool.format(ceil_mode)} (a) }}""")
        model.graph.initializer.append(numpy_helper.from_array(W, "w"))
        paths[name] = tmp_path / f"{name}.onnx"
        onnx.save(model, paths[name])
    onnxscope.explain(paths["a"], paths["b"], X, mend=tmp_path / "mended.onnx")
    mended = onnx.load(tmp_path / "mended.onnx")
    onnx.checker.check_model(mended, full_check=True)
    dims = mended.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 4, *([expected] * 2)]
