"""Layers that compute what the first model's do: against models that have these layers, run by plain onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from planted_layers import NETWORKS, with_fault
from quantized_copies import quantized

import onnxscope
from onnxscope.base.run_options import RunOptions
from onnxscope.explaining.exchanges import ExchangedModel, find_exchanges
from onnxscope.model.loading import load_model
from onnxscope.pairing.match_values import match_inputs
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.structure.standard_model import standard_model


def exchanged(first, second, feeds, rows=None, align="auto"):
    """The second model with both computations of its layers, and the rows whose layers cannot be exchanged."""
    a, b = load_model(first), load_model(second)
    comparison = onnxscope.diff(a, b, feeds, align=align)
    sides = ModelLayers(standard_model(a, b), a), ModelLayers(standard_model(b, a), b)
    found, others = find_exchanges(comparison, sides, rows or (*comparison.layers, *comparison.outputs))
    fed = {one.b: one.apply(feeds[one.a]) for one in match_inputs(a.inputs, b.inputs)[0]}
    model = ExchangedModel(sides, found, (feeds, fed), RunOptions())
    return model, [*others, *model.others]


def answer(model, feeds):
    return onnxruntime.InferenceSession(model if isinstance(model, str) else model.SerializeToString()).run(
        None, feeds
    )[0]


@pytest.mark.parametrize(("kind", "depth"), [("conv", 8), ("res", 9), ("dense", 12), ("lstm", 8)])
def test_any_choice_of_layers_gives_what_a_model_with_these_layers_gives(kind, depth):
    model, feeds = NETWORKS[kind](depth, 3)
    faulty = model
    for place in range(depth):
        faulty = with_fault(faulty, place, 3)
    graph, others = exchanged(model, faulty, feeds)
    assert not others
    places = [int("".join(filter(str.isdigit, each.row.a.layer)) or -1) for each in graph.exchanges]
    rng = np.random.default_rng(1)
    for chosen in ([], range(depth), rng.choice(depth, depth // 2, replace=False), [depth - 1], [0]):
        expected = model
        for place in set(range(depth)) - set(chosen):
            expected = with_fault(expected, place, 3)
        switched = [index for index, place in enumerate(places) if place in chosen]
        np.testing.assert_allclose(graph.run(switched, ["y"])["y"], answer(expected, feeds), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_quantized_layers_are_exchanged_both_ways(form, tmp_path):
    model, feeds = NETWORKS["conv"](4, 1)
    plain, copy = (str(path) for path in quantized(model, feeds["x"], tmp_path, form, per_channel=False))
    for first, second in ((plain, copy), (copy, plain)):
        graph, others = exchanged(first, second, feeds)
        assert not others
        reference = answer(first, feeds)
        before, after = (np.abs(graph.run(one, ["y"])["y"] - reference).max() for one in ((), range(9)))
        assert before == pytest.approx(np.abs(answer(second, feeds) - reference).max(), rel=1e-3)
        # Of codes what is left is that they are rounded to.
        assert after < (0.6 if (form, second) == ("QOperator", copy) else 1e-2) * before


def network(body, outputs="float[N, 4, 5, 5] y", given="float[N, 3, 5, 5] x", **stored):
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> g ({given}) => ({outputs}) {{ {body} }}')
    for name, values in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


RNG = np.random.default_rng(4)
W, V = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 3, 3, 3), (4, 4, 1, 1)))
X = RNG.standard_normal((2, 3, 5, 5)).astype(np.float32)
PLAIN = "[one] a = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu(a) [two] y = Conv(r, v)"


def test_another_layout_is_turned_to_and_fro():
    turned = """t = Transpose <perm = [0, 3, 1, 2]> (x) [one] a = Conv <pads = [1, 1, 1, 1]> (t, w) r = Relu(a)
        u = Transpose <perm = [0, 2, 3, 1]> (r) n = Neg(u) m = Neg(n) s = Transpose <perm = [0, 3, 1, 2]> (m)
        [two] c = Conv(s, v) y = Transpose <perm = [0, 2, 3, 1]> (c)"""
    second = network(turned, "float[N, 5, 5, 4] y", "float[N, 5, 5, 3] x", w=2 * W, v=-V)
    graph, others = exchanged(network(PLAIN, w=W, v=V), second, {"x": X})
    assert not others
    for chosen, weights in (((), (2 * W, -V)), ((0,), (W, -V)), ((1,), (2 * W, V)), ((0, 1), (W, V))):
        expected = answer(network(PLAIN, w=weights[0], v=weights[1]), {"x": X})
        found = graph.run(chosen, ["y"])["y"].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [10, 16])
def test_half_precision_is_chosen_between(kind):
    half = f"""h = Cast <to = {kind}> (x) f = Cast <to = 1> (h) [one] a = Conv <pads = [1, 1, 1, 1]> (f, w)
        r = Relu(a) n = Cast <to = {kind}> (r) m = Cast <to = 1> (n) [two] y = Conv(m, v)"""
    graph, others = exchanged(network(PLAIN, w=W, v=V), network(half, w=2 * W, v=V), {"x": X})
    assert not others
    expected = answer(network(PLAIN, w=W, v=V), {"x": X})
    np.testing.assert_allclose(graph.run((0,), ["y"])["y"], expected, rtol=5e-2, atol=5e-2)
    assert np.abs(graph.run((), ["y"])["y"] - expected).max() > 0.5


def test_float16_values_are_chosen_between():
    half = """h = Cast <to = 10> (x) [one] a = Conv <pads = [1, 1, 1, 1]> (h, w) r = Relu(a) [two] c = Conv(r, v)
        y = Cast <to = 1> (c)"""
    second = network(half, w=(2 * W).astype(np.float16), v=V.astype(np.float16))
    graph, others = exchanged(network(PLAIN, w=W, v=V), second, {"x": X})
    assert not others
    expected = answer(network(PLAIN, w=W, v=V), {"x": X})
    np.testing.assert_allclose(graph.run((0, 1), ["y"])["y"], expected, rtol=1e-2, atol=3e-2)


@pytest.mark.parametrize("kind", ["bool", "int8", "uint32", "double"])
def test_outputs_of_any_type_are_chosen_between(kind):
    """The end of an output, which is no layer's value."""
    number = onnx.TensorProto.DataType.Value(kind.upper())
    body = f"[one] a = Conv <pads = [1, 1, 1, 1]> (x, w) s = CumSum {{}}(a, n) y = Cast <to = {number}> (s)"
    models = [network(body.format(one), f"{kind}[N, 4, 5, 5] y", w=W, n=np.array(3)) for one in ("", "<reverse = 1> ")]
    feeds = {"x": np.abs(X)}
    comparison = onnxscope.diff(*models, feeds)
    graph, others = exchanged(*models, feeds, rows=[comparison.outputs[0]])
    assert not others
    for chosen, model in (((), models[1]), ((0,), models[0])):
        np.testing.assert_array_equal(graph.run(chosen, ["y"])["y"], answer(model, feeds))


