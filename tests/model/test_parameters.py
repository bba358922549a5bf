"""weights(): names, roles, channel axes and statistics of parameters, against float64 numpy."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxscope
from onnxscope.analyses.weight_statistics import weights
from onnxscope.base.json_files import dump_json
from onnxscope.errors import SelectorError
from onnxscope.model.loading import load_model
from onnxscope.model.provenance import LAYER_KEY, ParameterRecord, Provenance, write_provenance
from onnxscope.runtime.stored_values import read_parameter

RNG = np.random.default_rng(7)


def model_of(nodes, initializers, *, producer="", inputs=(("x", [1, 3, 8, 8]),), metadata=None, opset=17):
    """A model whose only declared output is the last node's."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [onnx.ValueInfoProto(name=nodes[-1].output[0])],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    model = helper.make_model(
        graph, producer_name=producer, opset_imports=[helper.make_opsetid("", opset)], ir_version=9
    )
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model


def only(statistics, name):
    return next(row for row in statistics if row.parameter.name == name)


def expected_row(values, bins=50):
    """What numpy says about finite values in float64."""
    wide = np.asarray(values).astype(np.float64).ravel()
    counts, edges = np.histogram(wide, bins)
    return {
        "count": wide.size,
        "mean": wide.mean(),
        "std": wide.std(ddof=1) if wide.size > 1 else None,
        "min": wide.min(),
        "max": wide.max(),
        "zero_fraction": np.mean(wide == 0),
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }


def assert_row(row, values, bins=50):
    record = row.to_dict()
    expected = expected_row(values, bins)
    for key in ("mean", "std"):
        assert record[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-12)
    for key in ("count", "min", "max", "zero_fraction"):
        assert record[key] == expected[key]
    assert record["histogram"]["counts"] == expected["counts"]
    assert record["histogram"]["edges"] == expected["edges"]


def conv_model():
    kernel = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    bias = RNG.normal(size=4).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["y"], name="/conv1/Conv")]
    return model_of(nodes, {"conv1.weight": kernel, "conv1.bias": bias}, producer="pytorch"), kernel, bias


def test_every_parameter_agrees_with_numpy():
    model, kernel, bias = conv_model()
    statistics = weights(model)
    assert [row.parameter.name for row in statistics] == ["conv1.weight", "conv1.bias"]
    assert [row.parameter.role for row in statistics] == ["weight", "bias"]
    assert {row.parameter.layer for row in statistics} == {"conv1"}
    assert_row(statistics[0], kernel)
    assert_row(statistics[1], bias)


