"""A model against its quantized copies: every layer's signal-to-noise ratio, against numpy and plain onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from quantized_copies import decibels, model, quantized, values

import onnxscope
from onnxscope.analyses.feature_maps import features

RNG = np.random.default_rng(11)
# Of each layer: the tensor of the float model that it ends in, before its activation function and behind it.
PICTURES = {"conv1": ("c", "a"), "conv2": ("d", "d"), "fc": ("y", "y")}
TOKENS = {"fc1": ("m", "h"), "fc2": ("y", "y")}


def array(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


@pytest.fixture(scope="module")
def pictures():
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "W", "b"], ["c"], "conv1", pads=[1] * 4),
        node("Relu", ["c"], ["a"], "act1"),
        node("Conv", ["a", "V"], ["d"], "conv2", pads=[1] * 4),
        node("Add", ["d", "a"], ["r"], "res"),
        node("Relu", ["r"], ["e"], "act2"),
        node("GlobalAveragePool", ["e"], ["g"], "gap"),
        node("Flatten", ["g"], ["f"], "flat"),
        node("Gemm", ["f", "F"], ["y"], "fc", transB=1),
    ]
    tensors = {
        "W": array(8, 3, 3, 3, scale=0.3),
        "b": array(8),
        "V": array(8, 8, 3, 3, scale=0.2),
        "F": array(5, 8, scale=0.3),
    }
    return model(nodes, {"x": ["N", 3, 12, 12]}, {"y": ["N", 5]}, tensors), array(8, 3, 12, 12)


@pytest.fixture(scope="module")
def tokens():
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "W"], ["p"], "fc1"),
        node("Add", ["p", "b"], ["m"], "bias1"),
        node("Relu", ["m"], ["h"], "act"),
        node("MatMul", ["h", "V"], ["y"], "fc2"),
    ]
    tensors = {"W": array(32, 16, scale=0.2), "b": array(16), "V": array(16, 4, scale=0.2)}
    return model(nodes, {"x": ["N", 32]}, {"y": ["N", 4]}, tensors), array(20, 32)


def real(path, tensor, x):
    """The real numbers behind the codes that the quantized model has for a tensor, or the tensor itself; else None."""
    proto = onnx.load(path)
    produced = {name for node in proto.graph.node for name in node.output}
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    for name in (f"{tensor}_quantized", f"{tensor}_QuantizeLinear_Output"):
        if name in produced and f"{tensor}_scale" in stored:
            codes = values(path, [name], x)[name].astype(np.float64)
            return (codes - stored[f"{tensor}_zero_point"]) * stored[f"{tensor}_scale"]
    return values(path, [tensor], x)[tensor] if tensor in produced else None


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("form", ["dynamic", "QDQ", "QOperator"])
@pytest.mark.parametrize("network", ["pictures", "tokens"])
def test_every_layer_has_the_ratio_that_numpy_gives(network, form, per_channel, request, tmp_path):
    proto, x = request.getfixturevalue(network)
    source, target = quantized(proto, x, tmp_path, form, per_channel=per_channel)
    rows = {row.a.layer: row for row in onnxscope.diff(source, target, x, batch_size=len(x)).layers}
    ends = PICTURES if network == "pictures" else TOKENS
    assert rows.keys() == ends.keys()
    for name, row in rows.items():
        held = [real(target, tensor, x) for tensor in ends[name]]
        references = values(source, list(dict.fromkeys(ends[name])), x).values()
        ratios = [decibels(one, other) for one in references for other in held if other is not None]
        assert any(abs(row.entire.sqnr_db - ratio) < 0.5 for ratio in ratios), (name, row.entire.sqnr_db, ratios)
        assert row.own.sqnr_db >= row.entire.sqnr_db - 1
        assert row.own.sqnr_db > 30


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_wrong_scale_of_one_layer_is_blamed_on_it(layer, form, pictures, tmp_path):
    proto, x = pictures
    source, target = quantized(proto, x, tmp_path, form, per_channel=False)
    changed = onnx.load(target)
    name = {"conv1": "W_scale", "conv2": "V_scale", "fc": "F_scale"}[layer]
    tensor = next(one for one in changed.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * 1.3).astype(np.float32), name))
    onnx.save(changed, target)
    rows = {row.a.layer: row for row in onnxscope.diff(source, target, x).layers}
    worst = min(rows, key=lambda one: rows[one].own.sqnr_db)
    assert worst == layer
    assert rows[layer].own.sqnr_db < 17
    assert all(row.own.sqnr_db > 25 for name, row in rows.items() if name != layer)


def test_feature_maps_of_a_quantized_layer_are_real_numbers(pictures, tmp_path):
    proto, x = pictures
    _, target = quantized(proto, x, tmp_path, "QOperator", per_channel=False)
    maps = features(target, x, select=["conv1_quant", "conv2_quant"])
    for shown, tensor in zip(maps, ("c", "d"), strict=True):
        assert shown.data.dtype == np.float32
        np.testing.assert_allclose(shown.data, real(target, tensor, x)[: len(shown.data)], rtol=1e-6, atol=1e-7)


def test_statistics_of_a_quantized_layer_are_those_of_real_numbers(pictures, tmp_path):
    proto, x = pictures
    _, target = quantized(proto, x, tmp_path, "QOperator", per_channel=False)
    (tap,) = onnxscope.stats(target, x, select=["conv2_quant"]).profile.taps
    expected = real(target, "d", x)
    np.testing.assert_allclose(tap.overall.mean, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(tap.overall.std, expected.std(ddof=1), rtol=1e-5)
    np.testing.assert_allclose([tap.overall.min, tap.overall.max], [expected.min(), expected.max()], rtol=1e-6)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_codes_that_are_asked_for_by_name_are_real_numbers(form, pictures, tmp_path):
    proto, x = pictures
    _, target = quantized(proto, x, tmp_path, form, per_channel=False)
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(target).graph.initializer}
    names = [name for node in onnx.load(target).graph.node for name in node.output]
    names = [name for name in names if name.endswith(("_quantized", "_QuantizeLinear_Output"))]
    names = [name for name in names if f"{name.rpartition('_quantized')[0] or name[:-22]}_zero_point" in stored]
    observed = {tap.name: tap for tap in onnxscope.stats(target, x, select=["value:*"]).profile.taps}
    assert len(names) > 4
    for name in names:
        tensor = name.removesuffix("_quantized").removesuffix("_QuantizeLinear_Output")
        expected = values(target, [name], x)[name].astype(np.float64) - stored[f"{tensor}_zero_point"]
        expected *= stored[f"{tensor}_scale"]
        overall = observed[name].overall
        np.testing.assert_allclose([overall.min, overall.max], [expected.min(), expected.max()], rtol=1e-6)
        np.testing.assert_allclose(overall.mean, expected.mean(), rtol=1e-5, atol=1e-6)
    (shown,) = features(target, x, select=f"value:{names[0]}")
    assert shown.data.dtype == np.float32


def test_codes_between_operators_are_real_numbers_in_a_baseline(pictures, tmp_path):
    proto, x = pictures
    _, target = quantized(proto, x, tmp_path, "QOperator", per_channel=False)
    rows = {row["layer"]: row for row in onnxscope.snapshot(target, x).to_dict()["layers"]}
    expected = real(target, "d", x)
    observed = [rows["conv2_quant"][key] for key in ("mean", "min", "max")]
    np.testing.assert_allclose(observed, [expected.mean(), expected.min(), expected.max()], rtol=1e-5)


def test_a_map_of_what_a_quantized_layer_sees_is_made(pictures, tmp_path):
    proto, x = pictures
    source, target = quantized(proto, x, tmp_path, "QOperator", per_channel=False)
    for method in ("eigen", "ablation"):
        maps = [
            onnxscope.class_activation(path, x, layer=layer, method=method)
            for path, layer in ((source, "conv1"), (target, "conv1_quant"))
        ]
        np.testing.assert_allclose(maps[0].map, maps[1].map, atol=0.2)


@pytest.mark.parametrize("again", ["codes", "numbers", "both"])
def test_what_is_quantized_twice_is_compared_as_what_is_quantized_once(again, pictures):
    float_model, x = pictures
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in float_model.graph.initializer}
    stored |= {"s": np.float32(0.05), "z": np.uint8(128)}
    node = helper.make_node

    def copy(twice):
        codes, numbers = ("q2" if twice else "q1"), ("r2" if twice else "r1")
        nodes = [
            node("Conv", ["x", "W", "b"], ["c"], "conv1", pads=[1] * 4),
            node("QuantizeLinear", ["c", "s", "z"], ["q1"]),
            node("QuantizeLinear", ["c", "s", "z"], ["q2"]),
            node("DequantizeLinear", [codes if again != "numbers" else "q1", "s", "z"], ["r2"]),
            node("DequantizeLinear", ["q1", "s", "z"], ["r1"]),
            node("Conv", [numbers if again != "codes" else "r1", "V"], ["d"], "conv2", pads=[1] * 4),
            node("Add", ["d", "r2"], ["y"], "res"),
        ]
        return model(nodes, {"x": ["N", 3, 12, 12]}, {"y": ["N", 8, 12, 12], "r1": ["N", 8, 12, 12]}, stored)

    once, twice = copy(twice=False), copy(twice=True)
    assert onnxscope.diff(once, twice, x).verdict == onnxscope.diff(once, twice).verdict == "equal"
    assert onnxscope.check(twice, onnxscope.snapshot(once, x), x).ok
    nodes = [
        node("Conv", ["x", "W", "b"], ["c"], "conv1", pads=[1] * 4),
        node("Conv", ["c", "V"], ["d"], "conv2", pads=[1] * 4),
        node("Add", ["d", "c"], ["y"], "res"),
    ]
    plain = model(nodes, {"x": ["N", 3, 12, 12]}, {"y": ["N", 8, 12, 12], "c": ["N", 8, 12, 12]}, stored)
    expected, found = (
        [(row.entire.sqnr_db, row.own.sqnr_db or np.inf) for row in onnxscope.diff(plain, one, x).layers]
        for one in (once, twice)
    )
    assert 20 < expected[0][1] < 50
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def looked_up():
    """Two tables whose sum is read by a product, by a sum and by a normalization, which is none of codes."""
    node = helper.make_node
    nodes = [
        node("Gather", ["T", "ids"], ["t"], "words"),
        node("Gather", ["P", "places"], ["p"], "places"),
        node("Add", ["t", "p"], ["e"], "sum"),
        node("MatMul", ["e", "W"], ["m"], "fc1"),
        node("Add", ["m", "b"], ["h"], "bias1"),
        node("Add", ["h", "e"], ["r"], "res"),
        node("MatMul", ["r", "V"], ["z"], "fc2"),
        node("LayerNormalization", ["e", "g", "o"], ["n"], "norm"),
        node("Add", ["n", "z"], ["y"], "last"),
    ]
    tensors = {"T": array(20, 16), "P": array(6, 16), "W": array(16, 16, scale=0.2), "V": array(16, 16, scale=0.2)}
    tensors |= {"b": array(16, scale=0.3), "g": np.ones(16, np.float32), "o": array(16, scale=0.1)}
    tensors["places"] = np.arange(6)
    proto = model(nodes, {"x": ["N", 6]}, {"y": ["N", 6, 16]}, tensors)
    proto.graph.node.insert(0, node("Cast", ["x"], ["ids"], to=7))
    return proto, RNG.integers(0, 20, (8, 6)).astype(np.float32)


def test_tables_and_biases_of_codes_are_real_numbers(looked_up, tmp_path):
    proto, x = looked_up
    source, target = quantized(proto, x, tmp_path, "QOperator", per_channel=False)
    assert {"QLinearAdd", "QLinearMatMul"} <= {node.op_type for node in onnx.load(target).graph.node}
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    for row in onnxscope.weights(target):
        tensor, overall = row.parameter.initializer.removesuffix("_quantized"), row.summary.overall
        np.testing.assert_allclose(overall.mean, stored[tensor].mean(), atol=2e-3)
        np.testing.assert_allclose(overall.std, stored[tensor].std(ddof=1), rtol=2e-2)
    compared = onnxscope.diff(source, target, x)
    assert {change.change for change in compared.weights} == {"quantized"}
    rows = {row.a.layer: row for row in compared.layers}
    references = values(source, ["e", "h", "z"], x)
    for layer, tensor in (("words", "e"), ("fc1", "h"), ("fc2", "z")):
        held = real(target, tensor, x)
        np.testing.assert_allclose(rows[layer].entire.sqnr_db, decibels(references[tensor], held), atol=0.01)
    assert rows["norm"].own.max_abs == 0  # it reads the real numbers, and others their codes
    for layer, tensor, before in (("fc1", "h", ["e"]), ("fc2", "z", ["e", "h"])):
        own = decibels(references[tensor], fed_with(target, {name: references[name] for name in before}, tensor, x))
        np.testing.assert_allclose(rows[layer].own.sqnr_db, own, atol=0.01)


def fed_with(path, numbers, wanted, x):
    """A tensor of the quantized model where the codes of others are those nearest to numbers: by plain onnxruntime."""
    proto = onnx.load(path)
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    for tensor, reference in numbers.items():
        codes = np.rint(reference / stored[f"{tensor}_scale"]) + stored[f"{tensor}_zero_point"]
        fed = numpy_helper.from_array(np.clip(codes, 0, 255).astype(np.uint8))
        node = next(one for one in proto.graph.node if f"{tensor}_quantized" in one.output)
        node.CopyFrom(helper.make_node("Constant", [], [f"{tensor}_quantized"], value=fed))
    onnx.save(proto, path.with_name("fed.onnx"))
    return real(path.with_name("fed.onnx"), wanted, x)


def test_what_a_quantized_table_gives_for_known_places_is_the_layer_s(tmp_path):
    """A table of places is read at constants: what it gives is a constant of the sum behind it."""
    node = helper.make_node
    nodes = [
        node("Gather", ["T", "places"], ["t"], "table"),
        node("Add", ["x", "t"], ["a"], "sum"),
        node("MatMul", ["a", "V"], ["y"], "fc"),
    ]
    table = array(9, 8)
    tensors = {"T": table, "V": array(8, 3), "places": np.arange(4)}
    first = model(nodes, {"x": ["N", 4, 8]}, {"y": ["N", 4, 3]}, tensors)
    codes = np.clip(np.round(table / np.float32(0.03)), -128, 127).astype(np.int8)
    decoded = [node("DequantizeLinear", ["T_quantized", "s", "z"], ["T"], "decode"), *nodes]
    held = {name: values for name, values in tensors.items() if name != "T"}
    held |= {"T_quantized": codes, "s": np.float32(0.03), "z": np.int8(0)}
    second = model(decoded, {"x": ["N", 4, 8]}, {"y": ["N", 4, 3]}, held)
    result = onnxscope.diff(first, second)
    assert [change.message for change in result.structure if not change.folded] == []
    assert [change.change for change in result.weights] == ["quantized"]
    moved = [*decoded[:2], node("Exp", ["t"], ["u"], "bend"), node("Add", ["x", "u"], ["a"], "sum"), nodes[-1]]
    told = onnxscope.diff(first, model(moved, {"x": ["N", 4, 8]}, {"y": ["N", 4, 3]}, held)).structure
    assert any(change.counts and not change.folded for change in told)  # what something else makes of it
