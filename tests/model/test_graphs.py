"""Graphs as stored: nested bodies, captured values, constants, declared types."""

from __future__ import annotations

from dataclasses import replace

import onnx
import onnx.parser
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from onnxscope.model.graph_checks import check_graphs
from onnxscope.model.graphs import Graph, Step, ValueType, declared_types, value_type, walk_graphs
from onnxscope.model.loading import load_model

NESTED = """
    g (bool c, int64 n, float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> {
        h = Relu(x)
        k = Add(w, w)
        y = If (c) <
            then_branch = t () => (float[3] p) {
                p = Loop (n, c, h) <body = b (int64 i, bool ci, float[3] s) => (bool co, float[3] o) {
                    co = Identity(ci)
                    o = Add(s, k)
                }>
            },
            else_branch = e () => (float[3] q) { q = Neg(h) }
        >
    }"""


def parse(text: str) -> GraphProto:
    return onnx.parser.parse_graph(text)


def main_of(proto: GraphProto) -> Graph:
    return check_graphs(proto, where="m")[0]


# ---- bodies


def test_nested_graphs_come_outer_ones_first_with_paths_owners_and_parents() -> None:
    graphs = check_graphs(parse(NESTED), where="m")
    then, inner = (Step(2, "then_branch"),), (Step(2, "then_branch"), Step(0, "body"))
    assert [graph.path for graph in graphs] == [(), then, (Step(2, "else_branch"),), inner]
    assert [graph.owner for graph in graphs] == ["", "If(y)", "If(y)", "Loop(p)"]
    assert [graph.owner_op for graph in graphs] == ["", "If", "If", "Loop"]
    assert [graph.parent for graph in graphs] == [None, graphs[0], graphs[0], graphs[1]]
    assert graphs[3].inputs == ("i", "ci", "s")
    assert graphs[3].outputs == ("co", "o")


def test_a_node_captures_what_its_bodies_read_at_any_depth() -> None:
    graphs = check_graphs(parse(NESTED), where="m")
    assert graphs[0].nodes[2].captured == ("c", "h", "k", "n")
    assert graphs[1].nodes[0].captured == ("k",)


def test_readers_count_captures_and_each_reader_once() -> None:
    graph = main_of(parse(NESTED))
    assert [node.op_type for node in graph.readers["h"]] == ["If"]
    assert [node.op_type for node in graph.readers["c"]] == ["If"]
    assert [node.op_type for node in graph.readers["w"]] == ["Add"]
    assert "y" not in graph.readers


def test_constants_are_what_no_input_reaches_and_bodies_inherit_them() -> None:
    graphs = check_graphs(parse(NESTED), where="m")
    assert graphs[0].constants == {"w", "k"}
    assert graphs[3].constants == {"w", "k"}


def test_random_values_and_overridable_initializers_are_no_constants() -> None:
    graph = main_of(
        parse("""
        g (float[2] x, float[2] d = {1, 2}) => (float[2] y) <float[2] w = {1, 2}> {
            r = RandomNormal <shape = [2]> ()
            s = RandomNormalLike(w)
            k = Constant <value_float = 2.0> ()
            m = Mul(w, k)
            y = Sum(x, r, s, m, d)
        }""")
    )
    assert graph.constants == {"w", "k", "m", "d"}  # without being fed, an input with a default is constant


def test_stored_finds_initializers_and_constant_nodes_from_any_body() -> None:
    graphs = check_graphs(
        parse(NESTED.replace("k = Add(w, w)", "k = Constant <value = float[3] {4, 5, 6}> ()")), where="m"
    )
    inner = graphs[3]
    assert list(inner.stored("w").float_data) == [1, 2, 3]  # type: ignore[union-attr]
    assert list(inner.stored("k").float_data) == [4, 5, 6]  # type: ignore[union-attr]
    assert inner.stored("h") is None
    assert inner.stored("i") is None


def test_walking_visits_every_graph_those_in_lists_too() -> None:
    proto = parse(NESTED)
    proto.node.append(NodeProto(op_type="Many", domain="own"))
    proto.node[-1].attribute.append(
        onnx.helper.make_attribute("bodies", [GraphProto(name="one"), GraphProto(name="two")])
    )
    assert [graph.name for graph in walk_graphs(proto)] == ["g", "t", "b", "e", "one", "two"]


# ---- nodes and types


