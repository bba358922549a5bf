"""Where a layer ends, and where the activation function that follows it ends."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxscope.model.activation_functions import activation_after, following, is_activation, own_output
from onnxscope.model.loading import load_model

SCALARS = {"half": 0.5, "one": 1.0, "three": 3.0, "six": 6.0, "zero": 0.0, "root2": 1.4142, "cubic": 0.044715}
VECTORS = {"bias": [1, 2, 3], "slope": [0.1, 0.2, 0.3], "mean": [0, 0, 0], "scale": [1, 1, 1], "lone": [0.25]}
CODES = {"qs": np.float32(0.05), "qz": np.uint8(128)}


def graph_of(nodes, *, layer="a = MatMul(x, w)", outputs="float[N, 3] y", opset=20):
    """A layer `a` followed by some nodes, with every constant at hand that they read."""
    text = f"""<ir_version: 9, opset_import: ["": {opset}, "com.microsoft": 1]>
        g (float[N, 3] x, float[N, 3] other) => ({outputs}) {{ {layer} {nodes} }}"""
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    constants = {**SCALARS, **VECTORS, "w": np.eye(3), "kernel": np.ones((3, 3, 1)), "axis": None}
    for name, values in constants.items():
        if name in used:
            array = np.asarray([0]) if values is None else np.asarray(values, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in CODES.items() if name in used
    )
    return load_model(model).main


@pytest.mark.parametrize(
    "activation",
    [
        *("Relu(a)", "LeakyRelu<alpha=0.2>(a)", "PRelu(a, slope)", "PRelu(a, lone)", "Clip(a, zero, six)"),
        *("Sigmoid(a)", "Tanh(a)", "HardSwish(a)", "HardSigmoid(a)", "Mish(a)", "Gelu(a)", "Elu(a)", "Selu(a)"),
        *("Celu(a)", "Softplus(a)", "Softsign(a)", "ThresholdedRelu(a)", "Softmax(a)", "com.microsoft.QuickGelu(a)"),
    ],
)
def test_an_activation_of_one_operator_follows_its_layer(activation):
    graph = graph_of(f"h = {activation} y = MatMul(h, w)")
    assert activation_after(graph, "a") == "h"
    assert is_activation(graph.producers["h"])
    assert not is_activation(graph.producers["a"])


WRITTEN = [
    ("silu", "s = Sigmoid(a) h = Mul(a, s)"),
    ("silu, the other way round", "s = Sigmoid(a) h = Mul(s, a)"),
    ("hard swish", "p = Add(a, three) c = Clip(p, zero, six) m = Mul(a, c) h = Div(m, six)"),
    ("hard swish by HardSigmoid", "s = HardSigmoid(a) h = Mul(a, s)"),
    (
        "relu6 as Max and Min in hard swish",
        "p = Add(a, three) z = Max(p, zero) c = Min(z, six) m = Mul(c, a) h = Div(m, six)",
    ),
    (
        "gelu with its half in the gate",
        "d = Div(a, root2) e = Erf(d) p = Add(e, one) g = Mul(p, half) h = Mul(a, g)",
    ),
    ("Keras's PReLU", "p = Relu(a) n = Neg(a) r = Relu(n) m = Mul(slope, r) h = Sub(p, m)"),
    ("tanhshrink", "t = Tanh(a) h = Sub(a, t)"),
    ("snake", "t = Sin(a) q = Mul(t, t) h = Add(a, q)"),
    ("mish", "p = Softplus(a) t = Tanh(p) h = Mul(a, t)"),
    ("gelu by Erf", "d = Div(a, root2) e = Erf(d) p = Add(e, one) m = Mul(a, p) h = Mul(m, half)"),
    ("gelu by Erf, half first", "d = Div(a, root2) e = Erf(d) p = Add(e, one) f = Mul(a, half) h = Mul(f, p)"),
    (
        "gelu by Tanh",
        """q = Pow(a, three) c = Mul(q, cubic) s = Add(a, c) r = Mul(s, half) t = Tanh(r) p = Add(t, one)
           m = Mul(a, p) h = Mul(m, half)""",
    ),
    (
        "gelu by Tanh, cube by two products",
        """q = Mul(a, a) k = Mul(q, a) c = Mul(k, cubic) s = Add(a, c) r = Mul(s, half) t = Tanh(r)
           p = Add(t, one) f = Mul(a, half) h = Mul(f, p)""",
    ),
]
"""Activation functions in several operators, with a name for the reader."""


@pytest.mark.parametrize(("name", "nodes"), WRITTEN)
def test_an_activation_written_out_counts_as_one(name, nodes):
    assert activation_after(graph_of(f"{nodes} y = MatMul(h, w)"), "a") == "h"


def with_pairs(text, first, second):
    """A pair of operators behind every node but the last, or one alone where the other is there already."""
    scaled = ", qs, qz" if first == "QuantizeLinear" else ""
    given, back = ("", "") if scaled else ("<to = 10>", "<to = 1>")
    nodes = re.findall(r"(\w+) = (\w+\([^)]*\))", text)
    lines = [f"a_q = {first}{given}(a{scaled}) a_d = {second}{back}(a_q{scaled})"]
    for output, call in nodes[:-1]:
        read = re.sub(
            r"[\w]+(?=[,)])", lambda found: f"{found[0]}_d" if f" {found[0]} =" in f" a = {text}" else found[0], call
        )
        lines += [f"{output} = {read}", f"{output}_q = {first}{given}({output}{scaled})"]
        lines += [f"{output}_d = {second}{back}({output}_q{scaled})"]
    output, call = nodes[-1]
    read = re.sub(
        r"[\w]+(?=[,)])", lambda found: f"{found[0]}_d" if f" {found[0]} =" in f" a = {text}" else found[0], call
    )
    return " ".join([*lines, f"{output} = {read}"])


@pytest.mark.parametrize("pair", [("QuantizeLinear", "DequantizeLinear"), ("Cast", "Cast")])
@pytest.mark.parametrize(("name", "nodes"), WRITTEN)
def test_an_activation_written_out_counts_as_one_with_rounding_in_between(name, nodes, pair):
    spelled = with_pairs(nodes, *pair)
    assert spelled.count(pair[0]) >= 2
    assert activation_after(graph_of(f"{spelled} y = MatMul(h, w)"), "a") == "h"


def test_rounding_in_between_does_not_make_a_skipped_connection_an_activation():
    nodes = with_pairs("r = Relu(a) h = Add(r, a)", "QuantizeLinear", "DequantizeLinear")
    assert activation_after(graph_of(f"{nodes} y = MatMul(h, w)"), "a") is None


def test_a_scale_that_is_computed_when_the_model_runs_is_no_part_of_an_activation():
    nodes = "s = Sigmoid(a) q, by, off = DynamicQuantizeLinear(s) d = DequantizeLinear(q, by, off) h = Mul(a, d)"
    assert activation_after(graph_of(f"{nodes} y = MatMul(h, w)"), "a") is None


@pytest.mark.parametrize("name", ["BiasGelu", "FastGelu"])
def test_a_fused_gelu_with_its_bias_follows_its_layer(name):
    assert activation_after(graph_of(f"h = com.microsoft.{name}(a, bias) y = MatMul(h, w)"), "a") == "h"


def test_a_sigmoid_that_is_read_alone_is_the_activation():
    assert activation_after(graph_of("h = Sigmoid(a) y = Mul(h, other)"), "a") == "h"


@pytest.mark.parametrize(
    "nodes",
    [
        "y = MatMul(a, w)",
        "h = Relu(a) y = Add(h, a)",
        "s = Sigmoid(a) m = Mul(a, s) y = Add(a, m)",
        "h = Relu(a) r = MatMul(a, w) y = Add(h, r)",
        "s = Add(a, other) y = Relu(s)",
        "s = Mul(a, other) y = Relu(s)",
        "f = Flatten(a) y = Relu(f)",
        "y = Identity(a)",
        "p = ReduceSum(a, axis) y = Relu(p)",
        "s = Sigmoid(a) m = Mul(a, s) n = MatMul(a, w) y = Add(m, n)",
        "h = com.microsoft.Transpose(a) y = Relu(h)",
        "s = Sigmoid(a) m = Mul(s, other) y = Add(m, a)",
    ],
)
def test_no_activation_follows(nodes):
    assert activation_after(graph_of(nodes), "a") is None


@pytest.mark.parametrize(
    "nodes",
    [
        "h = Relu(a) s = Mul(h, half)",
        "g = Sigmoid(a) h = Mul(a, g) s = Mul(h, half)",
        "d = Div(a, root2) e = Erf(d) p = Add(e, one) f = Mul(a, half) h = Mul(f, p) s = Mul(h, half)",
        "p = Add(a, three) c = Clip(p, zero, six) h = Mul(a, c) s = Mul(h, scale)",
        "p = Add(a, three) c = Clip(p, zero, six) h = Mul(a, c) s = Mul(h, other)",
        "p = Add(a, three) c = Clip(p, zero, six) h = Mul(a, c) s = Add(h, half)",
        "p = Add(a, three) c = Clip(p, zero, six) h = Mul(a, c) r = Div(h, six) s = Add(h, r)",
    ],
)
def test_a_factor_behind_a_whole_activation_is_no_part_of_it(nodes):
    assert activation_after(graph_of(f"{nodes} y = MatMul(s, w)"), "a") == "h"


@pytest.mark.parametrize(
    "nodes",
    [
        "h = Relu(a) y = Sigmoid(a)",
        "y = Sigmoid(a) h = Relu(a)",
        "h = Neg(a) y = Relu(a)",
        "h = Relu(a) s = Sigmoid(a) y = Mul(a, s)",
    ],
)
def test_of_two_functions_of_one_value_neither_is_its_activation(nodes):
    graph = graph_of(nodes, outputs="float[N, 3] y, float[N, 3] h")
    assert activation_after(graph, "a") is None


def test_an_activation_that_is_a_declared_output_still_follows():
    assert activation_after(graph_of("y = Relu(a)"), "a") == "y"


def test_a_value_read_inside_a_body_has_that_reader_too():
    graph = graph_of(
        """y = Relu(a)
        z = If(b) <then_branch = t () => (float[N, 3] p) { p = Neg(a) },
                   else_branch = e () => (float[N, 3] q) { q = Abs(other) }>""",
        layer="b = Constant<value=bool {1}>() a = MatMul(x, w)",
        outputs="float[N, 3] y, float[N, 3] z",
    )
    assert activation_after(graph, "a") is None


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ("b = BatchNormalization(a, scale, bias, mean, scale) h = Relu(b)", 20),
        ("t = Transpose<perm=[0, 2, 1]>(a) h = Relu(t)", 20),
        ("t = Transpose<perm=[0, 2, 1]>(a) s = Add(t, bias) h = Relu(s)", 20),
        ("s = Add(bias, a) h = Relu(s)", 20),
        ("m = Mul(a, scale) s = Sub(m, bias) h = Relu(s)", 20),
        ("q = QuantizeLinear(a, half) d = DequantizeLinear(q, half) h = Relu(d)", 20),
        ("s = Add(a, bias) b = BatchNormalization(s, scale, bias, mean, scale) g = Sigmoid(b) h = Mul(b, g)", 20),
        ("c = Cast<to=1>(a) i = Identity(c) h = Relu(i)", 20),
    ],
)
def test_bias_norm_layout_and_quantization_are_looked_through(nodes, opset):
    assert activation_after(graph_of(f"{nodes} y = MatMul(h, w)", opset=opset), "a") == "h"


def test_a_nonlinearity_after_the_bias_is_only_looked_for_behind_single_readers():
    graph = graph_of("s = Add(a, bias) h = Relu(s) y = Add(h, s)")
    assert activation_after(graph, "a") is None


@pytest.mark.parametrize("layer", ["a = MatMul(x, w)", "a = Conv(x, kernel)", "a = Gemm(x, w)"])
def test_a_bias_of_its_own_belongs_to_the_layer(layer):
    graph = graph_of("s = Add(a, bias) y = Relu(s)", layer=layer)
    assert own_output(graph, graph.producers["a"]) == "s"


def test_the_bias_may_stand_behind_a_transpose_and_on_either_side():
    graph = graph_of("t = Transpose<perm=[0, 2, 1]>(a) s = Add(bias, t) y = Relu(s)")
    assert own_output(graph, graph.producers["a"]) == "s"


@pytest.mark.parametrize(
    ("layer", "nodes"),
    [
        ("a = MatMul(x, w)", "s = Add(a, other) y = Relu(s)"),
        ("a = MatMul(x, w)", "s = Add(a, one) y = Relu(s)"),
        ("a = MatMul(x, w)", "s = Add(a, lone) y = Relu(s)"),
        ("a = MatMul(x, w)", "s = Add(a, bias) y = Add(s, a)"),
        ("a = MatMul(x, w)", "s = Add(a, a) y = Relu(s)"),
        ("a = MatMul(x, w)", "r = Relu(a) y = Add(r, bias)"),
        ("a = MatMul(x, w)", "s = Mul(a, scale) y = Relu(s)"),
        ("a = Conv(x, kernel, bias)", "s = Add(a, bias) y = Relu(s)"),
        ("a = Gemm(x, w, bias)", "s = Add(a, bias) y = Relu(s)"),
        ("a = MatMul(x, w)", "s = com.microsoft.Add(a, bias) y = Relu(s)"),
        ("y = MatMul(x, w) a = Neg(other)", "z = Neg(a)"),
    ],
)
def test_other_additions_are_no_bias(layer, nodes):
    outputs = "float[N, 3] y, float[N, 3] z" if "z =" in nodes else "float[N, 3] y"
    graph = graph_of(nodes, layer=layer, outputs=outputs)
    layer_node = graph.nodes[0]
    assert own_output(graph, layer_node) == layer_node.outputs[0]


def test_a_computed_bias_counts_by_the_size_of_what_it_comes_from():
    graph = graph_of("v = Mul(bias, half) s = Add(a, v) y = Relu(s)")
    assert own_output(graph, graph.producers["a"]) == "s"
    graph = graph_of("v = Mul(one, half) s = Add(a, v) y = Relu(s)")
    assert own_output(graph, graph.producers["a"]) == "a"


def test_the_keras_way_conv_transpose_add_relu():
    graph = graph_of(
        "n = Transpose<perm=[0, 2, 1]>(a) s = Add(n, bias) h = Relu(s) y = MatMul(h, w)",
        layer="t = Transpose<perm=[0, 2, 1]>(x) a = Conv(t, kernel)",
    )
    assert own_output(graph, graph.producers["a"]) == "s"
    assert activation_after(graph, "a") == "h"


def test_a_declared_output_between_bias_and_layer_changes_nothing():
    graph = graph_of("s = Add(a, bias) y = Relu(s)", outputs="float[N, 3] y, float[N, 3] a")
    assert own_output(graph, graph.producers["a"]) == "s"


def test_behind_codes_that_several_nodes_read_nothing_belongs_to_the_layer():
    """Of Gelu in codes the factor within it is none behind the layer: another node reads the same codes."""
    made = "aq = com.microsoft.QLinearAdd(codes, qs, qz, codes, qs, qz, qs, qz) f = DequantizeLinear(aq, qs, qz)"
    gated = "m = com.microsoft.QLinearMul(aq, qs, qz, codes, qs, qz, qs, qz) g = DequantizeLinear(m, qs, qz)"
    graph = graph_of(
        f"{made} d = Div(f, root2) e = Erf(d) {gated} y = Add(e, g)", layer="codes = QuantizeLinear(x, qs, qz)"
    )
    node = next(node for node in graph.nodes if node.op_type == "QLinearAdd")
    inner, parts = following(graph, node)
    assert (inner, [part.op_type for part in parts]) == ("f", ["DequantizeLinear"])
    assert activation_after(graph, "aq") is None
