"""Indices have no channels: which outputs they are, what hands them on, and what no command says of them."""

from __future__ import annotations

import numpy as np
import onnx.defs
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.model.loading import load_model
from onnxscope.operators.table import OPERATORS
from onnxscope.selection.selectors import select_taps

QUANTITIES = {"ConvInteger", "MatMulInteger", "StringSplit"}
"""Operators whose integer outputs are no places."""


def integer_outputs():
    """By operator, the outputs that ONNX's own schemas give no other type than int64 or int32."""
    outputs = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        allowed = {
            constraint.type_param_str: set(constraint.allowed_type_strs) for constraint in schema.type_constraints
        }
        for place, output in enumerate(schema.outputs):
            types = allowed.get(output.type_str, {output.type_str})
            if not schema.domain and types <= {"tensor(int64)", "tensor(int32)"}:
                outputs.setdefault(schema.name, set()).add(place)
    return outputs


def test_the_table_has_every_index_output_of_the_schemas():
    table = {row.name: set(row.index_outputs) for row in OPERATORS.values() if row.index_outputs}
    expected = {name: places for name, places in integer_outputs().items() if name not in QUANTITIES}
    assert table == {**expected, "Range": {0}}


CASES = {
    "NonMaxSuppression": "s = Slice(x, zero, one, axis)  t = Transpose<perm = [0, 2, 1]>(s)"
    "  i = NonMaxSuppression(x, t, big)",
    "TopK": "v, i = TopK<axis = 2>(x, one)",
    "ArgMax": "i = ArgMax<axis = 2>(x)",
    "ArgMin": "i = ArgMin<axis = 1, keepdims = 0>(x)",
    "NonZero": "i = NonZero(x)",
    "Unique": "v, i, j, k = Unique(x)",
    "Shape": "i = Shape(x)",
    "Range": "i = Range(from, to, step)",
    "handed on": "n = NonZero(x)  t = Transpose(n)  c = Cast<to = 1>(t)  d = Identity(c)  i = Unsqueeze(d, one)",
}


def model_of(text):
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]>'
        f" net (float[N, 3, 4] x) => (float[A, B, C] y) {{ {text}  y = Relu(x) }}"
    )
    stored = {"zero": [0], "one": [1], "two": [2], "four": [4], "axis": [2], "big": [3]}
    for name, values in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
    for name, value in (("from", 0), ("to", 9), ("step", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    return model


@pytest.mark.parametrize("case", CASES)
def test_indices_have_no_dead_channels_and_no_saturation(case):
    model = model_of(CASES[case])
    x = np.zeros((2, 3, 4), np.float32)
    x[:, 0, 1] = 1
    loaded = load_model(model)
    assert "i" in loaded.main.index_values
    assert "y" not in loaded.main.index_values
    (tap,) = select_taps(loaded, ["value:i"])
    assert tap.holds_indices
    assert [tap.axis_of(rank) for rank in range(5)] == [None] * 5
    (seen,) = onnxscope.features(model, x, select="value:i")
    assert seen.channel_axis is None
    assert seen.statistics["zero_channels"] == []
    assert seen.statistics["mean"] == pytest.approx(np.asarray(seen.data, np.float64).mean())
    statistics = onnxscope.stats(model, x, select="value:i")
    kinds = {"dead_channel", "constant_channel", "duplicate_channel", "saturation"}
    assert not kinds & {finding.kind for finding in statistics.findings}
    assert statistics[0].channel_axis is None


def test_what_is_no_index_keeps_its_channels():
    model = model_of("v, i = TopK<axis = 2>(x, one)  f = Cast<to = 1>(i)  c = Clip(f, low, high)  s = Add(f, f)")
    for name, value in (("low", 0.0), ("high", 6.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    assert load_model(model).main.index_values == {"i", "f"}
    x = np.zeros((2, 3, 4), np.float32)
    dead = onnxscope.stats(model, x, select=["value:v", "value:y"])
    assert [tap.dead_channels for tap in dead] == [(0,), (0, 1, 2, 3)]
