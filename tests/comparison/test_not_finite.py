"""What is not finite at the same places in both models is equal; against a number it differs."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed

import onnxscope

TEXT = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        [conv1] c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
        [relu1] r1 = Relu(c1)
        [conv2] c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2)
        [relu2] r2 = Relu(c2)
        [pool] m = POOL(r2)
        [flat] f = Flatten(m)
        [fc] y = Gemm<transB = 1>(f, w3)
    }"""
RANDOM = np.random.default_rng(4)
X = RANDOM.standard_normal((3, 3, 8, 8), np.float32)
SHAPES = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (5, 8)}
STORED = {name: RANDOM.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def network(pool="GlobalAveragePool", weight=None, place=5, number=np.nan):
    stored = {name: values.copy() for name, values in STORED.items()}
    if weight is not None:
        stored[weight].flat[place] = number
    return parsed(TEXT.replace("POOL", pool), **stored)


@pytest.mark.parametrize("inputs", [None, X])
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("weight", SHAPES)
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool"])
def test_the_same_places_are_equal(pool, weight, number, inputs):
    model, copy = network(pool, weight, number=number), network(pool, weight, number=number)
    assert onnxscope.diff(model, copy, inputs).equal
    assert onnxscope.check(copy, onnxscope.snapshot(model, inputs), inputs).ok


@pytest.mark.parametrize("inputs", [None, X])
@pytest.mark.parametrize("weight", SHAPES)
def test_a_number_for_nan_and_another_place_differ(weight, inputs):
    layer = {"w1": "conv1", "w2": "conv2", "w3": "fc"}[weight]
    model = network(weight=weight)
    others = network(), network(weight=weight, place=20), network(weight=weight, number=0.5)
    for other in others:
        for sides in ((model, other), (other, model)):
            result = onnxscope.diff(*sides, inputs)
            assert result.verdict == "differs"
            assert layer in [row.a.layer for row in result.guilty]
            check = onnxscope.check(sides[1], onnxscope.snapshot(sides[0], inputs), inputs)
            assert check.verdict == "differs"
            assert layer in [finding.layer for finding in check.findings]


def test_numbers_beside_a_nan_are_compared():
    stored = {name: values.copy() for name, values in STORED.items()}
    for values in stored.values():
        values.flat[5] = np.nan
    moved = {**stored, "w3": stored["w3"] * np.float32(1.1)}
    text = TEXT.replace("POOL", "GlobalAveragePool").replace("(c2)", "(x2)").replace("[relu2]", "x2 = Abs(c2) [relu2]")
    result = onnxscope.diff(parsed(text, **stored), parsed(text, **moved), X)
    assert result.verdict == "differs"
    rows = {row.a.layer: row.verdict for row in result.layers}
    assert rows["conv1"] == "equal"
