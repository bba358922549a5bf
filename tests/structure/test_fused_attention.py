"""Attention with packed weights, and the layers for query, key and value that it stands for."""

from __future__ import annotations

import attention_models
import numpy as np
import onnx
import onnxruntime
import pytest
from attention_models import BIASES, FED, HEADS, MICROSOFT, PARTS, WEIGHTS, WIDE, normal, parsed
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic

from onnxscope import check, diff, snapshot
from onnxscope.model.loading import load_model
from onnxscope.structure.standard_model import standard_model


def run(model, fed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, fed)


def standard(model):
    return standard_model(load_model(model)).proto


def operators(model):
    return [node.op_type for node in model.graph.node]


def weights_of(model):
    """What each MatMul of a standard model multiplies with, its codes and scale where it has these."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made = {node.output[0]: node for node in model.graph.node}
    held = []
    for node in model.graph.node:
        if node.op_type == "MatMul":
            name = node.input[1]
            parts = made[name].input if name in made else [name]
            held.append([stored[part] for part in parts])
    return held


MASKS = {
    "none": None,
    "lengths": np.array([3, 5], np.int32),
    "places": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32),
    "pairs": np.tril(np.ones((2, 5, 5), np.int32)),
}


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_gives_what_its_layers_give(mask, forward):
    told = MASKS[mask]
    sides = "" if told is None else ", int32[" + ", ".join("bst"[: told.ndim]) + "] m"
    nodes = (
        f"y = {MICROSOFT}.Attention<num_heads = {HEADS}, unidirectional = {int(forward)}, scale = 0.3>"
        f"(x, self_qkv_weight, self_qkv_bias{'' if told is None else ', m'})"
    )
    model = parsed(nodes, attention_models.packed(), f"float[b, s, 8] x{sides}")
    fed = FED | ({} if told is None else {"m": told})
    changed = standard(model)
    assert operators(changed) == ["MatMul", "Add"] * 3 + ["MultiHeadAttention"]
    np.testing.assert_allclose(run(model, fed)[0], run(changed, fed)[0], atol=1e-5)
    for (found,), weight in zip(weights_of(changed), WEIGHTS.values(), strict=True):
        np.testing.assert_array_equal(found, weight)


def test_a_mask_of_starts_and_ends_leaves_attention_as_it_is():
    nodes = f"y = {MICROSOFT}.Attention<num_heads = {HEADS}>(x, self_qkv_weight, self_qkv_bias, m)"
    model = parsed(nodes, attention_models.packed(), "float[2, s, 8] x, int32[4] m")
    assert operators(standard(model)) == ["Attention"]
    assert diff(model, model, FED | {"m": np.array([4, 5, 1, 0], np.int32)}).equal


def test_a_decoder_keeps_its_cache():
    nodes = (
        f"y, n = {MICROSOFT}.Attention<num_heads = {HEADS}, unidirectional = 1>(x, self_qkv_weight, self_qkv_bias, , p)"
    )
    given = "float[b, s, 8] x, float[2, b, 2, c, 4] p"
    model = parsed(nodes, attention_models.packed(), given, "float[b, s, 8] y, float[2, b, 2, t, 4] n")
    fed = FED | {"p": normal(2, 2, HEADS, 3, WIDE // HEADS)}
    for expected, found in zip(run(model, fed), run(standard(model), fed), strict=True):
        np.testing.assert_allclose(expected, found, atol=1e-5)


def test_values_may_have_another_width_than_queries_and_keys():
    packed = {"w": normal(WIDE, 20), "b": normal(20)}
    nodes = f"y = {MICROSOFT}.Attention<num_heads = {HEADS}, qkv_hidden_sizes = [8, 8, 4]>(x, w, b)"
    model = parsed(nodes, packed)
    changed = standard(model)
    np.testing.assert_allclose(run(model, FED)[0], run(changed, FED)[0], atol=1e-5)
    assert [weight.shape for (weight,) in weights_of(changed)] == [(8, 8), (8, 8), (8, 4)]
    np.testing.assert_array_equal(weights_of(changed)[2][0], packed["w"][:, 16:])


@pytest.mark.parametrize("by_column", [False, True])
def test_codes_of_a_packed_weight_are_split_with_their_scales(by_column):
    model, real = attention_models.quantized(by_column)
    changed = standard(model)
    np.testing.assert_allclose(run(model, FED)[0], run(changed, FED)[0], atol=1e-4)
    for place, (codes, scale, zero) in enumerate(weights_of(changed)[:3]):
        np.testing.assert_allclose((codes - zero) * scale, real[:, place * WIDE : (place + 1) * WIDE], rtol=1e-6)


@pytest.mark.parametrize("fuse", [attention_models.fused, attention_models.biased])
def test_a_model_and_its_fused_copy_have_the_same_layers(fuse):
    model, copy = attention_models.unfused(), fuse()
    np.testing.assert_allclose(run(model, FED)[0], run(copy, FED)[0], atol=1e-5)
    for a, b in ((model, copy), (copy, model)):
        result = diff(a, b, FED)
        assert result.equal
        assert (len(result.layers), len(result.fused)) == (5, 1)
        assert (result.guilty, result.only_a, result.only_b) == ((), (), ())
        assert not any(change.counts for change in result.weights)
        assert check(a, snapshot(b, FED), FED).findings == ()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("fuse", [attention_models.fused, attention_models.biased])
def test_a_change_in_one_part_of_a_fused_copy_is_named(fuse, part):
    copy = fuse()
    (tensor,) = (each for each in copy.graph.initializer if each.name == "self_qkv_bias")
    values = numpy_helper.to_array(tensor).copy()
    values[PARTS.index(part) * WIDE + 3] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for a, b in ((attention_models.unfused(), copy), (copy, attention_models.unfused())):
        result = diff(a, b, FED)
        (change,) = (change for change in result.weights if change.counts)
        assert change.channels == (3,)
        assert f"self.{part}.bias" in (change.a, change.b)
        if part != "key":  # what is added to each key alike leaves the attention as it was
            assert result.outputs[0].differs
        assert [part in f"{row.a.layer} {row.b.layer}" for row in result.guilty] == [True]


def test_a_quantized_attention_is_compared_with_the_layers_of_the_float_model(tmp_path):
    onnx.save(attention_models.fused(), tmp_path / "fused.onnx")
    quantize_dynamic(tmp_path / "fused.onnx", tmp_path / "quantized.onnx", extra_options={"DefaultTensorType": 1})
    copy = onnx.load(tmp_path / "quantized.onnx")
    assert "QAttention" in operators(copy)
    result = diff(attention_models.unfused(), copy, FED)
    assert (result.only_a, result.only_b) == ((), ())
    rows = [row for row in result.layers if row.a.layer.startswith(("query", "key", "value", "self"))]
    assert len(rows) == 3
    for row, (weight, bias) in zip(rows, zip(WEIGHTS.values(), BIASES.values(), strict=True), strict=True):
        scale = max(np.ptp(np.append(FED["x"], 0)), 0) / 255
        zero = np.round(-min(FED["x"].min(), 0) / scale)
        read = (np.clip(np.round(FED["x"] / scale) + zero, 0, 255) - zero) * scale
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
        node = next(node for node in copy.graph.node if node.op_type == "QAttention")
        codes, by, off = (stored[node.input[place]] for place in (1, 4, 7))
        place = next(k for k, name in enumerate(WEIGHTS) if WEIGHTS[name] is weight)
        real = (codes.astype(np.float32) - off)[:, place * WIDE : (place + 1) * WIDE] * by
        expected, found = FED["x"] @ weight + bias, read @ real + bias
        ratio = 20 * np.log10(np.linalg.norm(expected) / np.linalg.norm(expected - found))
        assert abs(row.to_dict()["sqnr_db"] - ratio) < 0.5


def test_a_weight_that_the_other_model_holds_as_one_layer_stays_one():
    nodes = (
        "m = MatMul(x, self_qkv_weight) a = Add(m, self_qkv_bias) q, k, v = Split<axis = 2>(a, sizes) "
        f"c = {MICROSOFT}.MultiHeadAttention<num_heads = {HEADS}>(q, k, v) y = MatMul(c, dense__weight)"
    )
    stored = attention_models.packed() | attention_models.DENSE | {"sizes": np.array([WIDE] * 3)}
    model = attention_models.named(parsed(nodes, stored))
    for a, b in ((model, attention_models.fused()), (attention_models.fused(), model)):
        result = diff(a, b, FED)
        assert result.equal
        assert (len(result.layers), result.only_a, result.only_b) == (2, (), ())


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("places", [False, True])
def test_embeddings_give_what_their_parts_give(mask, places, opset):
    model, fed = attention_models.embedded(mask=mask, places=places, opset=opset)
    changed = standard(model)
    assert operators(changed).count("LayerNormalization") == 1
    assert "EmbedLayerNormalization" not in operators(changed)
    for expected, found in zip(run(model, fed), run(changed, fed), strict=True):
        np.testing.assert_allclose(expected, found, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_one_product_in_front_of_grouped_attention_is_compared_as_three(bias):
    model, fed = attention_models.grouped(bias=bias)
    apart, _ = attention_models.grouped(bias=bias, packed_rows=False)
    expected = run(model, fed)
    for found in (run(apart, fed), run(standard(model), fed)):
        for left, right in zip(expected, found, strict=True):
            np.testing.assert_allclose(left, right, atol=1e-5)
    for a, b in ((model, apart), (apart, model)):
        result = diff(a, b, fed)
        assert (result.verdict, result.guilty, len(result.layers)) == ("equal", (), 4)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (tensor,) = (each for each in other.graph.initializer if each.name == "self.qkv.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 17] += 1  # the second column of the key
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    (change,) = (change for change in diff(apart, other, fed).weights if change.counts)
    assert (change.a, change.channels) == ("self.key.weight", (1,))
    assert [row.a.layer for row in diff(apart, other, fed).guilty] == ["self.key"]


def test_a_product_that_both_models_hold_in_one_stays_one():
    model, fed = attention_models.grouped()
    result = diff(model, model, fed)
    assert [row.a.layer for row in result.layers] == ["self.qkv", "dense"]


def test_packed_weights_that_would_take_too_much_in_the_model_itself_stay_packed(monkeypatch):
    monkeypatch.setattr("onnxscope.structure.standard_model._MOST_BYTES", 1000)
    assert operators(standard(attention_models.fused())) == ["Attention", "MatMul"]
    assert diff(attention_models.fused(), attention_models.fused(), FED).equal


@pytest.mark.parametrize("with_zeros", [False, True])
def test_a_product_of_few_bits_in_front_of_grouped_attention_is_cut_by_rows(with_zeros):
    model, fed = attention_models.grouped()
    total, blocks = 4 * WIDE, 1  # of 16 inputs each, of which 8 are there
    rng = np.random.default_rng(43)
    codes = rng.integers(0, 256, (total, blocks, 8)).astype(np.uint8)
    scales = (rng.random(total * blocks) / 10 + 0.01).astype(np.float32)
    zeros = rng.integers(0, 16, total * blocks).astype(np.uint8)
    held = {"codes": codes, "scales": scales} | ({"zeros": zeros} if with_zeros else {})
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in held.items())
    product = onnx.helper.make_node(
        "MatMulNBits", ["x", *held], ["qkv"], domain=MICROSOFT, K=WIDE, N=total, bits=4, block_size=16
    )
    model.graph.node[0].CopyFrom(product)
    changed = standard(model)
    assert operators(changed) == ["MatMulNBits"] * 3 + ["GroupQueryAttention", "MatMul"]
    for left, right in zip(run(model, fed), run(changed, fed), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    low, high = codes & 15, codes >> 4
    real = np.stack([low, high], axis=-1).reshape(total, -1)[:, :WIDE].astype(np.float32)
    real = (real - (zeros[:, None] if with_zeros else 8)) * scales[:, None]
    apart, _ = attention_models.grouped(packed_rows=False)
    for tensor, start, end in zip(apart.graph.initializer[1:], (0, 16, 24), (16, 24, 32), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(real[start:end].T), tensor.name))
    assert [tensor.name for tensor in apart.graph.initializer[1:]] == [f"self.{part}.weight" for part in PARTS]
    result = diff(apart, model, fed)
    assert (len(result.layers), result.only_a, result.only_b) == (4, (), ())
    assert all(row.entire.relative_l2 < 1e-5 for row in result.layers)
