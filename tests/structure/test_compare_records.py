"""Every node, without data: what is not the same is told at its own node, and what means the same is not told."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from compared_models import DEPLOYED, DIGITS, parsed
from onnx import TensorProto, helper

from onnxscope import diff
from onnxscope.cli.main import run

W = np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3) / 36
CHAIN = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 1, 8, 8] x) => (float[batch, 4] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w)
        act = LeakyRelu<alpha = 0.1>(c)
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(act)
        r = Resize<mode = "nearest">(p, , scales)
        g = Mul(r, gain)
        m = GlobalAveragePool(g)
        f = Flatten(m)
        y = Softmax<axis = 1>(f)
    }"""
STORED = {"w": W, "scales": np.array([1, 1, 2, 2], np.float32), "gain": np.array(2, np.float32)}


def messages(a, b, given=None):
    return [change.message for change in diff(a, b, given).structure]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("alpha = 0.1", "alpha = 0.3", "LeakyRelu(act): alpha 0.1 became 0.3"),
        ("kernel_shape = [2, 2]", "kernel_shape = [1, 1]", "MaxPool(p): kernel_shape [2, 2] became [1, 1]"),
        ('mode = "nearest"', 'mode = "linear"', "Resize(r): mode by default became linear"),
        ("axis = 1>(f)", "axis = 0>(f)", "Softmax(y): axis by default became 0"),
        ("LeakyRelu<alpha = 0.1>(c)", "Relu(c)", "LeakyRelu(act) became Relu"),
        ("MaxPool<", "AveragePool<", "MaxPool(p) became AveragePool"),
        ("m = GlobalAveragePool(g)", "n = Neg(g) m = GlobalAveragePool(n)", "Neg(n) is only in the second model"),
    ],
)
def test_a_change_is_told_at_its_own_node(old, new, message):
    assert old in CHAIN
    changed = parsed(CHAIN.replace(old, new), **STORED)
    model = parsed(CHAIN, **STORED)
    result = diff(model, changed)
    assert not result.equal
    (only,) = result.structure
    assert message in only.message
    assert only.layer == "Conv_0"
    assert diff(model, model).structure == ()


def test_a_constant_is_told_where_it_is_read(tmp_path, capsys):
    model, changed = (parsed(CHAIN, **STORED | {"gain": np.array(gain, np.float32)}) for gain in (2, 3))
    assert messages(model, changed) == ["Mul Mul(g): constant 0 float32 2.0 became float32 3.0"]
    for name, proto in (("a", model), ("b", changed)):
        (tmp_path / name).write_bytes(proto.SerializeToString())
    assert run(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--weights-only"]) == 1
    assert "float32 2.0 became float32 3.0" in capsys.readouterr().out
    assert run(["diff", str(tmp_path / "a"), str(tmp_path / "a"), "--weights-only"]) == 0


def test_a_swapped_operand_is_told_and_an_order_that_says_nothing_is_not():
    text = """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[2] x, float[2] z) => (float[2] y) { a = Neg(x) b = Exp(z) y = %s }"""
    sub, swapped = (onnx.parser.parse_model(text % form) for form in ("Sub(a, b)", "Sub(b, a)"))
    assert messages(sub, swapped) == [
        "Sub Sub(y): A came from Neg, and comes from Exp",
        "Sub Sub(y): B came from Exp, and comes from Neg",
    ]
    add, other = (onnx.parser.parse_model(text % form) for form in ("Add(a, b)", "Add(b, a)"))
    assert messages(add, other) == []


def test_coefficients_in_attributes_are_compared():
    def model(coefficient):
        node = helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=[0.5, coefficient, *([0.25] * 30)],
            intercepts=[0.0, 1.0],
            classlabels_ints=[0, 1],
        )
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])
        label = helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(
            helper.make_graph([node], "g", [x], [label, scores]), opset_imports=opsets, ir_version=9
        )

    (message,) = messages(model(0.5), model(0.75))
    assert message.startswith("ai.onnx.ml.LinearClassifier LinearClassifier(label): coefficients 32 values (")
    assert ") became 32 values (" in message
    assert diff(model(0.5), model(0.5)).equal


