"""What `diff` says of a partner in few bits: outputs first, then a ranking; its form in one line."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from quantized_copies import decibels, model, quantized, values

import onnxscope
from onnxscope.cli.main import run
from onnxscope.model.layer_names import own_name

RNG = np.random.default_rng(23)


def array(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def network():
    """Two convolutions with a sum around them, a pooling and a product to seven classes."""
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
        "F": array(7, 8, scale=0.3),
    }
    return model(nodes, {"x": ["N", 3, 12, 12]}, {"y": ["N", 7]}, tensors), array(12, 3, 12, 12)


def in_half(proto):
    """The same with weights in float16, which are cast back for the operators."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}_fp16"))
        copy.graph.node.insert(0, helper.make_node("Cast", [f"{name}_fp16"], [name], f"cast_{name}", to=1))
    return copy


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    proto, x = network()
    made = {}
    for form in ("dynamic", "QDQ", "QOperator"):
        made[form] = quantized(proto, x, tmp_path_factory.mktemp(form), form, per_channel=False)
    folder = tmp_path_factory.mktemp("half")
    onnx.save(proto, folder / "float.onnx")
    onnx.save(in_half(proto), folder / "half.onnx")
    made["half"] = folder / "float.onnx", folder / "half.onnx"
    np.save(folder / "x.npy", x)
    return made, x, folder / "x.npy"


FORMS = {
    "dynamic": "quantized: dynamic int8, 3 of 3 layers",
    "QDQ": "quantized: static int8 (QDQ), 3 of 3 layers",
    "QOperator": "quantized: static int8 (QOperator), 3 of 3 layers",
    "half": "half precision: float16, 3 of 3 layers",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_verdict_starts_with_the_outputs_and_ranks_the_layers(form, pairs):
    made, x, _ = pairs
    source, target = made[form]
    result = onnxscope.diff(source, target, x, batch_size=12)
    left, right = values(source, ["y"], x)["y"], values(target, ["y"], x)["y"]
    (output,) = result.outputs
    np.testing.assert_allclose(output.entire.sqnr_db, decibels(left, right), atol=0.05)
    same = int((left.argmax(axis=1) == right.argmax(axis=1)).sum())
    assert (output.scores.count, output.scores.top1) == (12, same)
    assert result.summary().startswith(f"differs: {FORMS[form]}; output y: {output.entire.sqnr_db:.1f} dB")
    assert f"top-1 {same}/12" in result.summary()
    own = [row.own.sqnr_db for row in result.costly]
    assert own == sorted(own)
    assert result.costly[0].a.layer in result.summary().partition("most is lost in ")[2]
    names = [row[0] for row in result.table().rows]
    assert names == ["y", *(row.a.layer for row in result.costly)]
    assert not result.equal


@pytest.mark.parametrize("form", FORMS)
def test_without_data_the_weights_rank_the_layers(form, pairs, capsys):
    made, _, _ = pairs
    source, target = made[form]
    result = onnxscope.diff(source, target)
    ratios = {layer: stored_ratio(source, target, name) for layer, name in MAIN.items()}
    order = sorted(ratios, key=ratios.__getitem__)
    assert [row.a.layer for row in result.costly] == order
    np.testing.assert_allclose([ratio for _, ratio in result.costs], [ratios[layer] for layer in order], atol=0.01)
    first = f"most is lost in the weights of {order[0]} ({ratios[order[0]]:.1f} dB)"
    assert f"{FORMS[form]}; nothing was run; {first}" in result.summary()
    assert run(["diff", str(source), str(target), "--weights-only"]) == 1
    shown = capsys.readouterr().out
    places = [shown.index(f"\n{layer} ") for layer in order]
    assert places == sorted(places)
    assert "weights SNR" in shown
    assert (
        run(["report", str(source), "--against", str(target), "-o", str(target.with_name("page.html")), "--force"]) == 0
    )
    page = target.with_name("page.html").read_text(encoding="utf-8")
    assert f"{ratios[order[0]]:.1f} dB of its weights" in page


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("planted", ["W", "V", "F"])
def test_without_data_a_planted_scale_leads_the_ranking(planted, form, pairs, tmp_path):
    made, _, _ = pairs
    changed = onnx.load(made[form][1])
    tensor = next(
        one for one in changed.graph.initializer if one.name in (f"{planted}_scale", f"{planted}_Transposed_scale")
    )
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * 1.2).astype(np.float32), tensor.name))
    onnx.save(changed, tmp_path / "planted.onnx")
    assert MAIN[onnxscope.diff(made[form][0], tmp_path / "planted.onnx").costly[0].a.layer] == planted


