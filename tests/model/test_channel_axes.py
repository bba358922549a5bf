"""Channel axes of activations and of weights, by hand and by changing one channel and seeing what moves."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from onnxscope.model.channel_axes import default_axis, weight_axis
from onnxscope.model.loading import load_model
from onnxscope.runtime.session import Session

RNG = np.random.default_rng(11)


def axes_of(body, **shapes):
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {body}')
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return dict(load_model(model).channel_axes(()))


def test_a_transpose_that_names_no_order_has_the_rank_that_can_be_inferred():
    """No shape of `h` is declared."""
    axes = axes_of(
        """g (float[8, 8, 3, N] x) => (float[a, b, c, d] y) {
            h = Relu(x) t = Transpose(h) c = Conv(t, w) y = Transpose(c) }""",
        w=(4, 3, 1, 1),
    )
    assert (axes["h"], axes["y"]) == (2, 2)


@pytest.mark.parametrize("order", ["", "<perm = [3, 2, 1, 0]>"])
def test_a_transpose_that_names_no_order_turns_the_axes_round(order):
    axes = axes_of(
        f"""g (float[8, 8, 3, N] x) => (float[8, 8, 4, N] y) {{
            t = Transpose{order}(x) c = Conv(t, w) y = Transpose{order}(c) }}""",
        w=(4, 3, 1, 1),
    )
    assert (axes["x"], axes["t"], axes["c"]) == (2, 1, 1)
    assert axes.get("y", 2) == 2  # the rank of `c` is not declared


def test_images_keep_their_channels_at_axis_1():
    axes = axes_of(
        """g (float[N, 3, H, W] x, float[N, 4, H, W] z) => (float[A, B] y) {
            c = Conv(x, w) b = BatchNormalization(c, s, s, s, s) r = Relu(b) a = Add(z, r)
            p = MaxPool<kernel_shape=[2, 2]>(a)
            g = GlobalAveragePool(p) f = Flatten(g) y = Gemm(f, d)
        }""",
        w=(4, 3, 1, 1),
        s=(4,),
        d=(4, 2),
    )
    assert {name: axes[name] for name in ("x", "c", "b", "r", "a", "p", "g", "y")} == {
        **dict.fromkeys(("x", "c", "b", "r", "a", "p", "g"), 1),
        "y": -1,
    }
    assert "f" not in axes


def test_a_keras_model_is_turned_into_nchw_and_back():
    axes = axes_of(
        """g (float[N, 8, 8, 3] x) => (float[A, B, C, D] y) {
            t = Transpose<perm=[0, 3, 1, 2]>(x) c = Conv(t, w) n = Transpose<perm=[0, 2, 3, 1]>(c) a = Add(n, b)
            y = Relu(a)
        }""",
        w=(4, 3, 1, 1),
        b=(4,),
    )
    assert axes == {"x": 3, "t": 1, "c": 1, "n": 3, "a": 3, "y": 3}


def test_tokens_keep_their_channels_last():
    axes = axes_of(
        """g (float[N, T, 4] x) => (float[A, B, C] y) {
            n = LayerNormalization(x, s) q = MatMul(n, w) r = Relu(q) t = Transpose<perm=[0, 2, 1]>(r)
            u = Transpose(r) e = Softmax(t) k = Reshape(e, shape) y = Neg(k)
        }""",
        s=(4,),
        w=(4, 4),
        shape=(3,),
    )
    assert axes == {"n": -1, "q": -1, "r": -1, "t": 1, "u": 0, "e": 1}


def test_a_transposed_product_has_its_channels_first():
    axes = axes_of("g (float[N, 4] x) => (float[A, B] y) { q = MatMul(x, w) y = Transpose<perm=[1, 0]>(q) }", w=(4, 2))
    assert axes == {"q": -1, "y": 0}


def test_the_input_of_a_convolution_over_time_has_its_channels_at_axis_1():
    assert axes_of("g (float[N, 3, T] x) => (float[A, B, C] y) { y = Conv(x, w) }", w=(4, 3, 1)) == {"x": 1, "y": 1}


def test_values_without_an_operator_that_tells_have_no_axis():
    assert axes_of("g (float[2, 2] x) => (float[2, 2] y) { a = Relu(x) y = Neg(a) }") == {}


@pytest.mark.parametrize(
    ("rank", "known", "axis"),
    [
        (0, None, None),
        (1, None, None),
        (1, -1, None),
        (2, None, 1),
        (3, None, 2),
        (4, None, 1),
        (5, None, 1),
        (4, -1, 3),
        (4, 3, 3),
        (3, 1, 1),
        (2, 3, 1),
    ],
)
def test_the_axis_of_an_array(rank, known, axis):
    assert default_axis(rank, known) == axis


def weighted(node, weight, x, *, before=()):
    """A model with one weight `w`, and its operand as the names module sees it."""
    nodes = [*before, node]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    loaded = load_model(model)
    (operand,) = loaded.names.operands(loaded.main.nodes[-1])
    return model, operand


def moved_channels(model, weight, changed, x, axis):
    """Indices along `axis` of the output that move when some weights do."""

    def run(values):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
        # onnxruntime, as the reference evaluator fails on a grouped ConvTranspose
        return Session(copy, folder=None, where="channels").run({"x": x})["y"]

    difference = np.abs(run(weight) - run(changed))
    others = tuple(other for other in range(difference.ndim) if other != axis % difference.ndim)
    return set(np.flatnonzero(difference.max(axis=others)))


CASES = {
    "Conv": (helper.make_node("Conv", ["x", "w"], ["y"]), (4, 3, 2, 2), (1, 3, 5, 5), 1),
    "Conv, grouped": (helper.make_node("Conv", ["x", "w"], ["y"], group=2), (4, 2, 2, 2), (1, 4, 5, 5), 1),
    "Gemm": (helper.make_node("Gemm", ["x", "w"], ["y"]), (3, 5), (2, 3), -1),
    "Gemm, transB": (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (5, 3), (2, 3), -1),
    "Gemm, left": (helper.make_node("Gemm", ["w", "x"], ["y"]), (5, 3), (3, 2), 0),
    "Gemm, left, transA": (helper.make_node("Gemm", ["w", "x"], ["y"], transA=1), (3, 5), (3, 2), 0),
    "MatMul": (helper.make_node("MatMul", ["x", "w"], ["y"]), (3, 5), (2, 4, 3), -1),
    "MatMul, left": (helper.make_node("MatMul", ["w", "x"], ["y"]), (5, 3), (2, 3, 4), -2),
    "MatMul, batched": (helper.make_node("MatMul", ["x", "w"], ["y"]), (2, 3, 5), (2, 4, 3), -1),
    "Gather": (helper.make_node("Gather", ["w", "i"], ["y"]), (6, 4), (2,), -1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_axis_of_a_weight_is_the_one_that_makes_one_output_channel(case):
    node, shape, inputs, output_axis = CASES[case]
    weight = RNG.normal(size=shape).astype(np.float32)
    x = RNG.normal(size=inputs).astype(np.float32)
    before = ()
    if node.op_type == "Gather":
        x = np.array([1.0, 3.0], np.float32)
        before = (helper.make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT64),)
    model, operand = weighted(node, weight, inputs, before=before)
    axis, groups = weight_axis(operand, weight.ndim)
    assert groups == 1
    changed = weight.copy()
    np.moveaxis(changed, axis, 0)[2] += 1
    assert moved_channels(model, weight, changed, x, output_axis) == {2}


def test_a_grouped_transposed_convolution_splits_its_channels():
    groups, shape = 2, (4, 3, 2, 2)
    weight = RNG.normal(size=shape).astype(np.float32)
    x = RNG.normal(size=(1, 4, 5, 5)).astype(np.float32)
    model, operand = weighted(helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=groups), weight, x.shape)
    assert weight_axis(operand, 4) == (1, groups)
    per_group = shape[0] // groups
    for group in range(groups):
        for channel in range(shape[1]):
            changed = weight.copy()
            changed[group * per_group : (group + 1) * per_group, channel] += 1
            assert moved_channels(model, weight, changed, x, 1) == {group * shape[1] + channel}


@pytest.mark.parametrize("order", [(3, 2, 0, 1), (1, 0, 3, 2), (0, 1, 2, 3)])
def test_the_axis_is_followed_through_a_transpose(order):
    used = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)
    stored = np.ascontiguousarray(used.transpose(np.argsort(order)))
    x = RNG.normal(size=(1, 3, 5, 5)).astype(np.float32)
    transpose = helper.make_node("Transpose", ["w"], ["t"], perm=order)
    model, operand = weighted(helper.make_node("Conv", ["x", "t"], ["y"]), stored, x.shape, before=(transpose,))
    axis, _ = weight_axis(operand, 4)
    changed = stored.copy()
    np.moveaxis(changed, axis, 0)[3] += 1
    assert moved_channels(model, stored, changed, x, 1) == {3}


def test_a_recurrent_weight_has_its_gates_at_axis_1():
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)
    weight = RNG.normal(size=(1, 8, 3)).astype(np.float32)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 1, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(weight[:, :, :2], "r")],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    loaded = load_model(model)
    assert [weight_axis(operand, 3) for operand in loaded.names.operands(loaded.main.nodes[0])] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("shape", [(), (4,)])
def test_a_vector_has_no_channels(shape):
    _, operand = weighted(helper.make_node("PRelu", ["x", "w"], ["y"]), np.ones(shape, np.float32), [4])
    assert weight_axis(operand, len(shape)) == (None, 1)


def test_a_way_back_that_is_unknown_gives_no_axis():
    before = [
        helper.make_node("Constant", [], ["shape"], value_ints=[3, 5]),
        helper.make_node("Reshape", ["w", "shape"], ["t"]),
    ]
    _, operand = weighted(
        helper.make_node("MatMul", ["x", "t"], ["y"]), np.ones((5, 3), np.float32), [2, 3], before=before
    )
    assert weight_axis(operand, 2) == (None, 1)


def test_a_computed_weight_has_no_stored_axis():
    before = [helper.make_node("Mul", ["w", "w"], ["t"])]
    _, operand = weighted(
        helper.make_node("MatMul", ["x", "t"], ["y"]), np.ones((3, 5), np.float32), [2, 3], before=before
    )
    assert weight_axis(operand, 2) == (None, 1)


def test_a_permutation_that_does_not_fit_the_stored_rank_gives_no_axis():
    before = [helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0])]
    _, operand = weighted(
        helper.make_node("MatMul", ["x", "t"], ["y"]), np.ones((5, 3), np.float32), [2, 3], before=before
    )
    assert weight_axis(operand, 2) == (0, 1)
    assert weight_axis(operand, 3) == (None, 1)
