"""One model in two forms: as it was written, and as onnxruntime's optimizer or an exporter spells the same."""

from __future__ import annotations

import pickle
import re

import numpy as np
import onnx
import onnxruntime
import pytest
from compared_models import DIGITS, INPUT, parsed
from onnx import numpy_helper

from onnxscope import check, diff, snapshot
from onnxscope.model.loading import load_model
from onnxscope.structure.standard_model import standard_model

RNG = np.random.default_rng(7)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CONV = {"w": normal(4, 3, 3, 3), "b": normal(4)}
NORM = {"scale": normal(4), "shift": normal(4), "mean": normal(4), "var": normal(4) ** 2 + np.float32(0.5)}
DENSE = {"m": normal(6, 6), "c": normal(6)}
LAYER_NORM = {"gamma": normal(6), "beta": normal(6)}
ROOT = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
GELU = "v = Div(u, root) e = Erf(v) f = Add(e, one) g = Mul(u, f) h = Mul(g, half)"
IMAGE, ROWS = "float[n, 3, 8, 8] x", "float[n, 5, 6] x"
# What the optimizer fuses: the input, the nodes, what is stored, and one stored tensor to change.
FUSED = {
    "BatchNormalization": (
        IMAGE,
        "a = Conv(x, w, b) n = BatchNormalization(a, scale, shift, mean, var) y = Relu(n)",
        CONV | NORM,
        "var",
    ),
    "BatchNormalization without a bias": (
        IMAGE,
        "a = Conv(x, w) n = BatchNormalization(a, scale, shift, mean, var) y = Tanh(n)",
        CONV | NORM,
        "shift",
    ),
    "Mul": (IMAGE, "a = Conv(x, w, b) n = Mul(a, k) y = Sigmoid(n)", CONV | {"k": normal(4, 1, 1)}, "k"),
    "Add": (IMAGE, "a = Conv(x, w, b) n = Add(a, k) y = Relu(n)", CONV | {"k": normal(4, 1, 1)}, "k"),
    "LeakyRelu": (IMAGE, "a = Conv(x, w, b) y = LeakyRelu<alpha = 0.3>(a)", CONV, "w"),
    "Clip": (
        IMAGE,
        "a = Conv(x, w, b) y = Clip(a, low, high)",
        CONV | {"low": np.float32(0), "high": np.float32(6)},
        "b",
    ),
    "HardSigmoid": (IMAGE, "a = Conv(x, w) y = HardSigmoid<alpha = 0.3, beta = 0.4>(a)", CONV, "w"),
    "a sum": (IMAGE, "z = Conv(x, w2) a = Conv(x, w, b) s = Add(a, z) y = Relu(s)", CONV | {"w2": CONV["w"] + 1}, "w2"),
    "Pad": (
        IMAGE,
        "p = Pad(x, pads) a = Conv<pads = [1, 0, 1, 0]>(p, w, b) y = Relu(a)",
        CONV | {"pads": np.array([0, 0, 1, 2, 0, 0, 1, 2])},
        "b",
    ),
    "MatMul": (ROWS, "a = MatMul(x, m) n = Add(a, c) y = Relu(n)", DENSE, "c"),
    "Gemm": ("float[n, 6] x", "a = MatMul(x, m) n = Add(a, c) y = Relu(n)", DENSE, "c"),
    "FusedGemm": ("float[n, 6] x", "a = Gemm(x, m, c) y = LeakyRelu<alpha = 0.2>(a)", DENSE, "m"),
    "Gelu": (ROWS, f"u = MatMul(x, m) {GELU} y = Neg(h)", DENSE | ROOT, "m"),
    "BiasGelu": (ROWS, f"a = MatMul(x, m) u = Add(a, c) {GELU} y = Neg(h)", DENSE | ROOT, "c"),
    "QuickGelu": (ROWS, "a = MatMul(x, m) s = Sigmoid(a) y = Mul(a, s)", DENSE, "m"),
    "LayerNormalization": (
        ROWS,
        "a = MatMul(x, m) y = LayerNormalization<epsilon = 0.001>(a, gamma, beta)",
        DENSE | LAYER_NORM,
        "gamma",
    ),
    "SkipLayerNormalization": (
        ROWS,
        "a = MatMul(x, m) n = Add(a, c) s = Add(n, x) y = LayerNormalization(s, gamma, beta)",
        DENSE | LAYER_NORM,
        "beta",
    ),
    "SkipLayerNormalization that is read twice": (
        ROWS,
        "a = MatMul(x, m) s = Add(a, x) l = LayerNormalization(s, gamma, beta) y = Add(l, s)",
        DENSE | LAYER_NORM,
        "gamma",
    ),
    "dropped nodes": (
        ROWS,
        "a = MatMul(x, m) i = Identity(a) d = Dropout(i) k = Add(one, half) y = Mul(d, k)",
        DENSE | ROOT,
        "m",
    ),
}
LEVELS = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}


