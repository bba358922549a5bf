"""What a weight is of another one is said in words, number by number; what it is not is not said."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxscope.explaining.weight_edits import relation, weight_edits
from onnxscope.model.loading import load_model

RNG = np.random.default_rng(1)
W = RNG.standard_normal((4, 4, 3, 3)).astype(np.float32)


def truncated(values, lost):
    return (values.view(np.uint32) >> lost << lost).view(np.float32)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (W.swapaxes(0, 1), "transposed, its axes in the order [1, 0, 2, 3]"),
        (W[:, :, ::-1], "reversed along axis 2"),
        (W[:, :, ::-1, ::-1], "turned round: correlation and convolution are mistaken for each other"),
        (W[[2, 0, 3, 1]], "in another order along axis 0"),
        (W[:, [1, 0, 2, 3]], "in another order along axis 1"),
        (-W, "negated"),
        (W.astype(np.float16).astype(np.float32), "rounded to float16"),
        (truncated(W, 16), "rounded to bfloat16"),
        (truncated(W, 13), "rounded to tf32"),
        (W * np.float32(0.25), "multiplied by 0.25"),
        (W, "transposed, its axes in the order [1, 0, 2, 3]"),
    ],
)
def test_a_relation_is_said_in_words(other, said):
    mirrored = W + W.swapaxes(0, 1) if other is W else None
    if mirrored is not None:  # a symmetric weight is its own transpose, which is no difference and never asked for
        assert relation(mirrored, mirrored.swapaxes(0, 1)) == said
        return
    assert relation(W, np.ascontiguousarray(other)) == said


@pytest.mark.parametrize(
    "other",
    [
        W + np.float32(1e-3) * RNG.standard_normal(W.shape).astype(np.float32),
        W * RNG.uniform(0.9, 1.1, (4, 1, 1, 1)).astype(np.float32),
        np.round(W * 16) / 16,
        RNG.permutation(W.reshape(-1)).reshape(W.shape),
        W.astype(np.float64),
        W[:2],
        np.where(RNG.random(W.shape) < 0.9, W, 0).astype(np.float32),
    ],
    ids=["noise", "by channel", "few steps", "shuffled", "another type", "another shape", "pruned"],
)
def test_what_is_another_weight_has_no_relation(other):
    assert relation(W, other) is None


def test_so_few_numbers_that_they_are_in_another_order_by_chance_have_none():
    assert relation(np.arange(4, dtype=np.float32), np.arange(4, dtype=np.float32)[::-1]) is None
    assert relation(np.ones(9, np.float32), np.full(9, 2, np.float32)) is None


def model_of(weight, bias=None):
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 18]>
        net (float[N, 4, 6, 6] x) => (float[N, 4, 4, 4] y) {{ y = Conv (x, w{"" if bias is None else ", b"}) }}""")
    for name, values in (("w", weight), ("b", bias)):
        if values is not None:
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return load_model(model)


BIAS = RNG.standard_normal(4).astype(np.float32)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ((W, BIAS), (W,), "has no `B`"),
        ((W,), (W, BIAS), "has a `B` that A's has not"),
        ((W, BIAS), (W.swapaxes(2, 3),), "has its `W` transposed, its axes in the order [0, 1, 3, 2] and has no `B`"),
    ],
)
def test_a_bias_that_is_missing_or_too_much_is_said(a, b, said):
    models = model_of(*a), model_of(*b)
    ((edit,),) = weight_edits(models, *(model.main.nodes[0] for model in models))
    assert edit.says == said


def test_a_bias_beside_another_weight_gives_no_edit():
    models = model_of(W, BIAS), model_of(W + 0.1 * W**2)
    assert list(weight_edits(models, *(model.main.nodes[0] for model in models))) == []
