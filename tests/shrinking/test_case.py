"""The edits that a search is made of leave a model that gives what it gave."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from shrink_cases import case_of

from onnxscope.shrinking.case import (
    Case,
    read_by,
    renamed,
    replace_tensor,
    stored_bytes,
    tidied,
    with_nodes,
    with_outputs,
)

TEXT = """(float[N, 2] x, float[N, 2] z) => (float[N, 2] y, float[N, 2] s) <float[2] w = {3, 4}, float[2] v = {1, 2}> {
    a = Mul(x, w)
    b = Add(a, v)
    y = Tanh(b)
    s = Sub(x, z)
}"""
FEEDS = {"x": np.array([[1, 2]], np.float32), "z": np.array([[5, 7]], np.float32)}


def run(case):
    return dict(zip(case.outputs, ReferenceEvaluator(case.proto).run(None, dict(case.feeds)), strict=True))


def test_other_outputs_take_what_computes_them_alone():
    case = with_outputs(case_of(TEXT, FEEDS), ["b"])
    assert [node.op_type for node in case.proto.graph.node] == ["Mul", "Add"]
    assert list(case.feeds) == ["x"]
    assert {tensor.name for tensor in case.proto.graph.initializer} == {"w", "v"}
    assert case.original == {"x": 2, "w": 2, "v": 2}
    np.testing.assert_allclose(run(case)["b"], [[4, 10]])


def test_a_node_that_is_cut_off_leaves_its_value_as_an_input():
    whole = case_of(TEXT, FEEDS)
    case = with_nodes(whole, whole.proto.graph.node[1:], {"a": np.array([[10, 20]], np.float32)})
    assert {tensor.name for tensor in case.proto.graph.initializer} == {"v"}
    assert case.original["a"] == 2
    np.testing.assert_allclose(run(case)["y"], np.tanh([[11, 22]]))


def test_cases_are_told_apart_by_their_numbers():
    case = case_of(TEXT, FEEDS)
    other = Case(case.proto, {**case.feeds, "x": np.array([[1, 3]], np.float32)})
    assert case.digest == case_of(TEXT, FEEDS).digest != other.digest
    proto = onnx.ModelProto.FromString(case.proto.SerializeToString())
    replace_tensor(proto, "w", np.array([3, 5], np.float32))
    assert Case(proto, case.feeds).digest != case.digest
    assert 16 <= stored_bytes(case) < 64


def test_names_change_in_bodies_too():
    text = """(bool c, float[2] x) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] p) { p = Neg(x) }, else_branch = e () => (float[2] q) { q = Abs(x) }>
    }"""
    case = case_of(text, {"c": np.array(True), "x": np.array([1, -2], np.float32)})
    (node,) = case.proto.graph.node
    assert sorted(read_by(node)) == ["c", "x", "x"]
    changed = renamed(node, {"x": "other"})
    assert sorted(read_by(changed)) == ["c", "other", "other"]
    assert sorted(read_by(node)) == ["c", "x", "x"]


def test_what_is_no_part_of_the_computation_goes():
    text = '<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]> net (float[N] x) => (float[N] y) { y = Neg(x) }'
    proto = onnx.parser.parse_model(text)
    proto.metadata_props.add(key="author", value="me")
    proto.graph.node[0].metadata_props.add(key="file", value="secret.py")
    proto.graph.node[0].doc_string = "secret.py line 3"
    case = tidied(Case(proto, {"x": np.ones(3, np.float32)}))
    assert b"secret" not in case.proto.SerializeToString()
    assert [each.domain for each in case.proto.opset_import] == [""]
    assert [side.dim_value for side in case.proto.graph.input[0].type.tensor_type.shape.dim] == [3]
