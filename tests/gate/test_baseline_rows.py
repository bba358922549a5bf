"""The order of an output's numbers counts in a check, whatever kind of output it is; noise does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx.parser
import pytest

import onnxscope
from onnxscope.gate.settings import Settings

X = np.random.default_rng(5).standard_normal((6, 4), np.float32)
OUTPUTS = {
    "float[N, 4] y": "y = Identity(p)",
    "float16[N, 4] y": "y = Cast<to = 10>(p)",
    "double[N, 4] y": "y = Cast<to = 11>(p)",
    "int64[N, 4] y": "h = Mul(p, hundred) y = Cast<to = 7>(h)",
    "bool[N, 4] y": "y = Greater(p, zero)",
    "seq(float[N, 4]) y": "n = Neg(p) y = SequenceConstruct(p, n)",
    "seq(map(int64, float)) y": "y = ai.onnx.ml.ZipMap<classlabels_int64s = [3, 5, 7, 9]>(p)",
}


def network(kind, order):
    return onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 17, "ai.onnx.ml": 3]>
        g (float[N, 4] x) => ({kind}) {{
            order = Constant<value_ints = {order}>()
            hundred = Constant<value_float = 100.0>()
            zero = Constant<value_float = 0.0>()
            s = Tanh(x)
            p = Gather<axis = 1>(s, order)
            {OUTPUTS[kind]}
        }}""")


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_permutation_of_the_same_numbers_does_not_pass(kind):
    baseline = onnxscope.snapshot(network(kind, [0, 1, 2, 3]), X)
    assert onnxscope.check(network(kind, [0, 1, 2, 3]), baseline, X).ok
    for order in ([1, 0, 2, 3], [3, 2, 1, 0], [0, 1, 3, 2]):
        result = onnxscope.check(network(kind, order), baseline, X, settings=Settings(ignore=("p",)))
        found = {finding.statistic for finding in result.findings if not finding.statistic.startswith("node")}
        assert found == {"place_mean"}, order
        assert result.findings[-1].message.startswith("its numbers are others in their places")


def test_swapped_elements_of_a_sequence_do_not_pass():
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[N, 4] x) => (seq(float[N, 4]) y)'
    sides = [
        onnx.parser.parse_model(f"{text} {{ r = Relu(x) n = Neg(x) y = SequenceConstruct({elements}) }}")
        for elements in ("r, n", "n, r")
    ]
    baseline = onnxscope.snapshot(sides[0], X)
    assert onnxscope.check(sides[0], baseline, X).ok
    assert "place_mean" in {one.statistic for one in onnxscope.check(sides[1], baseline, X).findings}


def test_rounding_passes():
    kind = "float[N, 4] y"
    baseline = onnxscope.snapshot(network(kind, [0, 1, 2, 3]), X)
    (row,) = [row for row in baseline.layers if row["op_type"] == "Output"]
    moved = {**row, "place_mean": row["place_mean"] + 0.5e-5 * row["std"]}
    assert onnxscope.check(network(kind, [0, 1, 2, 3]), with_row(baseline, moved), X).ok
    moved = {**row, "place_mean": row["place_mean"] + 3e-5 * row["std"]}
    assert not onnxscope.check(network(kind, [0, 1, 2, 3]), with_row(baseline, moved), X).ok


def test_a_baseline_of_before_has_no_places_and_is_compared_without():
    kind = "float[N, 4] y"
    baseline = onnxscope.snapshot(network(kind, [0, 1, 2, 3]), X)
    (row,) = [row for row in baseline.layers if row["op_type"] == "Output"]
    old = {key: value for key, value in row.items() if not key.startswith("place")}
    assert onnxscope.check(network(kind, [0, 1, 2, 3]), with_row(baseline, old), X).ok


def with_row(baseline, row):
    return replace(baseline, layers=tuple(row if one["layer"] == row["layer"] else one for one in baseline.layers))
