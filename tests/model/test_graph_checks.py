"""The checks of stored graphs: the order of nodes, and what is refused."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxscope.errors import ModelError
from onnxscope.model.graph_checks import check_graphs
from onnxscope.model.graphs import Graph
from onnxscope.model.loading import load_model


def parse(text: str) -> GraphProto:
    return onnx.parser.parse_graph(text)


def model(text: str) -> ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')


def main_of(proto: GraphProto) -> Graph:
    return check_graphs(proto, where="m")[0]


# ---- order


def test_nodes_in_order_keep_their_order() -> None:
    graph = main_of(parse("g (float[N] x) => (float[N] y) { a = Relu(x)  b = Neg(x)  y = Add(b, a) }"))
    assert [node.op_type for node in graph.nodes] == ["Relu", "Neg", "Add"]
    assert [graph.position(node) for node in graph.nodes] == [0, 1, 2]


def test_unsorted_nodes_come_in_execution_order_and_know_their_stored_place() -> None:
    graph = main_of(parse("g (float[N] x) => (float[N] y) { y = Add(b, a)  b = Neg(a)  z = Abs(x)  a = Relu(x) }"))
    assert [node.op_type for node in graph.nodes] == ["Abs", "Relu", "Neg", "Add"]
    assert [node.index for node in graph.nodes] == [2, 3, 1, 0]


def test_a_node_comes_after_what_only_its_body_reads() -> None:
    text = """g (bool c, float[N] x) => (float[N] y) {
        y = If (c) <then_branch = t () => (float[N] p) { p = Identity(late) }, else_branch = e () => (float[N] late) {}>
        late = Relu(x)
    }"""
    graph = main_of(parse(text))
    assert [node.op_type for node in graph.nodes] == ["Relu", "If"]
    assert graph.nodes[1].captured == ("late",)


def test_a_hundred_thousand_nodes_in_reverse_are_sorted() -> None:
    proto = GraphProto(name="g")
    proto.input.add(name="v0")
    count = 100_000
    proto.node.extend(NodeProto(op_type="Relu", input=[f"v{i}"], output=[f"v{i + 1}"]) for i in reversed(range(count)))
    assert [node.index for node in main_of(proto).nodes] == list(reversed(range(count)))


def test_thousands_of_bodies_see_the_names_of_a_large_graph() -> None:
    proto = GraphProto(name="g")
    proto.input.add(name="v0")
    for i in range(3000):
        node = NodeProto(op_type="If", input=[f"v{i}"], output=[f"v{i + 1}"])
        for name in ("then_branch", "else_branch"):
            body = GraphProto(name=name, output=[onnx.ValueInfoProto(name=f"v{i}")])
            node.attribute.append(onnx.helper.make_attribute(name, body))
        proto.node.append(node)
    proto.node.extend(NodeProto(op_type="Relu", input=["v0"], output=[f"r{i}"]) for i in range(50_000))
    assert len(check_graphs(proto, where="m")) == 6001


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float x) => (float y) { y = Relu(z) }", r"node 'Relu\(y\)' reads 'z', which nothing produces: m"),
        ("g (float x) => (float y) { z = Relu(x) }", "output 'y' is never produced: m"),
        ("g (float x) => (float y) { y = Relu(x)  y = Neg(x) }", "value 'y' is produced twice: m"),
        ("g (float x) => (float x) { x = Relu(x) }", "value 'x' is produced twice: m"),
        ("g (float x) => (float w) <float w = {1}> { w = Relu(x) }", "value 'w' is produced twice: m"),
        ("g (float x, float x) => (float y) { y = Relu(x) }", r"an input has the name of another \('x'\): m"),
        (
            "g (float x) => (float y) { a = Add(x, b)  b = Neg(a)  y = Abs(b) }",
            r"the graph has a cycle through node 'Add\(a\)': m",
        ),
        ("g (float x) => (float y) { y = Add(x, y) }", r"the graph has a cycle through node 'Add\(y\)': m"),
        (
            "g (bool c) => (float y) { y = If (c) <then_branch = t () => (float y) {}> }",
            r"the graph has a cycle through node 'If\(y\)': m",
        ),
        (
            "g (bool c) => (float y) { y = If (c) <then_branch = t () => (float p) { p = Neg(q) }> }",
            r"node 'Neg\(p\)' reads 'q', which nothing produces: m",
        ),
        (
            "g (bool c) => (float y) { y = If (c) <then_branch = t () => (float p) { p = Neg(b)  b = Neg(p) }> }",
            r"the graph has a cycle through node 'Neg\(p\)': m",
        ),
        (
            "g (bool c) => (float y) { y = If (c) <then_branch = t () => (float p) { p = Neg(c) }, "
            "else_branch = e () => (float q) { q = Abs(p) }> }",
            r"node 'Abs\(q\)' reads 'p', which nothing produces: m",
        ),
        (
            "g (float x) => (float y) { y = Clip <to = 1, to = 2> (x) }",
            r"attribute 'to' of node 'Clip\(y\)' is given twice: m",
        ),
    ],
)
def test_names_that_do_not_add_up_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{message}$"):
        check_graphs(parse(text), where="m")


@pytest.mark.parametrize("kind", ["input", "initializer"])
def test_empty_and_repeated_names_are_refused_with_escapes(kind: str) -> None:
    for names, message in (
        ([""], f"^an {kind} has an empty name: m$"),
        (["a", "\x1b[m", "\x1b[m"], rf"^an {kind} has the name of another \('\\x1b\[m'\): m$"),
    ):
        proto = GraphProto(name="g")
        for name in names:
            getattr(proto, kind).add(name=name)
        with pytest.raises(ModelError, match=message):
            check_graphs(proto, where="m")


def test_a_sparse_initializer_counts_as_one() -> None:
    proto = parse("g (float x) => (float y) <float w = {1}> { y = Add(x, s) }")
    proto.sparse_initializer.add().values.name = "s"
    assert main_of(proto).nodes[0].inputs == ("x", "s")
    proto.sparse_initializer.add().values.name = "w"
    with pytest.raises(ModelError, match=r"^an initializer has the name of another \('w'\): m$"):
        check_graphs(proto, where="m")


@pytest.mark.parametrize("field", ["g", "graphs"])
def test_a_graph_hidden_behind_another_type_is_refused(field: str) -> None:
    proto = parse("g (float x) => (float y) { y = Relu(x) }")
    attribute = proto.node[0].attribute.add(name="alpha", type=AttributeProto.FLOAT)
    if field == "g":
        attribute.g.name = "hidden"
    else:
        attribute.graphs.add(name="hidden")
    with pytest.raises(ModelError, match=r"^attribute 'alpha' of node 'Relu\(y\)' hides a graph: m$"):
        check_graphs(proto, where="m")


def test_unnamed_outputs_and_omitted_inputs_are_no_values() -> None:
    graph = main_of(parse('g (float x) => (float y) { y, "" = TopK(x, x)  z, "" = Clip(x, "", x) }'.replace('""', "")))
    assert set(graph.producers) == {"y", "z"}
    assert graph.nodes[1].inputs == ("x", "", "x")


def test_what_has_no_operator_is_refused_with_its_place() -> None:
    proto = model("g (float[2] x) => (float[2] y) { h = Relu(x) y = Neg(h) }")
    proto.graph.node[1].op_type = ""
    with pytest.raises(ModelError, match=r"^node '#1' has no operator: g$"):
        load_model(proto)
    proto.graph.node[1].name = "second"
    with pytest.raises(ModelError, match=r"^node 'second' has no operator: g$"):
        load_model(proto)


@pytest.mark.parametrize("version", [0, -1, -(2**63)])
def test_an_operator_set_below_1_is_refused(version: int) -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    proto.opset_import.add(domain="mine", version=version)
    with pytest.raises(ModelError, match=rf"^operator set 'mine' has version {version}: g$"):
        load_model(proto)
    del proto.opset_import[1]
    proto.opset_import[0].version = version
    with pytest.raises(ModelError, match=rf"^operator set 'ai.onnx' has version {version}: g$"):
        load_model(proto)


def test_nodes_are_counted_in_bodies_and_functions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model("""g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] p) { p = Relu(x) },
                    else_branch = e () => (float[2] q) { q = Neg(x) }> }""")
    monkeypatch.setenv("ONNXSCOPE_MAX_NODES", "3")
    assert load_model(proto)
    monkeypatch.setenv("ONNXSCOPE_MAX_NODES", "2")
    with pytest.raises(ModelError, match=r"^more than 2 nodes: g$") as caught:
        load_model(proto)
    assert caught.value.hint == "`--max-nodes` allows more"


# ---- what would end the process


def tfidf(counts: list[int], places: int, **options: int) -> GraphProto:
    options = {"min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0, **options}
    node = onnx.helper.make_node(
        "TfIdfVectorizer",
        ["x"],
        ["y"],
        name="words",
        mode="TF",
        ngram_counts=counts,
        ngram_indexes=list(range(places)),
        pool_int64s=[1, 2, 3, 1, 2, 2, 3],  # 3 words, then 2 pairs
        **options,
    )
    x, y = (onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in (("x", 7), ("y", 1)))
    return onnx.helper.make_graph([node], "g", [x], [y])


@pytest.mark.parametrize(("counts", "places", "grams"), [([0, 3], 4, 5), ([0, 3], 1, 5), ([0, 7], 6, 7)])
def test_more_n_grams_than_places_for_them_are_refused(counts: list[int], places: int, grams: int) -> None:
    """onnxruntime looks the place up in a thread of its own, and ends the process where there is none."""
    message = rf"^node 'words' has {grams} n-grams by its ngram_counts, and ngram_indexes for {places} of them: m$"
    with pytest.raises(ModelError, match=message):
        check_graphs(tfidf(counts, places), where="m")


def test_n_grams_that_have_their_places_or_are_not_looked_for_are_fine() -> None:
    cases: tuple[tuple[list[int], int, dict[str, int]], ...] = (
        ([0, 3], 5, {}),
        ([0, 3], 9, {}),
        ([0, 3], 3, {"max_gram_length": 1}),  # the pairs are not looked for
        ([0, 300], 5, {}),  # beyond the pool: onnxruntime says so
        ([3, 0], 5, {}),
    )
    for counts, places, options in cases:
        check_graphs(tfidf(counts, places, **options), where="m")
    with pytest.raises(ModelError, match="has 5 n-grams"):  # those of the pairs come behind those of the words
        check_graphs(tfidf([0, 3], 4, min_gram_length=2), where="m")


@pytest.mark.parametrize(
    ("node", "opset", "message"),
    [
        (onnx.helper.make_node("Identity", [], ["y"]), 17, r"node '#0' \(Identity\) has 0 inputs and needs 1"),
        (onnx.helper.make_node("Add", ["x"], ["y"], name="sum"), 17, r"node 'sum' \(Add\) has 1 input and needs 2"),
        (onnx.helper.make_node("TopK", ["x", "x"], ["y"]), 17, r"\(TopK\) has 1 output and needs 2"),
        (onnx.helper.make_node("Scaler", [], ["y"], domain="ai.onnx.ml"), 17, r"\(Scaler\) has 0 inputs"),
        (onnx.helper.make_node("Unsqueeze", ["x"], ["y"]), 13, r"\(Unsqueeze\) has 1 input and needs 2"),
        (onnx.helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0]), 11, None),
        (onnx.helper.make_node("Constant", [], ["y"], value_float=1.0), 17, None),
        (onnx.helper.make_node("NoSuchOperator", [], ["y"]), 17, None),
        (onnx.helper.make_node("Identity", [], ["y"], domain="theirs"), 17, None),
        (onnx.helper.make_node("Relu", [], ["y"]), 1 << 62, None),
    ],
)
def test_a_node_has_what_its_operator_needs(node, opset, message) -> None:
    values = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in (("", opset), ("ai.onnx.ml", 3))]
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", *([value] for value in values)))
    del proto.opset_import[:]
    proto.opset_import.extend([*imports, onnx.helper.make_opsetid("theirs", 1)])
    if message is None:
        assert load_model(proto).main.nodes[0].op_type == node.op_type
        return
    with pytest.raises(ModelError, match=message):
        load_model(proto)
