"""Noise floors: the element types that have rounded a value on its way."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import DIGITS, INPUT, TWO, WEIGHTS, X, floors_of, parsed
from planting import in_half

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.floors import element_types
from onnxscope.model.loading import load_model

SINGLE, HALF, DOUBLE = (frozenset({kind}) for kind in ("float32", "float16", "float64"))


def test_a_value_has_the_types_of_all_that_it_is_computed_from():
    own = [SINGLE, HALF, SINGLE, DOUBLE, SINGLE]
    # 0 -> 1 -> 2, and 3 by itself; the last value is an output.
    rows = [[("a", [])], [("b", ["a"])], [("c", ["b"])], [("d", [])]]
    assert element_types(own, rows) == [SINGLE, SINGLE | HALF, SINGLE | HALF, DOUBLE, SINGLE | HALF | DOUBLE]


def test_rounding_in_either_model_counts():
    rows = [[("a", []), ("x", [])], [("b", ["a"]), ("y", ["x"])]]
    assert element_types([SINGLE | HALF, SINGLE, SINGLE], rows) == [SINGLE | HALF] * 3


def test_no_floor_is_below_the_resolution():
    floors = floors_of(load_model(in_half(DIGITS)), INPUT, RunOptions())
    assert len(floors) == 5
    assert set(floors.values()) == {2.0**-10}
    assert all(floor >= 2.0**-23 for floor in floors_of(load_model(DIGITS), INPUT, RunOptions()).values())


@pytest.mark.parametrize("budget", [1, 512 << 20])
def test_floors_do_not_depend_on_the_memory_budget(budget):
    model = load_model(parsed(TWO, **WEIGHTS))
    tight = floors_of(model, np.asarray(X), RunOptions(memory_budget_bytes=budget))
    assert tight == floors_of(model, X, RunOptions())


def test_a_weight_that_alone_is_quantized_reproduces_though_onnxruntime_multiplies_in_integers():
    """It is off from itself by 0.002 of the value, where 1e-3 is the limit for float32."""
    text = """<ir_version: 9, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y) {
        d = DequantizeLinear(w, s, z) r = Relu(x) y = MatMul(r, d) }"""
    known = {"w": np.arange(1, 17, dtype=np.int8).reshape(4, 4), "s": np.float32(0.1), "z": np.int8(0)}
    data = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    model, other = parsed(text, **known), parsed(text, **{**known, "s": np.float32(0.15)})
    assert onnxscope.diff(model, model, data).equal
    assert onnxscope.check(model, onnxscope.snapshot(model, data), data).ok
    assert onnxscope.diff(model, other, data).verdict == "differs"
    assert not onnxscope.check(other, onnxscope.snapshot(model, data), data).ok
