"""The edit itself: names, places and files stay, in bodies too."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model
from onnxscope.patching.graph_edit import GraphEdit
from onnxscope.runtime.session import open_session
from onnxscope.selection.selectors import select_taps

X = np.random.default_rng(8).standard_normal((3, 4)).astype(np.float32)


def loaded(body, outputs="float[N, 4] y", stored=""):
    return load_model(
        onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["": 17]> g (float[N, 4] x) => ({outputs}) {stored} {{ {body} }}'
        )
    )


def tap_of(model, value):
    return select_taps(model, [f"value:{value}"], at="post")[0]


def run(edit, model):
    return open_session(model.patched(edit.proto, edit.folder, ())).run({"x": X})


def test_the_model_stays_as_it_is_and_nodes_keep_their_places():
    model = loaded("h = Relu(x) k = Exp(h) y = Add(k, h)")
    before = model.proto.SerializeToString()
    edit = GraphEdit(model)
    edit.zero(tap_of(model, "h"), "float32")
    assert model.proto.SerializeToString() == before
    assert [node.op_type for node in edit.proto.graph.node][:3] == ["Relu", "Exp", "Add"]
    assert [output.name for output in edit.proto.graph.output] == ["y"]
    np.testing.assert_array_equal(run(edit, model)["y"], np.ones_like(X))


def test_names_of_the_model_are_never_used():
    prefix = GraphEdit(loaded("y = Relu(x)")).prefix
    name = f"{prefix}own_1"
    model = load_model(
        onnx.helper.make_model(
            onnx.helper.make_graph(
                [onnx.helper.make_node("Relu", ["x"], [name]), onnx.helper.make_node("Neg", [name], ["y"])],
                "g",
                [onnx.helper.make_tensor_value_info("x", 1, [None, 4])],
                [onnx.helper.make_tensor_value_info("y", 1, [None, 4])],
            ),
            opset_imports=[onnx.helper.make_opsetid("", 17)],
            ir_version=9,
        )
    )
    edit = GraphEdit(model)
    assert not name.startswith(edit.prefix)
    edit.array(tap_of(model, name), np.full((1, 4), 2, np.float32), "float32")
    np.testing.assert_array_equal(run(edit, model)["y"], np.full_like(X, -2))


@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (3, 1), (3, 4)])
def test_sides_of_one_are_repeated(shape):
    model = loaded("h = Relu(x) y = Neg(h)")
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    edit = GraphEdit(model)
    edit.array(tap_of(model, "h"), values, "float32")
    np.testing.assert_array_equal(run(edit, model)["y"], -np.broadcast_to(values, X.shape))


LOOP = """y = Loop (n, go, x) <body = b (int64 i, bool c, float[N, 4] before) => (bool again, float[N, 4] after) {
    again = Identity(c) h = Exp(before) k = Neg(h)
    m = If (c) <then_branch = t () => (float[N, 4] p) { p = Abs(k) },
        else_branch = e () => (float[N, 4] q) { q = Exp(h) }>
    after = Add(m, h) }>"""


@pytest.mark.parametrize("value", ["h", "k", "p"])
def test_in_a_body_whoever_reads_the_value_comes_behind_it(value):
    model = loaded(LOOP, stored="<int64 n = {1}, bool go = {1}>")
    edit = GraphEdit(model)
    edit.array(tap_of(model, value), np.float32(2), "float32")
    y = run(edit, model)["y"]
    wanted = np.full_like(X, 4) if value == "h" else 2 + np.exp(X)
    np.testing.assert_allclose(y, wanted, rtol=1e-6)


def test_several_values_of_nested_bodies_are_replaced_at_once():
    model = loaded(LOOP, stored="<int64 n = {1}, bool go = {1}>")
    edit = GraphEdit(model)
    for value, number in (("h", 3), ("k", 5), ("p", 7)):
        edit.array(tap_of(model, value), np.float32(number), "float32")
    np.testing.assert_array_equal(run(edit, model)["y"], np.full_like(X, 10))


def test_a_value_before_a_node_with_a_body_of_its_own_is_refused_in_a_body():
    proto = loaded(LOOP, stored="<int64 n = {1}, bool go = {1}>").proto
    with pytest.raises(InputError, match="in a body, no value before a node with a body of its own can be replaced: g"):
        onnxscope.features(proto, X, select="value:p", replace={"value:h": "zero"})
    maps = onnxscope.features(proto, X, select="value:y", replace={"value:after": "zero", "value:p": "zero"})
    assert not maps[0].data.any()


def test_weights_in_files_of_two_folders_are_found(tmp_path):
    weights = [np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32) for seed in (0, 1)]
    paths = []
    for name, weight in zip(("first", "second"), weights, strict=True):
        folder = tmp_path / name / "deep"
        folder.mkdir(parents=True)
        proto = onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y)'
            "{ [a] h = MatMul(x, w) y = Neg(h) }"
        )
        proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        onnx.save(proto, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
        paths.append(str(folder / "model.onnx"))
    maps = onnxscope.features(paths[0], X, select="value:y", replace={"a": paths[1]})
    np.testing.assert_allclose(maps[0].data, -(X.astype(np.float64) @ weights[1]), rtol=1e-5, atol=1e-6)


def test_what_is_embedded_is_no_more_than_what_is_needed():
    donor = loaded("h = Relu(x) k = Exp(h) y = Sin(k)")
    model = loaded("h = Neg(x) y = Abs(h)")
    edit = GraphEdit(model)
    rename = edit.embed(donor, ["k"], {"x": "x"})
    assert [node.op_type for node in edit.proto.graph.node] == ["Neg", "Abs", "Relu", "Exp"]
    assert rename("x") == "x"
    assert rename("") == ""
    edit.value(tap_of(model, "h"), lambda writer, own: rename("k"))
    (expected,) = onnxruntime.InferenceSession(loaded("h = Relu(x) y = Exp(h)").proto.SerializeToString()).run(
        None, {"x": X}
    )
    np.testing.assert_array_equal(run(edit, model)["y"], expected)
