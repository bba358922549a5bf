"""A BatchNorm that is folded with another epsilon, or not whole, is told from the weights alone, and folded again."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.explaining.folded_norms import epsilon_of

RNG = np.random.default_rng(8)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
W = RNG.standard_normal((5, 4, 3, 3))
V = RNG.standard_normal((3, 5, 1, 1)).astype(np.float32)
BIAS, GAMMA, BETA, MEAN = (RNG.standard_normal(5) + shift for shift in (0, 2, 0, 0.5))
VARIANCE = RNG.uniform(1e-3, 0.5, 5)
EPSILON = 1e-3


def network(nodes, **stored):
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 17]>
        net (float[N, 4, 6, 6] x) => (float[N, 3, 6, 6] y) {{ {nodes} r = Relu(b) y = Conv(r, v) }}""")
    for name, values in (stored | {"v": V}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    return model


def plain(epsilon=EPSILON):
    nodes = f"""a = Conv <pads = [1, 1, 1, 1]> (x, w, c)
        b = BatchNormalization <epsilon = {epsilon}> (a, gamma, beta, mean, variance)"""
    return network(nodes, w=W, c=BIAS, gamma=GAMMA, beta=BETA, mean=MEAN, variance=VARIANCE)


def folded(epsilon=EPSILON, mean=MEAN, bias=BIAS, w=W):
    scale = GAMMA / np.sqrt(np.float32(VARIANCE).astype(float) + epsilon)
    return network(
        "b = Conv <pads = [1, 1, 1, 1]> (x, w, c)",
        w=w.astype(np.float32) * scale.reshape(-1, 1, 1, 1),
        c=(bias - mean) * scale + BETA,
    )


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (plain(), folded(0), "folded into its weights without its `epsilon`; with 0.001 it is equal"),
        (plain(), folded(1e-5), "folded into its weights with `epsilon` 1e-05; with 0.001 it is equal"),
        (plain(), folded(0.0123), "folded into its weights with `epsilon` 0.0123; with 0.001 it is equal"),
        (plain(), folded(mean=0 * MEAN), "folded into its weights without its mean; with all of it it is equal"),
        (plain(), folded(0, bias=0 * BIAS), "without its `epsilon` and without the layer's own bias; with 0.001"),
        (folded(), plain(0.0123), "B's BatchNormalization has `epsilon` 0.0123; with 0.001 it is equal"),
        (folded(0.0456), plain(), "B's BatchNormalization has `epsilon` 0.001; with 0.0456 it is equal"),
    ],
    ids=["none", "usual", "odd", "mean", "two", "kept", "kept odd"],
)
def test_a_fold_that_is_not_the_first_model_s_is_named(a, b, said, tmp_path):
    result = onnxscope.explain(a, b, X, mend=tmp_path / "mended.onnx")
    (explanation,) = result.explanations
    assert said in explanation.text
    assert result.mended.equal
    first, mended = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})[0]
        for model in (a, onnx.load(tmp_path / "mended.onnx"))
    )
    np.testing.assert_allclose(mended, first, rtol=1e-4, atol=1e-4)


def test_the_right_fold_is_no_fault():
    assert onnxscope.explain(plain(), folded(), X).explanations == ()


@pytest.mark.parametrize(
    "b",
    [
        folded(0, w=W * (1 + 1e-3 * RNG.standard_normal(W.shape))),
        folded(0, mean=MEAN + 0.01 * RNG.standard_normal(5)),
        folded(EPSILON * RNG.uniform(0.5, 2, 5)),
    ],
    ids=["weight", "mean", "an epsilon for each"],
)
def test_another_weight_or_bias_is_explained_by_nothing(b):
    result = onnxscope.explain(plain(), b, X)
    assert [each.is_explained for each in result.explanations] == [False]


def test_an_epsilon_follows_from_the_weights():
    rng = np.random.default_rng(0)
    weight, gamma, variance = rng.standard_normal((6, 12)), rng.uniform(0.5, 2, 6), rng.uniform(1e-3, 1, 6)
    for epsilon in (0.0, 1e-5, 0.00314):
        scaled = weight * (gamma / np.sqrt(variance + epsilon))[:, None]
        assert epsilon_of(weight, scaled, gamma, variance, [1e-5, 0.0]) == pytest.approx(epsilon, rel=1e-3)
    assert epsilon_of(weight, scaled + 1e-3, gamma, variance, []) is None
    assert epsilon_of(weight, 0 * scaled, gamma, variance, []) is None