MAIN = {"conv1": "W", "conv2": "V", "fc": "F"}


def stored_ratio(source, target, name):
    """The lowest ratio of a layer's weights by numpy, from what both files store."""
    reference, stored = (
        {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer} for path in (source, target)
    )
    if f"{name}_Transposed_quantized" in stored:
        stored |= {
            f"{name}_{what}": stored[f"{name}_Transposed_{what}"].T for what in ("scale", "zero_point", "quantized")
        }
    if "b_quantized" in stored:
        stored |= {"b_scale": stored["x_scale"] * stored["W_scale"], "b_zero_point": 0}
    ratios = []
    for tensor in (name, "b") if name == "W" else (name,):
        if f"{tensor}_fp16" in stored:
            ratios.append(decibels(reference[tensor], stored[f"{tensor}_fp16"].astype(np.float64)))
        elif f"{tensor}_quantized" in stored:
            codes = stored[f"{tensor}_quantized"].astype(np.float64) - stored[f"{tensor}_zero_point"]
            ratios.append(decibels(reference[tensor], codes * stored[f"{tensor}_scale"]))
    return min(ratios)


@pytest.mark.parametrize("form", FORMS)
def test_what_comes_with_the_form_is_one_line(form, pairs):
    made, x, _ = pairs
    result = onnxscope.diff(*made[form], x)
    listed = [row[1:] for row in result.changes_table().rows]
    assert [
        what for change, what in listed if "QuantizeLinear" in what or "scale" in what or "zero_point" in what
    ] == []
    assert [change for change, _ in listed if change in ("quantized", "rounded")] == []
    folded = [change for change in result.structure if change.folded]
    if folded:
        assert listed[0][0] == "form"
        assert f"; {len(folded)} nodes and operands" in listed[0][1]
    record = result.to_dict()
    assert record["partner"] == FORMS[form]
    assert len(record["structure"]) == len(result.structure)


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_names_are_those_of_the_first_model(form, pairs):
    made, x, _ = pairs
    table = onnxscope.diff(*made[form], x).table()
    assert all(row[1] == "" for row in table.rows)


def test_the_other_way_round_the_first_model_is_the_quantized_one(pairs):
    made, x, _ = pairs
    result = onnxscope.diff(*reversed(made["QDQ"]), x)
    assert result.partner == "quantized (the first model): static int8 (QDQ), 3 of 3 layers"
    assert all("QuantizeLinear" not in row[2] for row in result.changes_table().rows)


def test_a_quantized_model_against_itself_or_a_copy_is_compared_as_ever(pairs):
    made, x, _ = pairs
    result = onnxscope.diff(made["QDQ"][1], made["QDQ"][1], x)
    assert (result.partner, result.equal) == (None, True)


def test_a_change_that_no_quantizer_makes_is_listed(pairs, tmp_path):
    made, x, _ = pairs
    changed = onnx.load(made["QDQ"][1])
    pool = next(node for node in changed.graph.node if node.op_type == "GlobalAveragePool")
    pool.op_type = "GlobalMaxPool"
    onnx.save(changed, tmp_path / "pool.onnx")
    result = onnxscope.diff(made["QDQ"][0], tmp_path / "pool.onnx", x)
    assert any("GlobalMaxPool" in row[2] for row in result.changes_table().rows)
    assert result.outputs[0].entire.sqnr_db < 20