def fused_model(name, opset=17):
    given, nodes, stored, _ = FUSED[name]
    used = {key: value for key, value in stored.items() if f"{key}," in nodes or f"{key})" in nodes}
    shape = {IMAGE: "n, 4, h, k", ROWS: "n, 5, 6"}.get(given, "n, 6")
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({given}) => (float[{shape}] y) {{ {nodes} }}'
    return parsed(text, **used)


def optimized(model, level, folder):
    """The copy that onnxruntime saves."""
    path = folder / f"{level}.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def data_for(model):
    sides = [side.dim_value or 3 for side in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(3).standard_normal(sides).astype(np.float32)}


def with_other(model, name):
    """A copy with one number of an initializer changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = (each for each in copy.graph.initializer if each.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[values.size // 2] += np.float32(0.01)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FUSED)
def test_a_model_and_its_optimized_copy_are_one_model(name, level, tmp_path):
    model = fused_model(name)
    copy, fed = optimized(model, level, tmp_path), data_for(model)
    assert diff(model, copy).equal
    assert diff(copy, model, fed).equal
    assert check(copy, snapshot(model)).findings == ()
    assert check(model, snapshot(copy, fed), fed).findings == ()
    changed = with_other(model, FUSED[name][-1])
    assert diff(changed, copy).verdict == "differs"
    assert diff(copy, changed, fed).verdict == "differs"
    assert not check(changed, snapshot(copy)).ok
    assert not check(copy, snapshot(changed, fed), fed).ok


TANGENT = "c = Pow(u, three) d = Mul(c, small) s = Add(u, d) k = Mul(s, wide) t = Tanh(k) f = Add(t, one) g = Mul(u, f)"


@pytest.mark.parametrize("level", LEVELS)
def test_a_factor_that_the_optimizer_moves_into_the_next_product_stays_with_its_function(level, tmp_path):
    nodes = f"u = MatMul(x, m) {TANGENT} h = Mul(g, half) y = MatMul(h, m)"
    numbers = {key: np.float32(value) for key, value in NUMBERS.items() if f"{key})" in nodes}
    model = parsed(
        f'<ir_version: 8, opset_import: ["": 17]> g ({ROWS}) => (float[n, 5, 6] y) {{ {nodes} }}',
        m=DENSE["m"],
        **numbers,
    )
    copy, fed = optimized(model, level, tmp_path), data_for(model)
    if level != "basic":
        (product,) = (node for node in copy.graph.node if node.op_type == "FusedMatMul")
        assert any(stored.name == "alpha" and stored.f == 0.5 for stored in product.attribute)
    for a, b in ((model, copy), (copy, model)):
        result = diff(a, b, fed)
        assert result.equal
        assert result.guilty == ()
        (expected,) = onnxruntime.InferenceSession(a.SerializeToString()).run(None, fed)
        changed = standard_model(load_model(a)).proto.SerializeToString()
        np.testing.assert_allclose(onnxruntime.InferenceSession(changed).run(None, fed)[0], expected, atol=1e-4)
    assert diff(model, with_other(copy, "m"), fed).verdict == "differs"


# Functions and normalizations that are spelled out, and what they are as one operator: operator set, nodes each.
SPELLED = {
    "Gelu": (20, "y = Gelu(x)", "v = Mul(x, inverse) e = Erf(v) f = Add(one, e) g = Mul(half, x) y = Mul(g, f)"),
    "Gelu by a tangent": (
        20,
        'y = Gelu<approximate = "tanh">(x)',
        "c = Pow(x, three) d = Mul(c, small) s = Add(x, d) k = Mul(s, wide) t = Tanh(k) f = Add(t, one) "
        "g = Mul(x, f) y = Mul(g, half)",
    ),
    "Gelu by a tangent, factored": (
        20,
        'y = Gelu<approximate = "tanh">(x)',
        "q = Mul(x, x) d = Mul(q, small) s = Add(one, d) v = Mul(x, wide) k = Mul(v, s) t = Tanh(k) f = Add(one, t) "
        "g = Mul(half, x) y = Mul(g, f)",
    ),
    "HardSwish": (14, "y = HardSwish(x)", "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)"),
    "HardSwish by a gate": (14, "y = HardSwish(x)", "g = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(g, x)"),
    "Mish": (18, "y = Mish(x)", "s = Softplus(x) t = Tanh(s) y = Mul(x, t)"),
    "LayerNormalization": (
        18,
        "y = LayerNormalization(x, gamma, beta)",
        "m = ReduceMean(x, last) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, last) e = Add(v, epsilon) "
        "r = Sqrt(e) n = Div(d, r) g = Mul(n, gamma) y = Add(g, beta)",
    ),
    "LayerNormalization by a product": (
        18,
        "y = LayerNormalization(x, gamma, beta)",
        "m = ReduceMean(x, place) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, place) e = Add(epsilon, v) "
        "r = Sqrt(e) i = Reciprocal(r) n = Mul(d, i) g = Mul(gamma, n) y = Add(beta, g)",
    ),
    "LayerNormalization without a shift": (
        17,
        "y = LayerNormalization(x, gamma)",
        "m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) k = Sub(x, m) q = Pow(k, two) v = ReduceMean<axes = [-1]>(q) "
        "e = Add(v, epsilon) r = Sqrt(e) n = Div(d, r) y = Mul(n, gamma)",
    ),
    "RMSNormalization": (
        23,
        "y = RMSNormalization(x, gamma)",
        "q = Pow(x, two) v = ReduceMean(q, last) e = Add(v, epsilon) r = Sqrt(e) i = Div(one, r) n = Mul(x, i) "
        "y = Mul(gamma, n)",
    ),
}
NUMBERS = {
    "one": 1,
    "two": 2,
    "three": 3,
    "six": 6,
    "zero": 0,
    "half": 0.5,
    "inverse": 0.5**0.5,
    "small": 0.044715,
    "wide": (2 / np.pi) ** 0.5,
    "epsilon": 1e-5,
}


def spelled(opset, nodes, **others):
    numbers = {name: np.float32(number) for name, number in NUMBERS.items()}
    stored = numbers | LAYER_NORM | {"last": np.array([-1]), "place": np.array([2])} | others
    text = f'<ir_version: 9, opset_import: ["": {opset}]> g ({ROWS}) => (float[n, 5, 6] y) {{ {nodes} }}'
    return parsed(text, **{name: value for name, value in stored.items() if re.search(rf"\b{name}[,)]", nodes)})


@pytest.mark.parametrize("name", SPELLED)
def test_what_is_spelled_out_and_the_operator_are_one(name):
    opset, operator, nodes = SPELLED[name]
    one, other = spelled(opset, operator), spelled(opset, nodes)
    fed = data_for(one)
    for first, second in ((one, other), (other, one)):
        result = diff(first, second)
        assert (result.verdict, result.structure, result.only_a, result.only_b) == ("equal", (), (), ())
        assert check(second, snapshot(first)).findings == ()
    result = diff(one, other, fed)
    assert result.equal
    assert len(result) == ("gamma" in nodes)
    numbers = [key for key in ("small", "half", "epsilon", "six", "three") if key in re.findall(r"\w+", nodes)]
    for key in numbers[:1]:
        changed = spelled(opset, nodes, **{key: np.float32(NUMBERS[key] * 1.25)})
        assert diff(one, changed).verdict == "differs"
        assert not check(changed, snapshot(one)).ok
    if "gamma" in nodes:
        changed = spelled(opset, nodes, gamma=LAYER_NORM["gamma"] + np.float32(1e-3))
        assert diff(one, changed).verdict == "differs"
        assert diff(one, changed, fed).verdict == "differs"


def operators_of(model):
    return [node.op_type for node in standard_model(load_model(model)).main.nodes if node.op_type != "Constant"]


def test_half_precision_stays_spelled_out():
    """There the square of what is normalized may overflow where the operator does not."""
    _, _, nodes = SPELLED["RMSNormalization"]
    model = spelled(18, nodes)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    assert operators_of(model) == [node.op_type for node in model.graph.node]


def test_a_mean_over_another_axis_is_no_normalization():
    opset, _, nodes = SPELLED["LayerNormalization by a product"]
    model = spelled(opset, nodes, place=np.array([1]))
    assert operators_of(model) == [node.op_type for node in model.graph.node]


def test_a_value_that_is_read_elsewhere_keeps_its_nodes():
    nodes = SPELLED["RMSNormalization"][-1]
    model = spelled(18, nodes.replace("y = Mul(gamma, n)", "z = Mul(gamma, n) y = Add(z, e)"))
    assert operators_of(model) == [node.op_type for node in model.graph.node]


def test_a_model_with_nothing_to_change_is_itself_and_another_travels(tmp_path):
    plain = load_model(spelled(18, "a = MatMul(x, m) y = Relu(a)", m=DENSE["m"]))
    assert standard_model(plain) is plain
    optimized(onnx.load(DIGITS), "extended", tmp_path)
    standard = standard_model(load_model(tmp_path / "extended.onnx"))
    assert "FusedConv" not in {node.op_type for node in standard.main.nodes}
    copy = pickle.loads(pickle.dumps(standard))
    assert [node.op_type for node in copy.main.nodes] == [node.op_type for node in standard.main.nodes]


def test_the_values_of_a_model_and_of_its_standard_form_are_the_same(tmp_path):
    optimized(onnx.load(DIGITS), "extended", tmp_path)
    standard = standard_model(load_model(tmp_path / "extended.onnx"))
    fed = {"digits": np.load(INPUT)["digits"]}
    answers = []
    for path in (DIGITS, tmp_path / "extended.onnx"):
        session = onnxruntime.InferenceSession(path)
        answers.append(session.run(None, fed)[0])
    np.testing.assert_allclose(*answers, atol=1e-4)
    assert diff(DIGITS, standard, INPUT).equal


def grouped(opset, groups=2, epsilon=0.01, **other):
    stored = {name: np.linspace(-1, 2, 6 if opset > 20 else groups).astype(np.float32) for name in ("s", "b", "t", "c")}
    text = f"""<ir_version: 10, opset_import: ["": {opset}]>
        g (float[n, 6, h, 4] x) => (float[n, 6, h, 4] y) {{
            a = GroupNormalization<num_groups = {groups}, epsilon = {epsilon}>(x, s, b)  r = Relu(a)
            d = GroupNormalization<num_groups = {groups}>(r, t, c)  y = Add(d, r)
        }}"""
    return parsed(text, **(stored | other))


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("inputs", [None, np.random.default_rng(2).standard_normal((2, 6, 5, 4)).astype(np.float32)])
def test_a_norm_over_groups_is_the_function_that_onnxruntime_saves_in_its_place(opset, inputs, tmp_path):
    model = grouped(opset)
    copy = optimized(model, "basic", tmp_path)
    assert "GroupNormalization" not in {node.op_type for node in copy.graph.node}
    kinds = {node.op_type for node in standard_model(load_model(copy)).proto.graph.node}
    assert kinds - {"Constant"} == {"GroupNormalization", "Relu", "Add"}
    baselines = snapshot(model, inputs), snapshot(copy, inputs)
    assert (diff(model, copy, inputs).verdict, diff(copy, model, inputs).verdict) == ("equal", "equal")
    assert check(copy, baselines[0], inputs).findings == check(model, baselines[1], inputs).findings == ()
    weights = {name: np.linspace(-1, 2.1, 6 if opset > 20 else 2).astype(np.float32) for name in ("s", "b", "t", "c")}
    changes = [{"epsilon": 0.03}, {"groups": 3} if opset > 20 else {"epsilon": 0.02}]
    for change in (*changes, *({name: weight} for name, weight in weights.items())):
        other = grouped(opset, **change)
        assert diff(copy, other, inputs).verdict == "differs"
        assert not check(copy, snapshot(other, inputs), inputs).ok


def test_what_only_looks_like_a_norm_over_groups_stays_as_it_is(tmp_path):
    copy = optimized(grouped(21), "basic", tmp_path)
    for op_type, place in (("Sub", 1), ("ReduceMean", 0), ("Div", 1)):
        other = onnx.ModelProto()
        other.CopyFrom(copy)
        node = [node for node in other.graph.node if node.op_type == op_type][place]
        other.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
        norms = [node for node in standard_model(load_model(other)).proto.graph.node if "Norm" in node.op_type]
        assert len(norms) == 1


ASKED = """<ir_version: 9, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y) {
    s = ReduceSum<keepdims = 0>(x)  z = Constant<value_float = 0.0>()  c = Greater(s, z)  n = Not(c)  k = Not(n)
    m = Cast<to = 9>(n)  l = Cast<to = 9>(m)
    y = If(ASKED) <then_branch = t () => (float[N, 4] u) { THEN }, else_branch = e () => (float[N, 4] v) { ELSE }> }"""
RELU, NEG = ("u = Relu(x)", "v = Relu(x)"), ("u = Neg(x)", "v = Neg(x)")
INNER = "w = If(n) <then_branch = t2 () => (float[N, 4] p) { p = Abs(x) }, else_branch = e2 () => (float[N, 4] q) "
INNER += "{ q = Exp(x) }> "
X4 = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)


def asked(condition, then, other):
    return parsed(ASKED.replace("ASKED", condition).replace("THEN", then).replace("ELSE", other))


def verdicts(a, b, inputs):
    """Of diff and check, without data and with it."""
    assert snapshot(a).nodes
    return [
        verdict for data in (None, inputs) for verdict in (diff(a, b, data).equal, check(b, snapshot(a, data), data).ok)
    ]


def test_an_if_that_asks_the_opposite_with_its_branches_exchanged_is_the_same():
    model = asked("c", RELU[0], NEG[1])
    for other in (asked("n", NEG[0], RELU[1]), asked("k", RELU[0], NEG[1]), asked("l", NEG[0], RELU[1])):
        assert verdicts(model, other, X4) == [True] * 4
        assert verdicts(other, model, X4) == [True] * 4
    nested = asked("n", INNER + "u = Add(w, x)", RELU[1])
    plain = asked(
        "c",
        RELU[0],
        INNER.replace("If(n)", "If(c)").replace("Abs", "?").replace("Exp", "Abs").replace("?", "Exp") + "v = Add(w, x)",
    )
    assert verdicts(nested, plain, -np.abs(X4)) == [True] * 4
    for other in (asked("n", RELU[0], NEG[1]), asked("c", NEG[0], RELU[1]), asked("k", NEG[0], RELU[1])):
        assert verdicts(model, other, X4) == [False] * 4
    assert not diff(nested, asked("c", RELU[0], INNER.replace("If(n)", "If(c)") + "v = Add(w, x)")).equal


@pytest.mark.parametrize(("one", "mirrored"), [("Greater", "Less"), ("GreaterOrEqual", "LessOrEqual")])
def test_a_comparison_with_its_operands_exchanged_is_the_same(one, mirrored):
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y) '
    text += "{ r = Relu(x) c = MADE y = Where(c, x, r) }"
    limits = np.float32([0.5, -0.5, 0.1, 0])

    def network(made):
        return parsed(text.replace("MADE", made), l=limits)

    model = network(f"{one}(x, l)")
    assert verdicts(model, network(f"{mirrored}(l, x)"), X4) == [True] * 4
    assert verdicts(network(f"{mirrored}(l, x)"), model, X4) == [True] * 4
    for other in (f"{mirrored}(x, l)", f"{one}(l, x)"):
        assert verdicts(model, network(other), X4) == [False] * 4
    fed = network(f"{one}(x, r)")
    assert diff(fed, network(f"{mirrored}(r, x)")).equal
    assert not diff(fed, network(f"{mirrored}(x, r)")).equal


@pytest.mark.parametrize("made", ["Sub", "Div", "Pow", "Concat<axis = 0>", "Where"])
def test_operands_that_change_places_are_found(made):
    """Though one of them is a weight, whose numbers stay the same."""
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[4, 4] x) => (float[P, 4] y) '
    text += "{ r = Exp(x) c = IsNaN(x) y = MADE }"
    constant = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    models = [
        parsed(text.replace("MADE", f"{made}({'c, ' if made == 'Where' else ''}{operands})"), k=constant)
        for operands in ("r, k", "k, r")
    ]
    assert verdicts(*models, np.vstack([X4, X4[:1]])) == [False] * 4


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax", "Hardmax"])
def test_a_softmax_between_a_transpose_and_the_one_that_undoes_it_needs_neither(kind):
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[2, 3, 4] x) => (float[2, 3, 4] y) '
    text += "{ r = Relu(x) NODES n = Neg(s) y = Exp(n) }"

    def network(nodes):
        return parsed(text.replace("NODES", nodes))

    turned = f"a = Transpose<perm = [2, 0, 1]>(r) b = {kind}<axis = AXIS>(a) s = Transpose<perm = [1, 2, 0]>(b)"
    data = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    for axis, plain in ((0, 2), (-1, 1), (1, 0)):
        model = network(turned.replace("AXIS", f"{axis}"))
        assert verdicts(model, network(f"s = {kind}<axis = {plain}>(r)"), data) == [True] * 4
        assert diff(model, network(f"s = {kind}<axis = {(plain + 1) % 3}>(r)"), data).verdict == "differs"
        assert not diff(model, network(f"s = {kind}<axis = {(plain + 1) % 3}>(r)")).equal
    other = network(turned.replace("AXIS", "0").replace("[1, 2, 0]", "[1, 0, 2]").replace("g (", "g ("))
    assert not diff(network(turned.replace("AXIS", "0")), other).equal


def test_a_norm_over_groups_with_a_scale_that_is_fed_is_its_function_too(tmp_path):
    text = """<ir_version: 10, opset_import: ["": 21]>
        g (float[2, 4, 3, 3] x, float[4] s, float[4] b) => (float[2, 4, 3, 3] y) {
            y = GroupNormalization<num_groups = GROUPS>(x, s, b) }"""
    models = [parsed(text.replace("GROUPS", groups)) for groups in ("2", "4")]
    copies = [optimized(model, "basic", tmp_path) for model in models]
    assert "GroupNormalization" not in {node.op_type for node in copies[0].graph.node}
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 4, 3, 3), "s": (4,), "b": (4,)}
    data = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    assert verdicts(models[0], copies[0], data) == [True] * 4
    assert verdicts(models[0], copies[1], data) == [False] * 4


def test_a_transpose_that_names_no_order_is_known_by_its_rank():
    row = '<ir_version: 9, opset_import: ["": 17]> g (float[4] x) => (float[4] y) { NODES }'
    plain, turned = (parsed(row.replace("NODES", nodes)) for nodes in ("y = Relu(x)", "t = Transpose(x) y = Relu(t)"))
    assert verdicts(plain, turned, X4[0]) == [True] * 4
    table = '<ir_version: 9, opset_import: ["": 17]> g (float[3, 4] x) => (float[P] y) { NODES }'
    sides = [
        "t = Transpose(x) y = ReduceMax<axes = [0], keepdims = 0>(t)",
        "y = ReduceMax<axes = [1], keepdims = 0>(x)",
    ]
    a, b, c = (
        parsed(table.replace("NODES", nodes)) for nodes in (*sides, "y = ReduceMax<axes = [0], keepdims = 0>(x)")
    )
    assert verdicts(a, b, X4) == [True] * 4
    assert verdicts(a, c, X4) == [False] * 4


@pytest.mark.parametrize(
    ("nodes", "plain", "other"),
    [
        (
            "c = IsNaN(x) n = Not(c) y = Where(n, x, r)",
            "c = IsNaN(x) y = Where(c, r, x)",
            "c = IsNaN(x) y = Where(c, x, r)",
        ),
        ("a = Neg(r) b = Neg(a) y = Exp(b)", "y = Exp(r)", "a = Neg(r) y = Exp(a)"),
        ("a = Concat<axis = 0>(r) y = Exp(a)", "y = Exp(r)", "y = Abs(r)"),
        ("a = Max(r) b = Sum(a) y = Exp(b)", "y = Exp(r)", "y = Abs(r)"),
        ("y = Sum(x, r)", "y = Add(x, r)", "y = Add(x, x)"),
        (
            "a = Transpose<perm = [1, 0]>(r) b = Transpose(a) y = Exp(b)",
            "y = Exp(r)",
            "a = Transpose<perm = [0, 1]>(r) b = Transpose(a) y = Exp(b)",
        ),
    ],
)
def test_what_undoes_itself_or_has_one_operand_does_nothing(nodes, plain, other):
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[4, 4] x) => (float[4, 4] y) { r = Relu(x) NODES }'
    a, b, c = (parsed(text.replace("NODES", body)) for body in (nodes, plain, other))
    data = np.vstack([X4, X4[:1]])
    assert verdicts(a, b, data) == [True] * 4
    assert verdicts(a, c, data) == [False] * 4
