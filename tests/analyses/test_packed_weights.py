"""The rows of `weights` for what an optimizer packs into one tensor: query, key and value each."""

from __future__ import annotations

import attention_models
import numpy as np
import onnx
import pytest
from attention_models import BIASES, PARTS, WEIGHTS, WIDE, normal, parsed
from onnxruntime.quantization import quantize_dynamic

from onnxscope import inspect, weights
from onnxscope.reporting.reports import report


def rows_of(model):
    return {row.parameter.name: row for row in weights(model)}


def test_a_packed_weight_and_bias_have_a_row_for_each_part():
    rows = rows_of(attention_models.fused())
    assert sum(np.prod(row.parameter.shape) for row in rows.values()) == inspect(attention_models.fused()).parameters
    for held in (WEIGHTS, BIASES):
        for name, values in held.items():
            row = rows[name.replace("self.", "Attention_0.")]
            assert row.parameter.shape == values.shape
            assert row.parameter.initializer.startswith("self_qkv_")
            assert (row.parameter.layer, row.parameter.role) == tuple(row.parameter.name.rsplit(".", 1))
            np.testing.assert_allclose(row.to_dict()["mean"], values.astype(np.float64).mean(), rtol=1e-6)
            np.testing.assert_allclose(row.to_dict()["std"], values.astype(np.float64).std(ddof=1), rtol=1e-6)
            if values.ndim == 2:
                np.testing.assert_allclose(row.to_dict()["channels"]["max"], values.max(axis=0), rtol=1e-6)


def test_the_scope_of_what_was_fused_gives_the_names_of_the_unfused_model():
    model = attention_models.fused()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "/layer.0/attention/self/Reshape_3_output_0"
    names = rows_of(model)
    assert {f"layer.0.attention.self.{part}.{role}" for part in PARTS for role in ("weight", "bias")} < names.keys()


def test_a_name_of_the_frameworks_own_is_kept_for_the_whole():
    model = attention_models.fused()
    for place, name in ((1, "h.0.c_attn.weight"), (2, "h.0.c_attn.bias")):
        (tensor,) = (each for each in model.graph.initializer if each.name == model.graph.node[0].input[place])
        tensor.name = model.graph.node[0].input[place] = name
    rows = rows_of(model)
    assert rows["h.0.c_attn.weight"].parameter.shape == (WIDE, 3 * WIDE)
    assert rows["h.0.c_attn.bias"].parameter.shape == (3 * WIDE,)


def test_the_bias_of_multi_head_attention_has_a_row_for_each_part():
    rows = rows_of(attention_models.biased())
    for part in PARTS:
        (row,) = (row for name, row in rows.items() if name.endswith(f".{part}.bias"))
        np.testing.assert_allclose(row.to_dict()["max"], BIASES[f"self.{part}.bias"].max(), rtol=1e-6)


def test_parts_of_other_widths_are_told_by_the_operator():
    held = {"w": normal(WIDE, 20), "b": normal(20)}
    nodes = "y = com.microsoft.Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 4]>(x, w, b)"
    rows = rows_of(parsed(nodes, held))
    (value,) = (row for name, row in rows.items() if name.endswith(".value.weight"))
    assert value.parameter.shape == (WIDE, 4)
    np.testing.assert_allclose(value.to_dict()["mean"], held["w"][:, 16:].mean(), rtol=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantized_packed_weight_is_split_into_real_numbers(per_channel, tmp_path):
    onnx.save(attention_models.fused(), tmp_path / "fused.onnx")
    options = {"DefaultTensorType": 1}
    quantize_dynamic(
        tmp_path / "fused.onnx", tmp_path / "quantized.onnx", per_channel=per_channel, extra_options=options
    )
    rows = rows_of(tmp_path / "quantized.onnx")
    stored = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "quantized.onnx").graph.initializer
    }
    node = next(node for node in onnx.load(tmp_path / "quantized.onnx").graph.node if node.op_type == "QAttention")
    codes, scale, zero = (stored[node.input[place]] for place in (1, 4, 7))
    real = (codes.astype(np.float64) - zero) * scale
    for place, part in enumerate(PARTS):
        (row,) = (row for name, row in rows.items() if name.endswith(f".{part}.weight"))
        assert row.parameter.dtype == "int8"
        np.testing.assert_allclose(row.to_dict()["std"], real[:, place * WIDE :][:, :WIDE].std(ddof=1), rtol=1e-6)


def test_the_page_shows_each_part_with_its_layer(tmp_path):
    onnx.save(attention_models.fused(), tmp_path / "fused.onnx")
    text = report(tmp_path / "fused.onnx").html
    for part in PARTS:
        assert f"Attention_0.{part}.weight" in text
