"""What another operator set means by the same, or by nothing said, is known; and training, and what codes stand for."""

from __future__ import annotations

import explained_pairs
import numpy as np
import pytest
from explained_pairs import mended

import onnxscope
from onnxscope.explaining.choices import as_called, choices_of

RNG = np.random.default_rng(11)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
STORED = {
    "w": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
    "v": RNG.standard_normal((4, 4, 1, 1)).astype(np.float32),
    "s": RNG.uniform(0.5, 2, 4).astype(np.float32),
    "t": RNG.uniform(0.5, 2, 4).astype(np.float32),
    "q": RNG.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "grid": RNG.uniform(-1, 1, (2, 5, 5, 2)).astype(np.float32),
}


def network(body, opset, **other):
    head = f"""<ir_version: 8, opset_import: ["": {opset}]> net (float[N, 4, 6, 6] x) => (float[N, 4, H, K] y)"""
    text = f"{head} {{ a = Conv <pads = [1, 1, 1, 1]> (x, w) {body} y = Conv(b, v) }}"
    return explained_pairs.network(text, STORED | other)


GRID = 'b = GridSample <mode = "{}", align_corners = {}> (a, grid)'
PAIRS = {
    "resize": (
        ('b = Resize <mode = "linear"> (a, scales)', 10),
        ('b = Resize <mode = "linear"> (a, , scales)', 13),
        "with `asymmetric`",
    ),
    "grid": ((GRID.format("bilinear", 0), 16), (GRID.format("linear", 1), 20), "`align_corners` 1; with 0"),
    "grid mode": ((GRID.format("cubic", 0), 20), (GRID.format("bilinear", 0), 16), "with `bicubic`"),
    "training": (
        ("b = BatchNormalization(a, s, s, s, t)", 15),
        ("b, m, n = BatchNormalization <training_mode = 1> (a, s, s, s, t)", 15),
        "`training_mode` 1; with 0",
    ),
    "mean and variance": (
        ("b = BatchNormalization(a, s, s, s, t)", 15),
        ("b = BatchNormalization(a, s, s, t, s)", 15),
        "with them in the order [1, 2, 3, 5, 4]",
    ),
}
CODES = "k = DequantizeLinear(q, scale, zero) b = Conv <pads = [1, 1, 1, 1]> (a, k)"


@pytest.mark.parametrize("name", PAIRS)
def test_another_operator_set_s_meaning_is_named(name, tmp_path):
    first, second, said = PAIRS[name]
    (text,) = mended(network(*first), network(*second), X, tmp_path / "mended.onnx")
    assert said in text


@pytest.mark.parametrize(("what", "found"), [("scale", np.float32(0.03)), ("zero", np.int8(3))])
def test_what_codes_of_a_weight_stand_for_is_named(what, found, tmp_path):
    right = {"scale": np.array(0.02, np.float32), "zero": np.array(0, np.int8)}
    a, b = network(CODES, 13, **right), network(CODES, 13, **right | {what: np.array(found)})
    (text,) = mended(a, b, X, tmp_path / "mended.onnx")
    name = {"scale": "x_scale", "zero": "x_zero_point"}[what]
    assert text.startswith(f"B's DequantizeLinear has `{name}` {found:.2g}; with {right[what]:.2g} it is equal")


def test_other_codes_are_explained_by_nothing():
    right = {"scale": np.array(0.02, np.float32), "zero": np.array(0, np.int8)}
    noisy = np.clip(STORED["q"] + RNG.integers(-9, 10, STORED["q"].shape), -127, 127).astype(np.int8)
    result = onnxscope.explain(network(CODES, 13, **right), network(CODES, 13, **right, q=noisy), X)
    assert [each.is_explained for each in result.explanations] == [False]


def test_words_are_those_of_the_operator_set():
    assert as_called("GridSample", "linear", 16) == "bilinear"
    assert as_called("GridSample", "bicubic", 20) == as_called("GridSample", "bicubic") == "cubic"
    assert as_called("Resize", "linear", 11) == "linear"
    assert "asymmetric" in choices_of("Resize", "coordinate_transformation_mode")
    assert choices_of("Relu", "alpha") == ()
