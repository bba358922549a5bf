"""A layer computed in fewer bits, and values laid out in another order, are named and mended."""

from __future__ import annotations

import explained_pairs
import numpy as np
import pytest
from explained_pairs import mended

import onnxscope

RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
W = RNG.standard_normal((4, 4, 3, 3)).astype(np.float32)
STORED = {
    "w": W,
    "half": W.astype(np.float16),
    "other": (W + 0.01 * RNG.standard_normal(W.shape)).astype(np.float16),
    "v": RNG.standard_normal((4, 4, 1, 1)).astype(np.float32),
    "m": RNG.standard_normal((144, 5)).astype(np.float32),
    "row": np.array([0, -1]),
    "start": np.array([3]),
    "end": np.array([9]),
    "axis": np.array([2]),
}


def network(body, result="float[N, 4, 6, 6] y"):
    head = f"""<ir_version: 9, opset_import: ["": 17]> net (float[N, 4, 6, 6] x) => ({result})"""
    text = f"{head} {{ {body.replace('PADS', 'pads = [1, 1, 1, 1]')} }}"
    return explained_pairs.network(text, STORED)


WIDE = "a = Conv <PADS> (x, w) b = Relu(a) y = Conv(b, v)"
IN_HALF = "h = Cast <to = 10> (x) c = Conv <PADS> (h, WEIGHT) a = Cast <to = 1> (c) b = Relu(a) y = Conv(b, v)"
THROUGH = "a = Conv <PADS> (x, w) h = Cast <to = TYPE> (a) g = Cast <to = 1> (h) b = Relu(g) y = Conv(b, v)"


@pytest.mark.parametrize(
    ("b", "said"),
    [
        (IN_HALF.replace("WEIGHT", "half"), "B's Conv is computed in float16 with weights of that type; without that"),
        (THROUGH.replace("TYPE", "10"), "B's value goes through float16; without that it is equal"),
        (THROUGH.replace("TYPE", "16"), "B's value goes through bfloat16; without that it is equal"),
    ],
    ids=["float16", "through float16", "through bfloat16"],
)
def test_fewer_bits_are_named(b, said, tmp_path):
    (text,) = mended(network(WIDE), network(b), X, tmp_path / "mended.onnx")
    assert said in text


def test_other_weights_in_fewer_bits_are_explained_by_nothing():
    result = onnxscope.explain(network(WIDE), network(IN_HALF.replace("WEIGHT", "other")), X)
    assert [each.is_explained for each in result.explanations] == [False]


FLAT = "a = Conv <PADS> (x, w) {} f = Reshape({}, row) y = MatMul(f, m)"
LAST = "t = Transpose <perm = [0, 2, 3, 1]> (a)"


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (
            FLAT.format(LAST, "t"),
            FLAT.format("", "a"),
            "lacks a Transpose that A has before it; with `perm` [0, 2, 3, 1]",
        ),
        (FLAT.format("", "a"), FLAT.format(LAST, "t"), "B's Transpose is one that A has not; without it"),
        (FLAT.format(LAST, "t"), FLAT.format(LAST.replace("2, 3, 1", "3, 2, 1"), "t"), "with [0, 2, 3, 1]"),
        (
            FLAT.format('t = Einsum <equation = "nchw->nhwc"> (a)', "t"),
            FLAT.format("", "a"),
            "B's Reshape takes its axes in another order than A's; with `perm` [0, 2, 3, 1] before it",
        ),
    ],
    ids=["missing", "added", "another", "written otherwise"],
)
def test_another_layout_is_named(a, b, said, tmp_path):
    result = "float[N, 5] y"
    (text,) = mended(network(a, result), network(b, result), X, tmp_path / "mended.onnx")
    assert said in text


def test_another_order_that_is_no_layout_is_explained_by_nothing():
    rolled = "p = Slice(a, start, end, axis) q = Concat <axis = 2> (p, p) t = Identity(q)"
    a, b = (network(FLAT.format(body, "t"), "float[N, 5] y") for body in ("t = Identity(a)", rolled))
    result = onnxscope.explain(a, b, X)
    assert [each.is_explained for each in result.explanations] == [False]
