"""Edits are made in a copy, and say in words what the node has and what makes it equal."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from onnxscope.explaining.edits import Edit, applied, become, exchange, hand_on, set_attribute, shown, stored_node
from onnxscope.model.loading import load_model

MODEL = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 18]>
    net (float[N, 8] x, bool q) => (float[N, 8] y) <float[N, 8] b, float[N, 8] a> {
        a = Relu(x) b = LeakyRelu <alpha = 0.2> (a)
        c = If (q) <then_branch = yes () => (float[N, 8] t) { u = Sub(b, a) t = Neg(u) },
                    else_branch = no () => (float[N, 8] t) { u = Sub(b, a) t = Abs(u) }>
        y = Sub(c, x) }""")


def edit_of(output, change, path=None, **fields):
    model = load_model(MODEL)
    graph = (
        model.graphs[()] if path is None else next(g for p, g in model.graphs.items() if p and p[0].attribute == path)
    )
    given = {"kind": "attribute", "what": "alpha", "found": 0.2, "wanted": 0.5} | fields
    return Edit(graph.producers[output], change=change, **given)


def test_an_edit_is_made_in_a_copy_and_what_was_declared_behind_it_is_left_out():
    before = MODEL.SerializeToString()
    changed = applied(MODEL, [edit_of("b", set_attribute("alpha", 0.5, 1))] * 2)
    assert onnx.helper.get_node_attr_value(changed.graph.node[1], "alpha") == 0.5
    assert [value.name for value in changed.graph.value_info] == ["a"]
    assert before == MODEL.SerializeToString()


def test_an_edit_in_a_body_is_made_in_the_branch_that_is_meant():
    changed = applied(MODEL, [edit_of("u", exchange([1, 0]), "else_branch", kind="inputs")])
    branches = {attribute.name: attribute.g.node[0] for attribute in changed.graph.node[2].attribute}
    assert list(branches["else_branch"].input) == ["a", "b"]
    assert list(branches["then_branch"].input) == ["b", "a"]


def test_nodes_become_others_and_hand_on():
    changed = applied(MODEL, [edit_of("a", hand_on), edit_of("b", become("Elu", "", []), kind="operator")])
    assert [(node.op_type, list(node.input)) for node in changed.graph.node[:2]] == [
        ("Identity", ["x"]),
        ("Elu", ["a"]),
    ]
    onnx.checker.check_model(changed)


def test_a_node_that_is_not_there_is_not_found():
    edit = edit_of("b", hand_on)
    other = onnx.ModelProto()
    assert stored_node(other.graph, edit.node) is None
    with pytest.raises(ValueError, match="no node to edit gives 'b'"):
        applied(other, [edit])


@pytest.mark.parametrize(
    ("fields", "fault", "cure"),
    [
        ({}, "B's LeakyRelu has `alpha` 0.2", "with 0.5"),
        ({"found": None}, "B's LeakyRelu has no `alpha`", "with 0.5"),
        ({"wanted": None}, "B's LeakyRelu has `alpha` 0.2", "without `alpha`"),
        ({"says": "bends", "kind": "operator", "wanted": "without it"}, "B's LeakyRelu bends", "without it"),
        ({"says": "bends", "subject": "function"}, "B's function bends", "with 0.5"),
        ({"found": "a", "wanted": "b"}, "B's LeakyRelu has `alpha` `a`", "with `b`"),
    ],
)
def test_an_edit_says_what_is_there_and_what_makes_it_equal(fields, fault, cure):
    edit = edit_of("b", hand_on, **fields)
    assert (edit.fault, edit.cure) == (fault, cure)


def test_long_values_are_cut_and_control_characters_are_not_shown():
    assert shown(list(range(20))) == "[0, 1, 2, 3, 4, 5, 6, 7, …]"
    assert "\x1b" not in shown("\x1b[31m")