def renamed_and_reversed(model):
    """A copy in which every value has another name, and the nodes are stored in another valid order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = {value.name for value in (*copy.graph.input, *copy.graph.output)}
    for node in copy.graph.node:
        node.input[:] = [name if name in kept or not name else f"other_{name}" for name in node.input]
        node.output[:] = [name if name in kept or not name else f"other_{name}" for name in node.output]
        node.name = ""
    for tensor in copy.graph.initializer:
        tensor.name = f"other_{tensor.name}"
    del copy.graph.value_info[:]
    nodes = list(copy.graph.node)
    ordered, ready = [], kept | {tensor.name for tensor in copy.graph.initializer} | {""}
    while nodes:
        node = next(node for node in reversed(nodes) if set(node.input) <= ready)
        nodes.remove(node)
        ordered.append(node)
        ready |= set(node.output)
    del copy.graph.node[:]
    copy.graph.node.extend(ordered)
    return copy


@pytest.mark.parametrize("path", [DIGITS, DEPLOYED])
def test_names_and_order_are_no_change(path):
    model = onnx.load(path)
    assert messages(model, renamed_and_reversed(model)) == []


MEANS_THE_SAME = {
    "a default written out": (18, "y = LeakyRelu(x)", "y = LeakyRelu<alpha = 0.01>(x)"),
    "strides": (
        18,
        "y = MaxPool<kernel_shape = [1, 1]>(x)",
        "y = MaxPool<kernel_shape = [1, 1], strides = [1, 1]>(x)",
    ),
    "Identity": (18, "a = Exp(x) y = Neg(a)", "a = Exp(x) b = Identity(a) y = Neg(b)"),
    "Dropout": (18, "y = Neg(x)", "a = Dropout(x) y = Neg(a)"),
    "a folded constant": (18, "y = Mul(x, four)", "two = Add(one, one) f = Mul(two, two) y = Mul(x, f)"),
    "a Constant": (18, "y = Mul(x, four)", "f = Constant<value_float = 4.0>() y = Mul(x, f)"),
    "a constant in another shape": (
        18,
        "f = Constant<value_floats = [4.0]>() y = Mul(x, f)",
        "one_side = Constant<value_ints = [-1]>() f = Reshape(four, one_side) y = Mul(x, f)",
    ),
    "a shape in another shape": (
        18,
        "s = Constant<value_ints = [1, 1, 2, 8]>() y = Reshape(x, s)",
        "s = Constant<value_ints = [1, 1, 2, 8]>() "
        "k = Constant<value_ints = [-1]>() r = Reshape(s, k) y = Reshape(x, r)",
    ),
    "Cast to the same type": (18, "y = Neg(x)", "a = Cast<to = 1>(x) y = Neg(a)"),
    "Cast to the same type in a body": (
        18,
        "k = Size(x) t = Cast<to = 9>(k) e = Abs(x) y = If(t) <"
        "then_branch = g () => (float[1, 1, 4, 4] p) { p = Neg(e) }, "
        "else_branch = h () => (float[1, 1, 4, 4] q) { q = Exp(e) }>",
        "k = Size(x) t = Cast<to = 9>(k) e = Abs(x) y = If(t) <"
        "then_branch = g () => (float[1, 1, 4, 4] p) { r = Cast<to = 1>(e) p = Neg(r) }, "
        "else_branch = h () => (float[1, 1, 4, 4] q) { s = Exp(e) q = Cast<to = 1>(s) }>",
    ),
}


@pytest.mark.parametrize("name", MEANS_THE_SAME)
def test_what_means_the_same_is_no_change(name):
    opset, *texts = MEANS_THE_SAME[name]
    models = [
        parsed(
            f'<ir_version: 9, opset_import: ["": {opset}]> g (float[1, 1, 4, 4] x) => (float[1, 1, 4, n] y) '
            f"{{ {text} }}",
            one=np.array(1, np.float32),
            four=np.array(4, np.float32),
        )
        for text in texts
    ]
    assert messages(*models) == []
    assert diff(*models).equal
    assert diff(models[1], models[0]).equal


OPSETS = {
    "Squeeze": ((11, "y = Squeeze<axes = [0]>(x)"), (13, "y = Squeeze(x, zero)")),
    "Unsqueeze": ((11, "y = Unsqueeze<axes = [0]>(x)"), (13, "y = Unsqueeze(x, zero)")),
    "Clip": ((6, "y = Clip<min = 0.0>(x)"), (13, "y = Clip(x, low)")),
    "ReduceSum": ((11, "y = ReduceSum<axes = [0]>(x)"), (13, "y = ReduceSum(x, zero)")),
    "Slice": ((9, "y = Slice<axes = [0], starts = [0], ends = [1]>(x)"), (13, "y = Slice(x, zero, one, zero)")),
    "Pad": ((10, "y = Pad<pads = [0, 0, 1, 1]>(x)"), (13, "y = Pad(x, pads)")),
    "TopK": ((9, "y, i = TopK<k = 1>(x)"), (11, "y, i = TopK(x, one)")),
}


@pytest.mark.parametrize("name", OPSETS)
def test_the_spellings_of_two_operator_sets_are_no_change(name):
    models = [
        parsed(
            f'<ir_version: 9, opset_import: ["": {opset}]> g (float[1, 4] x) => (y) {{ {text} }}',
            zero=np.array([0]),
            one=np.array([1]),
            pads=np.array([0, 0, 1, 1]),
            low=np.array(0, np.float32),
        )
        for opset, text in OPSETS[name]
    ]
    assert messages(*models) == []
    opset, text = OPSETS[name][1]
    other = parsed(
        f'<ir_version: 9, opset_import: ["": {opset}]> g (float[1, 4] x) => (y) {{ {text} }}',
        zero=np.array([1]),
        one=np.array([2]),
        pads=np.array([0, 0, 1, 2]),
        low=np.array(1, np.float32),
    )
    assert len(messages(models[0], other)) >= 1


def test_bodies_are_paired_by_their_attribute_and_not_by_its_place():
    branches = (
        "then_branch = t () => (float[2] a) { a = LeakyRelu<alpha = %s>(x) }",
        ("else_branch = e () => (float[2] b) { b = Elu<alpha = 0.5>(x) }"),
    )
    text = '<ir_version: 9, opset_import: ["": 18]> g (bool c, float[2] x) => (float[2] y) {{ y = If(c) <{}, {}> }}'
    then = branches[0] % "0.1"
    model = onnx.parser.parse_model(text.format(then, branches[1]))
    swapped = onnx.parser.parse_model(text.format(branches[1], then))
    assert messages(model, swapped) == []
    changed = onnx.parser.parse_model(text.format(branches[1], branches[0] % "0.3"))
    (message,) = messages(model, changed)
    assert "alpha 0.1 became 0.3" in message


def test_a_number_that_reaches_its_reader_through_a_cast_is_guarded():
    text = """
        <ir_version: 9, opset_import: ["": 18]>
        g (int64[n] ids) => (float[n, 4] y) {
            f = Cast<to = 1>(table) t = Mul(f, scale) y = Gather(t, ids) }"""
    table = np.arange(400, dtype=np.int8).reshape(100, 4)
    changed = table.copy()
    changed[50, 2] += 1
    models = [parsed(text, table=rows, scale=np.array(0.5, np.float32)) for rows in (table, changed)]
    assert not diff(*models).equal
    assert diff(models[0], models[0]).equal


def test_a_tensor_of_another_type_or_shape_is_told():
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[4] x) => (float[4] y) { y = Sub(x, c) }'
    one, row = (parsed(text, c=value) for value in (np.float32(1) * np.ones(1, "f"), np.ones(4, "f")))
    assert messages(one, row) == ["Sub Sub(y): B float32[1] 1.0 became float32[4] 1.0 1.0 1.0 1.0"]


@pytest.mark.parametrize("given", [None, np.ones((2, 3, 4), np.float32)])
def test_nodes_that_compute_sizes_are_told_last_and_in_one_line(given):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[b, s, 4] x) => (float[b, s, 4] y) {{ {} }}'
    sizes = (
        "all = Shape(x) one = Gather<axis = 0>(all, zero) two = Gather<axis = 0>(all, first) "
        "n = Unsqueeze(one, zeros) m = Unsqueeze(two, zeros) to = Concat<axis = 0>(n, m, last) r = Reshape(x, to) "
    )
    stored = {"zero": np.int64(0), "first": np.int64(1), "zeros": np.array([0]), "last": np.array([4])}
    computed = parsed(text.format(f"{sizes} y = Relu(r)"), **stored)
    plain = parsed(text.format("r = Reshape(x, to) y = Abs(r)"), to=np.array([0, -1, 4]))
    for first, second, where in ((computed, plain, "first"), (plain, computed, "second")):
        told = messages(first, second, given)
        assert told[-1] == f"6 nodes that compute sizes are only in the {where} model"
        assert any("Relu" in message and "Abs" in message for message in told[:-1])
        assert not any("Gather" in message or "Concat" in message for message in told)
