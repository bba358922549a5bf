"""A shape in a file is a declaration: what is said otherwise is a remark, what changes the rank or a size is found."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed

from onnxscope import check, snapshot

X = np.ones((3, 4), np.float32)
TEXT = '<ir_version: 9, opset_import: ["": 17]> g (float[INPUT] x) => (float[OUTPUT] y) { r = Relu(x) y = Neg(r) }'


def network(declared="N, 4", given="N, 4"):
    return parsed(TEXT.replace("INPUT", declared).replace("OUTPUT", given))


def without_shape():
    model = network()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


SAID_OTHERWISE = {
    "renamed": (network("batch, 4", "batch, 4"), {"x": ("batch × 4", "N × 4"), "y": ("batch × 4", "N × 4")}),
    "left open": (network(given="N, M"), {"y": ("N × M", "N × 4")}),
    "filled in": (network(given="3, 4"), {"y": ("3 × 4", "N × 4")}),
    "of no shape": (without_shape(), {"y": ("of any shape", "N × 4")}),
}


@pytest.mark.parametrize("inputs", [None, X])
@pytest.mark.parametrize("name", SAID_OTHERWISE)
def test_a_shape_that_is_declared_otherwise_is_a_remark(name, inputs):
    other, expected = SAID_OTHERWISE[name]
    sides = [(network(), other, False), (other, network(), True)]
    for old, new, swapped in sides:
        result = check(new, snapshot(old, inputs), inputs)
        assert result.ok, repr(result)
        for value, shapes in expected.items():
            found, before = reversed(shapes) if swapped else shapes
            assert any(f"put {value} is declared {found}, was declared {before}: " in note for note in result.notes)
    assert not any("is declared" in note for note in check(other, snapshot(other, inputs), inputs).notes)


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (network(declared="N, 5"), "inputs"),
        (network(declared="N, 4, 1"), "inputs"),
        (network(declared="1, 4"), "inputs"),  # it takes no batch any more
        (network(declared="N, M"), "inputs"),
        (network(given="N, 5"), "outputs"),
        (network(given="N, 4, 1"), "outputs"),
        (parsed(TEXT.replace("INPUT", "N, 4").replace("OUTPUT", "N, 4").replace("x)", "z)")), "inputs"),
        (parsed(TEXT.replace("INPUT", "N, 4").replace("OUTPUT", "N, 4").replace("float[", "double[")), "inputs"),
    ],
)
def test_another_rank_size_name_or_type_is_found(other, key):
    result = check(other, snapshot(network()))
    assert key in [finding.statistic for finding in result.findings]
    assert f"the model's {key} have changed" in [finding.message for finding in result.findings]
