"""What a node computes by is read from attributes, defaults and constant operands; what was learned is none of it."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxscope.explaining.parameters import constant_of, is_same, parameters_of, plain
from onnxscope.model.loading import load_model


def node_of(text, opset=18, **stored):
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": {opset}]>
        net (float[N, 4, 6, 6] x) => (float[A, B, C, D] y) {{ {text} }}""")
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items())
    loaded = load_model(model)
    return loaded, loaded.main.nodes[-1]


def values_of(*given, **stored):
    return {name: each.value for name, each in parameters_of(*node_of(*given, **stored)).items()}


def test_attributes_have_their_operator_set_s_defaults():
    assert values_of("y = LeakyRelu(x)") == {"alpha": pytest.approx(0.01)}
    assert values_of("y = Softmax(x)", 11)["axis"] == 1
    assert values_of("y = Softmax(x)", 13)["axis"] == -1
    assert "coordinate_transformation_mode" not in values_of("y = Resize(x, s)", 10, s=np.ones(4, np.float32))


def test_operands_count_where_they_say_how_and_not_where_they_were_learned():
    found = values_of('y = Resize <mode = "linear"> (x, , s)', s=np.array([1, 1, 2, 2], np.float32))
    assert found["scales"].tolist() == [1, 1, 2, 2]
    assert found["sizes"] is None
    assert set(values_of("y = TopK_(x, k)".replace("TopK_", "Tile"), k=np.array([1, 1, 2, 1]))) == {"repeats"}
    conv = values_of("y = Conv(x, w, b)", w=np.ones((4, 4, 1, 1), np.float32), b=np.ones(4, np.float32))
    assert not {"W", "B"} & set(conv)
    assert values_of("y = Mul(x, k)", k=np.float32(3)) == {"input 1": 3}
    assert values_of("y = Mul(x, k)", k=np.ones(6, np.float32)) == {}


def test_operands_that_are_computed_count_and_inputs_do_not():
    model, node = node_of("s = Shape(x) o = Constant <value = int64[4] {1, 1, 1, 2}> () p = Add(o, o) y = Tile(x, p)")
    assert parameters_of(model, node)["repeats"].value.tolist() == [2, 2, 2, 4]
    assert constant_of(model, model.main, "s") is None
    model, node = node_of("s = Shape(x) y = Tile(x, s)")
    assert "repeats" not in parameters_of(model, node)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (0.1, np.float32(0.1), True),
        ([1, 2], np.array([1, 2]), True),
        (3, np.array([3]), True),
        ("linear", "linear", True),
        ("linear", "cubic", False),
        (None, None, True),
        (None, 0, False),
        ([1, 2], [1, 2, 3], False),
        (float("nan"), float("nan"), True),
        (0.1, 0.1000001, False),
    ],
)
def test_values_are_the_same_as_float32_has_them(one, other, same):
    assert is_same(one, other) is same


def test_values_are_plain():
    assert plain(b"mode") == "mode"
    assert plain(np.float32(0.1)) == 0.1
    assert plain(np.array([[1, 2]])) == [[1, 2]]
