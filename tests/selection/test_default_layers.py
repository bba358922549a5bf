"""Layers that are left out by default are told."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.model.loading import load_model
from onnxscope.selection.selectors import select_taps
from onnxscope.selection.working_layers import note_on_default

HEAD = '<ir_version: 9, opset_import: ["": 17]>'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("c = Conv(x, k) f = Flatten(c) [head] y = Gemm(f, w)", "1 layer with weights is left out, "),
        (
            "a = Conv(x, k) b = Conv(a, k) c = Conv(b, k) f = Flatten(c) "
            "[one] m = MatMul(f, v) [head] y = MatMul(m, w)",
            "2 layers ",
        ),
        ("c = Conv(x, k) b = BatchNormalization(c, s, s, s, s) y = Relu(b)", None),
        ("f = Flatten(x) [head] y = Gemm(f, w)", None),
    ],
)
def test_layers_that_are_left_out_by_default_are_told_with_how_to_see_them(text, told):
    model = onnx.parser.parse_model(f"{HEAD} g (float[N, 2, 1, 1] x) => (float[N, 2] y) {{ {text} }}")
    shapes = {"k": (2, 2, 1, 1), "w": (2, 2), "v": (2, 2), "s": (2,)}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    loaded = load_model(model)
    x = np.ones((3, 2, 1, 1), np.float32)
    remarks = note_on_default(loaded, [], [tap.layer for tap in select_taps(loaded, [])])
    assert bool(remarks) == (told is not None)
    if told is not None:
        assert remarks[0].startswith(told)
        assert remarks[0].endswith("`-s head`")
        assert [tap.layer for tap in select_taps(loaded, ["head"])] == ["head"]
    for result in (onnxscope.features(loaded, x), onnxscope.stats(loaded, x)):
        assert set(remarks) <= set(result.notes)
        assert any("left out" in note for note in result.notes) == (told is not None)
    assert note_on_default(loaded, ["op:Conv"] if "Conv" in text else ["head"], ["c"]) == ()
