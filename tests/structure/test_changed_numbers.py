"""Numbers that a node holds are guarded whatever the inputs show; what it does with them is seen by running it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from compared_models import parsed
from unstable_models import X, dropping, quiet

from onnxscope import check, diff, snapshot
from onnxscope.structure.compare_records import NodeChange, changes_numbers

IDLE = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[n, 3] x) => (float[n, 3] y) { p = Max(x, least)  a = Abs(p)  y = Mul(a, gain) }"""


def idle(least=-0.5, gain=2.0):
    """Positive inputs do not show the least value."""
    return parsed(IDLE, least=np.float32(least), gain=np.float32(gain))


def test_a_number_without_effect_on_the_inputs_makes_models_differ():
    x = np.ones((2, 3), np.float32)
    for other in (-0.25, np.nextafter(np.float32(-0.5), np.float32(-1))):
        result = diff(idle(), idle(other), x)
        assert result.verdict == "differs"
        assert not any(row.differs for row in result.outputs)
        assert not check(idle(other), snapshot(idle(), x), x).ok
    assert diff(idle(), idle(), x).equal


@pytest.mark.parametrize("opset", [10, 11])
def test_a_limit_that_the_inputs_do_not_reach_makes_models_differ(opset):
    x = np.ones((2, 3), np.float32)
    models = []
    for low in (-1.0, -2.0):
        clip = "Clip(x, low)" if opset > 10 else f"Clip<min = {low}>(x)"
        text = f'<ir_version: 6, opset_import: ["": {opset}]> g (float[n, 3] x) => (float[n, 3] y) {{ y = {clip} }}'
        models.append(parsed(text, **({"low": np.float32(low)} if opset > 10 else {})))
    assert diff(*models, x).verdict == diff(*models).verdict == "differs"
    assert not check(models[1], snapshot(models[0], x), x).ok
    assert diff(models[0], models[0], x).equal


def test_another_way_to_the_same_values_is_no_difference_where_they_were_compared():
    x = np.ones((2, 3), np.float32)
    other = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[n, 3] x) => (float[n, 3] y) { a = Abs(x)  y = Add(a, a) }""")
    result = diff(idle(), other, x)
    assert result.structure
    assert result.equal
    assert diff(idle(), other).verdict == "differs"


def test_where_the_inputs_show_a_difference_check_names_what_a_node_does_otherwise():
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    other = idle()
    other.graph.node[1].op_type = "Neg"
    findings = check(other, snapshot(idle(), x), x).findings
    assert findings[0].message == "Abs became Neg"
    assert "y" in [finding.layer for finding in findings]
    assert check(idle(), snapshot(idle(), x), x).ok


def test_a_random_node_of_one_model_makes_it_differ_though_it_is_dropped():
    result = diff(quiet(), dropping(), X)
    assert result.verdict == "differs"
    assert "in training mode" in result.summary()
    assert diff(quiet(), quiet(), X).equal


@pytest.mark.parametrize(
    ("what", "old", "new", "counts"),
    [
        ("B", "float32 1.0", "float32 1.5", True),
        ("B", "float32[12] 0123456789abcdef", "float32[12] 1123456789abcdef", True),
        ("B", "float32[12] 0123456789abcdef", "float32[1, 12] 1123456789abcdef", False),
        ("zero_point", "uint8 3", "uint8 4", True),
        ("shape", "int64[2] 1 -1", "int64[2] 1 4", False),
        ("coefficients", [0.5, 1.0], [0.5, 2.0], True),
        ("classlabels_int64s", [0, 1, 2], [2, 1, 0], True),
        ("pads", [0, 1], [1, 0], False),
        ("min", "1", "2.5", True),
        ("constant_value", "0", "-0.5", True),
        ("axes", "1", "2", False),
        ("pads", [0, 1], None, False),
        ("op_type", "Relu", "Elu", False),
    ],
)
def test_which_changes_are_of_numbers(what, old, new, counts):
    assert changes_numbers(NodeChange("", what, old, new, "")) == counts