def test_a_node_without_a_name_is_labelled_by_operator_and_output() -> None:
    proto = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    proto.node.append(NodeProto(op_type="Print", domain="own", input=["y"]))
    proto.node.append(NodeProto(name="last", op_type="Neg", domain="ai.onnx", input=["y"], output=["z"]))
    nodes = main_of(proto).nodes
    assert [node.label for node in nodes] == ["Relu(y)", "Print(1)", "last"]
    assert [node.is_standard for node in nodes] == [True, False, True]


def test_attributes_are_read_by_name_and_unreadable_ones_are_absent() -> None:
    proto = parse("g (float[N] x) => (float[N] y) { y = LeakyRelu <alpha = 0.5> (x) }")
    proto.node[0].attribute.append(AttributeProto(name="odd", i=3))
    (node,) = main_of(proto).nodes
    assert (node.attribute("alpha"), node.attribute("beta"), node.attribute("odd")) == (0.5, None, None)


def test_the_order_of_a_transpose_is_the_other_way_round_where_it_names_none() -> None:
    text = "g (float[2, 3, 4] x) => (float y) { y = Transpose(x)  z = Transpose<perm = [0, 2, 1]>(x) }"
    plain, named = check_graphs(onnx.parser.parse_graph(text), where="m")[0].nodes
    assert (plain.axis_order(3), plain.axis_order(1), plain.axis_order(0)) == ([2, 1, 0], [0], [])
    assert plain.axis_order(None) is None
    assert named.axis_order(3) == named.axis_order(None) == [0, 2, 1]
    assert named.axis_order(4) is None
    for wrong in ([0, 0, 1], [1, 2, 3], [-1, 0, 1]):
        proto = onnx.helper.make_node("Transpose", ["x"], ["y"], perm=wrong)
        assert replace(named, proto=proto).axis_order(None) is None


def test_declared_types_cover_values_initializers_and_kinds() -> None:
    proto = parse("""
        g(float[N, 3, ?] x, seq(float[2]) s, string[1] t, float16 q) => (int8 y) <float[2] w = {1, 2}> { y = F(x) }""")
    proto.value_info.add(name="no type")
    proto.value_info.add(name="odd").type.tensor_type.elem_type = 99
    proto.value_info.add(name="b").type.tensor_type.elem_type = TensorProto.BFLOAT16
    types = declared_types(proto)
    assert types["x"] == ValueType("float32", ("N", 3, None), TensorProto.FLOAT, "tensor")
    assert types["s"] == ValueType(None, None, 0, "sequence")
    assert types["t"] == ValueType("str", (1,), TensorProto.STRING, "tensor")
    assert types["q"] == ValueType("float16", (), TensorProto.FLOAT16, "tensor")
    assert types["w"] == ValueType("float32", (2,), TensorProto.FLOAT, "tensor")
    assert types["odd"] == ValueType(None, None, 0, "tensor")
    assert types["b"] == ValueType("bfloat16", None, TensorProto.BFLOAT16, "tensor")
    assert "no type" not in types
    assert value_type(onnx.helper.make_map_type_proto(TensorProto.INT64, types_of("float"))).kind == "map"
    assert value_type(onnx.helper.make_optional_type_proto(types_of("float"))).kind == "optional"


def types_of(kind: str) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(TensorProto.DataType.Value(kind.upper()), [2])


def test_what_is_computed_again_is_known_and_nothing_else_is():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 19, "private": 1]>
        g (float[2] x) => (float[2] y)
        <float s = {0.5}, float t = {0.5}, float u = {0.25}, uint8 z = {0}> {
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            v = Constant<value = float {0.5}>()
            q2 = QuantizeLinear(x, t, z)
            d2 = DequantizeLinear(q2, v, z)
            other_scale = DequantizeLinear(q, u, z)
            no_zero = DequantizeLinear(q, s)
            a = Sub(d, x)
            a2 = Sub(d2, x)
            turned = Sub(x, d)
            l = LeakyRelu<alpha = 0.1>(a)
            l2 = LeakyRelu<alpha = 0.1>(a2)
            other_slope = LeakyRelu<alpha = 0.2>(a)
            noise = RandomNormalLike(x)
            more_noise = RandomNormalLike(x)
            p = private.Count(x)
            p2 = private.Count(x)
            o = Dropout(x, u)
            o2 = Dropout(x, u)
            y = Sum(l, l2, other_slope, other_scale, no_zero, turned, noise, more_noise, p, p2, o, o2)
        }""")
    graph = load_model(model).main
    assert dict(graph.repeated) == {"q2": "q", "d2": "d", "a2": "a", "l2": "l"}
    assert [node.outputs[0] for node in graph.readers_of("q")] == ["d", "other_scale", "no_zero"]
    assert [node.outputs[0] for node in graph.readers_of("a")] == ["l", "other_slope"]