def test_channels_of_a_kernel_are_its_outputs():
    model, kernel, _ = conv_model()
    record = weights(model)[0].to_dict()
    assert record["channel_axis"] == 0
    by_channel = kernel.astype(np.float64).reshape(4, -1)
    np.testing.assert_allclose(record["channels"]["mean"], by_channel.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(record["channels"]["std"], by_channel.std(axis=1, ddof=1), rtol=1e-6)
    assert record["channels"]["min"] == by_channel.min(axis=1).tolist()
    assert record["channels"]["max"] == by_channel.max(axis=1).tolist()


def test_a_bias_has_no_channels():
    model, _, _ = conv_model()
    record = weights(model)[1].to_dict()
    assert record["channel_axis"] is None
    assert record["channels"] is None


def test_the_record_is_strict_json_with_the_fields_of_the_contract():
    model, _, _ = conv_model()
    record = json.loads(dump_json(weights(model, bins=7).to_dict()))
    assert list(record) == ["schema", "model", "weights", "absent", "left_out"]
    assert record["schema"] == "onnxscope.weights/1"
    assert list(record["weights"][0]) == [
        *("name", "layer", "role", "initializer", "folded", "shape", "dtype", "count", "mean", "std", "min", "max"),
        *("zero_fraction", "nan_count", "inf_count", "histogram", "channel_axis", "channels", "quantization"),
    ]
    assert len(record["weights"][0]["histogram"]["counts"]) == 7


def test_grouped_transposed_convolution_channels():
    groups, inner = 2, 3
    kernel = RNG.normal(size=(4, inner, 2, 2)).astype(np.float32)
    nodes = [helper.make_node("ConvTranspose", ["x", "up.weight"], ["y"], group=groups)]
    row = weights(model_of(nodes, {"up.weight": kernel}, inputs=(("x", [1, 4, 8, 8]),)))[0].to_dict()
    expected = [
        kernel[group * 2 : group * 2 + 2, channel].astype(np.float64).mean()
        for group in range(groups)
        for channel in range(inner)
    ]
    np.testing.assert_allclose(row["channels"]["mean"], expected, rtol=1e-6)


def test_anonymous_initializers_are_named_after_consumer_and_role():
    nodes = [
        helper.make_node("Conv", ["x", "onnx::Conv_24", "onnx::Conv_25"], ["y"], name="/layer1/layer1.0/conv1/Conv")
    ]
    initializers = {"onnx::Conv_24": np.ones((4, 3, 3, 3), np.float32), "onnx::Conv_25": np.ones(4, np.float32)}
    statistics = weights(model_of(nodes, initializers, producer="pytorch"))
    assert [row.parameter.name for row in statistics] == ["layer1.0.conv1.weight", "layer1.0.conv1.bias"]
    assert [row.parameter.initializer for row in statistics] == ["onnx::Conv_24", "onnx::Conv_25"]
    assert all(row.parameter.folded for row in statistics)


def test_a_convolution_that_kept_its_names_is_not_called_folded():
    model, _, _ = conv_model()
    assert not any(row.parameter.folded for row in weights(model))


def test_tied_parameters_have_a_row_per_name_and_one_initializer():
    nodes = [
        helper.make_node("Identity", ["bn1.weight"], ["bn2.weight"]),
        helper.make_node("Mul", ["x", "bn1.weight"], ["h"]),
        helper.make_node("Mul", ["h", "bn2.weight"], ["y"]),
    ]
    statistics = weights(model_of(nodes, {"bn1.weight": np.ones((1, 3, 1, 1), np.float32)}))
    assert [row.parameter.name for row in statistics] == ["bn1.weight", "bn2.weight"]
    assert {row.parameter.initializer for row in statistics} == {"bn1.weight"}


def test_control_operands_are_no_parameters():
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["h"]),
        helper.make_node("Reshape", ["h", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "fc.weight"], ["y"]),
    ]
    initializers = {
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
        "shape": np.array([1, 192], np.int64),
        "fc.weight": np.ones((192, 5), np.float32),
    }
    assert [row.parameter.name for row in weights(model_of(nodes, initializers))] == ["fc.weight"]


def test_a_weight_behind_transpose_keeps_its_stored_axes():
    kernel = RNG.normal(size=(3, 3, 3, 4)).astype(np.float32)  # height, width, in, out, as Keras stores it
    nodes = [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[3, 2, 0, 1]),
        helper.make_node("Conv", ["x", "kt"], ["y"], name="conv"),
    ]
    row = weights(model_of(nodes, {"k": kernel}))[0]
    assert row.parameter.shape == (3, 3, 3, 4)
    assert row.parameter.channel_axis == 3
    np.testing.assert_allclose(
        row.to_dict()["channels"]["mean"], kernel.astype(np.float64).mean(axis=(0, 1, 2)), rtol=1e-6
    )


def test_dequantized_weights_are_real_numbers():
    stored = RNG.integers(-127, 128, size=(4, 3, 3, 3)).astype(np.int8)
    scale = np.array([0.5, 0.25, 0.125, 2.0], np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
    ]
    row = weights(model_of(nodes, {"w_q": stored, "w_scale": scale, "w_zero": np.zeros(4, np.int8)}))[0]
    assert row.parameter.dtype == "int8"
    assert_row(row, stored.astype(np.float32) * scale[:, None, None, None])