def test_what_onnxruntime_cannot_choose_between_is_said():
    body = "[one] a = Conv <pads = [1, 1, 1, 1]> (x, w) s = CumSum {}(a, n) b = Abs(s) y = Cast <to = 13> (b)"
    models = [network(body.format(one), "uint64[N, 4, 5, 5] y", w=W, n=np.array(3)) for one in ("", "<reverse = 1> ")]
    rows = onnxscope.diff(*models, {"x": X}).outputs
    graph, (other,) = exchanged(*models, {"x": X}, rows=rows)
    assert other.reason == "onnxruntime cannot choose between values of uint64"
    assert not graph.exchanges


def test_a_value_that_the_second_model_computes_later_cannot_be_read():
    square = {name: RNG.standard_normal((4, 4)).astype(np.float32) for name in ("p", "q")}
    shapes = "float[N, 4] y", "float[N, 4] x"
    first = network("[a] h = MatMul(x, p) [b] y = MatMul(h, q)", *shapes, **square)
    second = network("[b] h = MatMul(x, q) [a] y = MatMul(h, p)", *shapes, **square)
    feeds = {"x": X[:, 0, :4, :4].reshape(-1, 4)}
    _, others = exchanged(first, second, feeds, align="name")
    assert [(one.layer, one.reason) for one in others] == [
        ("b", "the first model's reads 'h', which the second computes later")
    ]


def test_a_layer_of_a_body_cannot_be_exchanged():
    body = """y = If (go) <then_branch = t () => (float[N, 4, 5, 5] a)
            { [inside] a = Conv <pads = [1, 1, 1, 1]> (x, w) },
        else_branch = e () => (float[N, 4, 5, 5] b) { b = Conv <pads = [1, 1, 1, 1]> (x, v) }>"""
    models = [network(body, w=weight, v=W, go=np.array(True)) for weight in (W, 2 * W)]
    rows = [row for row in onnxscope.diff(*models, {"x": X}).layers if row.is_guilty]
    _, others = exchanged(*models, {"x": X}, rows=rows)
    assert "it lies in a body, or is no node of the file" in {one.reason for one in others}