@pytest.mark.parametrize("planted", ["W", "V", "F"])
def test_a_planted_scale_leads_the_ranking(planted, pairs, tmp_path):
    made, x, _ = pairs
    changed = onnx.load(made["QOperator"][1])
    tensor = next(one for one in changed.graph.initializer if one.name == f"{planted}_scale")
    tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * 1.2).astype(np.float32), tensor.name))
    onnx.save(changed, tmp_path / "planted.onnx")
    result = onnxscope.diff(made["QOperator"][0], tmp_path / "planted.onnx", x)
    assert result.costly[0].a.layer == {"W": "conv1", "V": "conv2", "F": "fc"}[planted]


def test_random_inputs_are_said_to_be_that(pairs, capsys):
    made, _, data = pairs
    source, target = map(str, made["QDQ"])
    assert run(["diff", source, target, "-i", "random", "--limit", "2"]) == 1
    assert "the inputs are random numbers" in capsys.readouterr().err
    assert run(["diff", source, target, "-i", str(data)]) == 1
    assert "random numbers" not in capsys.readouterr().err


def test_table_markdown_json_and_page_agree(pairs, tmp_path, capsys):
    made, _, data = pairs
    source, target = map(str, made["QDQ"])
    shown = {}
    for form in ("table", "md", "json"):
        assert run(["diff", source, target, "-i", str(data), "--format", form]) == 1
        shown[form] = capsys.readouterr().out
    record = json.loads(shown["json"])
    ratios = sorted((row["own_sqnr_db"], row["a"]["layer"]) for row in record["layers"])
    for form in ("table", "md"):
        places = [shown[form].index(f"{ratio:.5g}") for ratio, _ in ratios]
        assert places == sorted(places)
    assert run(["report", source, "--against", target, "-i", str(data), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert FORMS["QDQ"] in page
    assert "own SNR dB" in page
    assert f"{ratios[0][0]:.1f} dB of its own" in page


def test_names_that_quantizers_add_are_seen_through():
    expected = {
        "fc_quant": "fc",
        "fc_MatMul_quant": "fc",
        "fc_MatMul": "fc_MatMul",
        "layer.fc.weight_quantized": "layer.fc.weight",
        "fc_Q4": "fc",
        "fc.weight_DQ_Q4": "fc.weight",
        "y_QuantizeLinear_Input": "y",
        "fc.weight_fp16": "fc.weight",
        "fc.weight_Transposed": "fc.weight",
        "fc.weight_Transposed_2_quantized": "fc.weight",
        "conv_transposed": "conv_transposed",
        "quant": "quant",
        "_quant": "_quant",
        "dequant_stub": "dequant_stub",
        "fc_quantum": "fc_quantum",
    }
    assert {name: own_name(name) for name in expected} == expected


def test_a_table_whose_codes_are_multiplied_and_dequantized_is_one_of_real_numbers(tmp_path):
    nodes = [
        helper.make_node("Gather", ["T", "ids"], ["h"], "embed"),
        helper.make_node("Transpose", ["h"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "W"], ["p"], "fc"),
        helper.make_node("Transpose", ["p"], ["u"], perm=[1, 0, 2]),
        helper.make_node("Add", ["u", "h"], ["y"], "sum"),
    ]
    proto = model(nodes, {"ids": ["N", 5]}, {"y": ["N", 5, 8]}, {"T": array(20, 8), "W": array(8, 8)})
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    source, target = quantized(proto, None, tmp_path, "dynamic", per_channel=False)
    readers = [node.op_type for node in onnx.load(target).graph.node if "h_quantized" in node.input]
    assert sorted(readers) == ["DequantizeLinear", "Transpose"]
    result = onnxscope.diff(source, target, {"ids": RNG.integers(0, 20, (6, 5))})
    rows = {row.a.layer: row for row in result.layers}
    assert rows.keys() == {"embed", "fc"}
    assert all(row.own.sqnr_db > 35 for row in rows.values())
    assert {change.change for change in result.weights} == {"quantized"}
    stored = {row.parameter.name: row for row in onnxscope.weights(target)}
    scales = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in onnx.load(target).graph.initializer}
    for name in ("T", "W"):
        real = (scales[f"{name}_quantized"] - scales[f"{name}_zero_point"]) * scales[f"{name}_scale"]
        np.testing.assert_allclose(stored[name].summary.overall.std, real.std(ddof=1), rtol=1e-5)