def test_weights_of_qlinearconv_are_real_numbers():
    stored = RNG.integers(0, 256, size=(2, 3, 1, 1)).astype(np.uint8)
    bias = np.array([40, -8], np.int32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("QLinearConv", ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], name="conv"),
    ]
    initializers = {
        "xs": np.float32(0.5),
        "xz": np.uint8(0),
        "w": stored,
        "ws": np.float32(0.25),
        "wz": np.uint8(128),
        "ys": np.float32(1),
        "yz": np.uint8(0),
        "b": bias,
    }
    initializers = {name: np.asarray(value) for name, value in initializers.items()}
    statistics = weights(model_of(nodes, initializers))
    assert [row.parameter.role for row in statistics] == ["weight", "bias"]
    assert_row(statistics[0], (stored.astype(np.float32) - 128) * 0.25)
    assert_row(statistics[1], bias * 0.125)


def test_weights_made_by_nodes_are_said_to_be_absent():
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["shape"], ["w"], value=numpy_helper.from_array(np.array([0.5], np.float32))
        ),
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
    ]
    statistics = weights(model_of(nodes, {"shape": np.array([4, 3, 3, 3], np.int64)}))
    assert len(statistics) == 0
    assert statistics.absent == (("conv.weight", "computed by ConstantOfShape, not stored"),)


def test_weights_in_constant_nodes_count():
    kernel = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(kernel)),
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
    ]
    statistics = weights(model_of(nodes, {}))
    assert [row.parameter.name for row in statistics] == ["conv.weight"]
    assert_row(statistics[0], kernel)


def test_recorded_parameters_come_first_in_the_frameworks_order():
    kernel = RNG.normal(size=(3, 3, 3, 4)).astype(np.float32)
    records = (
        ParameterRecord("net/conv2d/bias", "conv2d", (4,), "float32", reason="dropped: all zeros"),
        ParameterRecord("net/conv2d/kernel", "conv2d", (3, 3, 3, 4), "float32", "w", (3, 2, 0, 1)),
    )
    metadata = write_provenance(Provenance("tensorflow", "2.21", "deployed", "net", "unit", records))
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="Conv__91")]
    model = model_of(nodes, {"w": np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))}, metadata=metadata)
    statistics = weights(model)
    row = only(statistics, "net/conv2d/kernel")
    assert row.parameter.layer == "conv2d"
    assert row.parameter.shape == (3, 3, 3, 4)
    assert row.parameter.channel_axis == 3
    assert_row(row, kernel)
    assert statistics.absent == (("net/conv2d/bias", "dropped: all zeros"),)
    loaded = onnxscope.load_model(model)
    np.testing.assert_array_equal(read_parameter(loaded, loaded.parameters[0]), kernel)


def test_a_record_that_names_no_initializer_of_the_file_is_absent():
    records = (ParameterRecord("fc.weight", "fc", (2, 2), "float32", "elsewhere"),)
    metadata = write_provenance(Provenance("torch", "2.13", "faithful", "net", None, records))
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, metadata=metadata)
    assert weights(model).absent == (("fc.weight", "not in the file"),)


def test_weights_inside_a_branch_are_found():
    kernel = RNG.normal(size=(8, 5)).astype(np.float32)
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner.weight"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(kernel, "inner.weight")],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)]
    model = model_of(nodes, {"c": np.array(True)})
    statistics = weights(model)
    assert [row.parameter.name for row in statistics] == ["inner.weight"]
    assert_row(statistics[0], kernel)


