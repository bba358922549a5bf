"""Local functions: inlined with the same result, and refused where that would not end well."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from nested_models import doubling, function, with_functions

from onnxscope import features, inspect
from onnxscope.errors import ModelError
from onnxscope.model.loading import load_model
from onnxscope.runtime.session import Session


def test_local_functions_are_inlined_with_their_attributes_and_the_same_result() -> None:
    proto = with_functions(
        "g (float[N] x) => (float[N] y) { h = l.outer <slope = 0.5> (x)  y = l.inner <alpha = 0.25> (h) }",
        function("outer <slope> (x) => (y)", "a = l.inner <alpha: float = @slope> (x)  y = Neg(a)")
        + function("inner <alpha> (x) => (y)", "y = LeakyRelu <alpha: float = @alpha> (x)"),
    )
    model = load_model(proto)
    assert model.inlined_functions == 2
    assert [node.op_type for node in model.main.nodes] == ["LeakyRelu", "Neg", "LeakyRelu"]
    assert [node.attribute("alpha") for node in model.main.nodes] == [0.5, None, 0.25]
    x = np.array([-8.0, 4.0], np.float32)
    found = Session(model.proto, folder=None, where="g").run({"x": x})["y"]
    assert found.tolist() == [4.0, -1.0]  # -8 * 0.5 = -4, negated 4; 4 negated -4, times 0.25


def test_nodes_of_a_call_are_named_after_it() -> None:
    proto = with_functions(
        """g (float[N] x, bool c) => (float[N] y, float[N] v) {
            [first] a = l.outer(x)
            [second] h = l.outer(a)
            b = l.block(h)
            [choice] y = If (c) <
                then_branch = t () => (float[N] p) { [inside] p = l.block(b) },
                else_branch = e () => (float[N] q) { [alone] q = Abs(b) }>
            [last] v = Exp(x) }""",
        function("outer (x) => (y)", "[sub] a = l.block(x)  b = Neg(a)  c = Neg(b)  y = l.block(c)")
        + function("block (x) => (y)", "[proj] a = Relu(x)  [act] y = Neg(a)"),
    )
    model = load_model(proto)
    names = [f"{node.op_type} {node.name}" for graph in model.graphs.values() for node in graph.nodes]
    outer = ["Relu {}/sub/proj", "Neg {}/sub/act", "Neg {}/Neg", "Neg {}/Neg_2", "Relu {}/block/proj"]
    outer += ["Neg {}/block/act"]
    assert names[:12] == [text.format(caller) for caller in ("first", "second") for text in outer]
    assert names[14:] == ["If choice", "Exp last", "Relu inside/proj", "Neg inside/act", "Abs alone"]
    assert names[12].startswith("Relu proj")  # the call has no name
    assert names[13].startswith("Neg act")


def test_layers_in_calls_are_told_apart_by_the_callers_name() -> None:
    proto = with_functions(
        """g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w1 = {1, 2, 3, 4}, float[2, 2] w2 = {5, 6, 7, 8}> {
            a = l.Block(x, w1)  y = l.Block(a, w2) }""",
        function("Block (p, w) => (q)", "[proj] t = MatMul(p, w)  [act] q = Relu(t)"),
    )
    for number, call in enumerate(proto.graph.node):
        call.name = f"encoder.{number}"
    assert [layer.layer for layer in inspect(proto).layers] == ["encoder.0/proj", "encoder.1/proj"]
    x = np.array([[1, -1]], np.float32)
    maps = features(proto, x, select="encoder.1/proj", at="pre")
    assert maps[0].data.tolist() == [[0.0, 0.0]]  # x @ w1 is -2, -2, and the activation function makes it 0


def test_an_attribute_that_a_call_leaves_out_has_the_functions_default() -> None:
    proto = with_functions(
        """g (float[N] x, bool c) => (float[N] y) { h = l.outer(x)  k = l.inner <alpha = 0.25> (h)
            y = If (c) <then_branch = t () => (float[N] p) { p = l.inner(k) },
                        else_branch = e () => (float[N] q) { q = Abs(k) }> }""",
        function("outer (x) => (y)", "y = l.inner(x)")
        + function("inner <alpha: float = 0.5> (x) => (y)", "y = LeakyRelu <alpha: float = @alpha> (x)"),
    )
    stored = proto.SerializeToString()
    feeds = {"x": np.array([-8.0, 4.0], np.float32), "c": np.array(True)}
    plain = onnxruntime.InferenceSession(stored).run(None, feeds)[0]
    assert plain.tolist() == [-0.5, 4.0]  # -8 * 0.5 * 0.25 * 0.5
    assert Session(load_model(proto).proto, folder=None, where="g").run(feeds)["y"].tolist() == plain.tolist()
    assert proto.SerializeToString() == stored


def test_functions_inside_bodies_are_inlined_too() -> None:
    text = """g (bool c, float[N] x) => (float[N] y) {
        y = If (c) <then_branch = t () => (float p) { p = l.f(x) }, else_branch = e () => (float q) { q = Abs(x) }>
    }"""
    model = load_model(with_functions(text, function("f (x) => (y)", "a = Relu(x)  y = Neg(a)")))
    assert [node.op_type for graph in model.graphs.values() for node in graph.nodes] == ["If", "Relu", "Neg", "Abs"]


def test_doubling_functions_of_a_bearable_size_are_inlined() -> None:
    assert len(load_model(doubling(10)).main.nodes) == 1024


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (function("f (x) => (y)", "y = l.f(x)"), "function 'f' calls itself: g"),
        (
            function("f (x) => (y)", "y = l.h(x)") + function("h (x) => (y)", "y = l.f(x)"),
            "function 'f' calls itself: g",
        ),
        (
            function(
                "f (x) => (y)",
                "c = Cast <to = 9> (x)  y = If (c) <then_branch = t () => (float p) { p = l.f(x) }, "
                "else_branch = e () => (float q) { q = Relu(x) }>",
            ),
            "function 'f' calls itself: g",
        ),
    ],
)
def test_recursive_functions_are_refused(functions: str, message: str) -> None:
    proto = with_functions("g (float[N] x) => (float[N] y) { y = l.f(x) }", functions)
    with pytest.raises(ModelError, match=f"^{message}$"):
        load_model(proto)


@pytest.mark.parametrize("levels", [20, 60, 90])
def test_functions_that_explode_are_refused(levels: int) -> None:
    with pytest.raises(ModelError, match=r"^local functions expand to more than 250,000 nodes: g$"):
        load_model(doubling(levels))


@pytest.mark.parametrize("first", [1, 3000], ids=["innermost first", "outermost first"])
def test_a_long_chain_of_functions_is_refused(first: int) -> None:
    chain = [function("f0 (x) => (y)", "y = Relu(x)")]
    chain += [function(f"f{level} (x) => (y)", f"y = l.f{level - 1}(x)") for level in range(1, 3001)]
    called = "".join(f"v{level} = l.f{level}(x)  " for level in range(0, 3000, 50)) if first == 1 else ""
    proto = with_functions(f"g (float[N] x) => (float[N] y) {{ {called} y = l.f3000(x) }}", "".join(chain))
    with pytest.raises(ModelError, match=r"^local functions call each other more than 100 deep: g$"):
        load_model(proto)


def test_a_large_constant_in_a_function_called_often_is_refused() -> None:
    proto = doubling(14)
    constant = onnx.numpy_helper.from_array(np.zeros(1 << 18, np.float32))
    proto.functions[0].node.append(onnx.helper.make_node("Constant", [], ["unused"], value=constant))
    with pytest.raises(ModelError, match=r"^local functions expand to more than 1,073,741,824 bytes: g$"):
        load_model(proto)


def test_a_large_tensor_handed_to_a_function_that_uses_it_often_is_refused() -> None:
    uses = "  ".join(f"c{i} = Constant <value: tensor = @t> ()" for i in range(2000))
    proto = with_functions(
        "g (float[N] x) => (float[N] y) { y = l.f(x) }", function("f <t> (x) => (y)", f"y = Relu(x)  {uses}")
    )
    tensor = onnx.numpy_helper.from_array(np.zeros(1 << 18, np.float32))
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("t", tensor))
    with pytest.raises(ModelError, match=r"^local functions expand to more than 1,073,741,824 bytes: g$"):
        load_model(proto)


def test_a_function_that_takes_a_graph_is_refused() -> None:
    proto = with_functions(
        "g (bool c, float[N] x) => (float[N] y) { y = l.f <body = b () => (float[N] z) { z = Relu(x) }> (c) }",
        function("f <body> (c) => (y)", "y = If <then_branch: graph = @body, else_branch: graph = @body> (c)"),
    )
    with pytest.raises(ModelError, match=r"^function 'f' takes a graph as an attribute: g$"):
        load_model(proto)


def test_functions_that_onnx_cannot_inline_are_refused_in_one_line() -> None:
    proto = with_functions(
        "g (float[N] x) => (float[N] y) { y = l.f(x, x, x) }", function("f (x) => (y)", "y = Relu(x)")
    )
    with pytest.raises(ModelError, match=r"^local functions cannot be inlined \(.+\): g$") as caught:
        load_model(proto)
    assert "\n" not in str(caught.value)
