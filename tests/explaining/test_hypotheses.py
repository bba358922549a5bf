"""Nodes are paired by name, by their operators in order, then by order; what both have alike is no hypothesis."""

from __future__ import annotations

import onnx.parser

from onnxscope.explaining.hypotheses import hypotheses, other_values, pair_nodes
from onnxscope.extracting.chosen_part import part_before
from onnxscope.model.loading import load_model


def part_of(text, opset=18):
    model = load_model(
        onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": {opset}]>
            net (float[N, 4, 6, 6] x) => (float[N, 4, C, D] y) {{ {text} }}""")
    )
    return model, part_before(model, "y", ())


def said(first, second):
    (a, left), (b, right) = part_of(first), part_of(second)
    return [
        ([(edit.node.op_type, edit.what, edit.wanted) for edit in each.edits], each.is_of_a)
        for each in hypotheses((a, b), (left, right))
    ]


def test_nodes_are_paired_by_name_then_by_operators_in_order():
    _, first = part_of("[one] a = Relu(x) [two] b = Elu(a) c = Neg(b) y = Abs(c)")
    _, second = part_of("[two] a = Elu(x) [one] b = Relu(a) k = Exp(b) c = Neg(k) y = Abs(c)")
    found = {(left.op_type, right.op_type) for left, right in pair_nodes(first.nodes, second.nodes)}
    assert found == {(kind, kind) for kind in ("Relu", "Elu", "Neg", "Abs")}


def test_what_both_have_alike_is_no_hypothesis():
    same = "a = LeakyRelu <alpha = 0.3> (x) y = Softmax <axis = 1> (a)"
    assert said(same, same) == []
    assert said(same, same.replace("0.3", "0.4")) == [([("LeakyRelu", "alpha", 0.3)], True)]


def test_several_that_differ_are_tried_alone_and_then_together():
    pool = "y = AveragePool <kernel_shape = [2, 2], ceil_mode = {}, strides = [{}, {}]> (x)"
    found = said(pool.format(1, 2, 2), pool.format(0, 3, 3))
    assert [len(edits) for edits, _ in found] == [1, 1, 2]
    assert sorted(edit[1:] for edit in found[-1][0]) == [("ceil_mode", 1), ("strides", [2, 2])]


def test_a_node_without_a_partner_is_tried_with_usual_values_and_without():
    found = said("y = Neg(x)", "a = LeakyRelu(x) y = Neg(a)")
    assert ([("LeakyRelu", "alpha", 0.2)], False) in found
    assert found[-1] == ([("LeakyRelu", "node", "without it")], False)
    assert all(not is_of_a for _, is_of_a in found)


def test_other_values_of_one_parameter_are_those_of_the_table():
    text = """p = Constant <value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}> () y = Pad <mode = "MODE"> (x, p)"""
    (a, left), (b, right) = (part_of(text.replace("MODE", mode), opset=19) for mode in ("edge", "wrap"))
    (first, *_) = hypotheses((a, b), (left, right))
    assert first.edits[0].wanted == "edge"
    assert [each.edits[0].wanted for each in other_values(b, first)] == ["constant", "reflect"]