def branches(then_branch, else_branch, stored=""):
    """An If of two branches, `stored` in the graph around it."""
    return onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 17]>
        g (bool c, float[N, 2] x) => (float[N, 2] y) {stored} {{ y = If (c) <
            then_branch = t () => (float[N, 2] p) {then_branch},
            else_branch = e () => (float[N, 2] q) {else_branch}> }}""")


def test_branches_that_give_two_weights_one_name_have_a_row_for_each():
    statistics = weights(
        branches(
            "<float[2, 2] w = {1, 2, 3, 4}> { p = MatMul(x, w) }",
            "<float[2, 2] w = {5, 6, 7, 8}> { q = MatMul(x, w) }",
        )
    )
    rows = [(row.parameter.name, row.parameter.layer, row.parameter.initializer) for row in statistics]
    assert rows == [("w", "MatMul_0", "w"), ("w_2", "MatMul_1", "w")]
    assert_row(statistics[0], [1, 2, 3, 4])
    assert_row(statistics[1], [5, 6, 7, 8])


def test_a_quantized_weight_of_each_branch_has_a_row_too():
    quantized = "<int8[2, 2] w = {1, 2, 3, 4}, float s = {0.5}>"
    model = branches(
        f"{quantized} {{ r = DequantizeLinear(w, s)  p = MatMul(x, r) }}",
        f"{quantized} {{ r = DequantizeLinear(w, s)  q = MatMul(x, r) }}",
    )
    assert [parameter.name for parameter in load_model(model).parameters] == ["w", "w_2"]


@pytest.mark.parametrize("dequantized", ["once, outside", "in either branch"])
def test_a_weight_that_two_branches_share_is_one_parameter(dequantized):
    stored = "<int8[2, 2] w = {1, 2, 3, 4}, float s = {0.5}>"
    if dequantized == "once, outside":
        model = branches("{ p = MatMul(x, r) }", "{ q = MatMul(x, r) }", stored)
        model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["w", "s"], ["r"]))
    else:
        model = branches(
            "{ r = DequantizeLinear(w, s)  p = MatMul(x, r) }",
            "{ o = DequantizeLinear(w, s)  q = MatMul(x, o) }",
            stored,
        )
    assert [parameter.name for parameter in load_model(model).parameters] == ["w"]


def test_unused_weights_are_listed():
    model, _, _ = conv_model()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(9, np.float32), "old.weight"))
    assert [row.parameter.name for row in weights(model)] == ["conv1.weight", "conv1.bias", "old.weight"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("conv1.bias", ["conv1.bias"]),
        ("conv1", ["conv1.weight", "conv1.bias"]),
        ("*.weight", ["conv1.weight"]),
        ("value:conv1.weight", ["conv1.weight"]),
        ("op:Conv", ["conv1.weight", "conv1.bias"]),
        ("node:/conv1/*", ["conv1.weight", "conv1.bias"]),
        ("rank:4", ["conv1.weight"]),
        ("!*.bias", ["conv1.weight"]),
        ("re:conv\\d\\.w.*", ["conv1.weight"]),
    ],
)
def test_selecting(selector, expected):
    model, _, _ = conv_model()
    assert [row.parameter.name for row in weights(model, select=selector)] == expected


def test_a_selector_that_matches_nothing_lists_the_closest():
    model, _, _ = conv_model()
    with pytest.raises(SelectorError, match=r"nothing matches the selector 'conv1.wieght': g") as caught:
        weights(model, select="conv1.wieght")
    assert "conv1.weight" in caught.value.hint


def test_threads_do_not_change_a_byte():
    arrays = {f"w{index}": RNG.normal(size=(64, 513)).astype(np.float32) for index in range(12)}
    nodes = [
        helper.make_node("MatMul", ["x" if index == 0 else f"h{index - 1}", name], [f"h{index}"])
        for index, name in enumerate(arrays)
    ]
    model = model_of(nodes, arrays, inputs=(("x", [1, 64]),))
    assert dump_json(weights(model, threads=1).to_dict()) == dump_json(weights(model, threads=3).to_dict())


def test_the_layer_recorded_on_a_node_wins():
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="/scope/Conv")
    node.metadata_props.add(key=LAYER_KEY, value="features/conv2d")
    statistics = weights(model_of([node], {"w": np.ones((4, 3, 1, 1), np.float32)}))
    assert statistics[0].parameter.layer == "features/conv2d"


def test_the_record_shows_itself():
    model, _, _ = conv_model()
    statistics = weights(model)
    assert "conv1.weight" in repr(statistics)
    assert "<td>conv1.weight</td>" in statistics._repr_html_()
    assert statistics[0].plot().axes[0].get_title()
