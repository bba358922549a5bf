"""Exports against Keras itself: outputs, the value of each layer, every variable."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

from converters.tensorflow_helpers import HERE, convert, layer_of, make, quiet, random

from converters import tensorflow_helpers as helpers
from onnxscope.errors import ConversionError

SHAPE = (2, 12, 12, 3)


def _close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


def _same_up_to_layout(found, expected):
    """Whether two arrays are the same but for the order of their axes."""
    return any(
        found.shape == tuple(expected.shape[axis] for axis in order)
        and np.allclose(found, expected.transpose(order), rtol=1e-5, atol=1e-5)
        for order in itertools.permutations(range(expected.ndim))
    )


def _values(converted):
    return tuple(name for node in converted.model.graph.node for name in node.output)


def _check_every_variable(converted, model):
    assert [record.name for record in converted.provenance.parameters] == [v.path for v in model.variables]
    for variable in model.weights:
        record = converted.records[variable.path]
        stored = converted.initializers[record.initializer]
        assert record.initializer == variable.path
        assert (record.shape, record.dtype) == (tuple(variable.shape), variable.dtype)
        assert (record.permutation, record.reason, record.folded) == (None, None, False)
        assert stored.tobytes() == variable.numpy().tobytes()


@pytest.fixture(scope="module")
def faithful(tmp_path_factory):
    return convert(f"{HERE}:residual", tmp_path_factory.mktemp("faithful"))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    return convert(f"{HERE}:residual", tmp_path_factory.mktemp("deployed"), mode="deployed")


def test_the_outputs_are_those_of_keras(faithful, deployed):
    image = random(*SHAPE)
    expected = quiet(make(helpers.residual), image).numpy()
    _close(faithful.run(image)[0], expected)
    _close(deployed.run(image)[0], expected)


def test_every_layer_has_its_own_value(faithful):
    model, image = make(helpers.residual), random(*SHAPE)
    taps = tuple(name for name in _values(faithful) if name != "fc")
    tapped = dict(zip(("fc", *taps), faithful.run(image, taps=taps), strict=True))
    named = {node.output[0]: layer_of(node) for node in faithful.model.graph.node}
    for layer in model.layers:
        if layer.name in ("image", "drop"):  # an input, and what does nothing in inference
            continue
        expected = quiet(helpers.keras.Model(model.inputs, layer.output), image).numpy()
        own = [value for name, value in tapped.items() if named[name] == layer.name]
        assert any(_same_up_to_layout(value, expected) for value in own), layer.name


def test_every_variable_keeps_its_name_and_its_bits(faithful):
    model = make(helpers.residual)
    _check_every_variable(faithful, model)
    layers = {name: record.layer for name, record in faithful.records.items()}
    assert layers["conv1/kernel"] == "conv1"
    assert layers["bn2/moving_variance"] == "bn2"
    state = faithful.records["seed_generator/seed_generator_state"]
    assert (state.initializer, state.reason) == (None, "random state")
    assert (faithful.report.parameters, faithful.report.absent) == (len(model.variables), 1)


def test_the_nodes_of_one_layer_carry_its_name(faithful):
    assert [op for op in faithful.operators("conv3") if op != "Transpose"] == ["Conv", "Relu"]
    assert faithful.operators("fc") == ["MatMul", "Add", "Softmax"]
    assert "Pad" in faithful.operators("pad")
    assert faithful.operators("add") == ["Add"]
    assert faithful.operators("out") == ["Relu"]
    assert "MaxPool" in faithful.operators("pool")
    assert "Reshape" in faithful.operators("flat")
    assert None not in {layer_of(node) for node in faithful.model.graph.node}


def test_a_bias_is_read_by_its_convolution_without_detours(faithful):
    conv = next(n for n in faithful.model.graph.node if n.op_type == "Conv" and layer_of(n) == "conv3")
    assert conv.input[2] == "conv3/bias"


def test_inputs_outputs_and_dimensions_have_names(faithful):
    assert faithful.shapes == {"image": ["batch", 12, 12, 3], "fc": ["batch", 5]}
    onnx.checker.check_model(faithful.model, full_check=True)


def test_provenance_says_where_the_model_came_from(faithful, deployed):
    provenance = faithful.provenance
    assert (provenance.framework, provenance.mode, provenance.preprocess) == ("tensorflow", "faithful", None)
    assert (provenance.source, provenance.version) == ("residual", helpers.tf.__version__)
    assert deployed.provenance.mode == "deployed"
    assert str(faithful.path.parent).encode() not in faithful.path.read_bytes()
    assert HERE.encode() not in faithful.path.read_bytes()


def test_deployed_folds_and_says_into_what(deployed):
    model = make(helpers.residual)
    kernel = deployed.records["conv1/kernel"]
    assert (kernel.folded, kernel.permutation) == (True, (3, 2, 0, 1))
    gamma, variance = (model.get_layer("bn1").weights[i].numpy() for i in (0, 3))
    scale = gamma / np.sqrt(variance + model.get_layer("bn1").epsilon)
    folded = (model.get_layer("conv1").kernel.numpy() * scale).transpose(kernel.permutation)
    np.testing.assert_allclose(deployed.initializers[kernel.initializer], folded, rtol=1e-5)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        assert deployed.records[f"bn1/{name}"].reason == "folded into conv1/kernel"
    whole = deployed.records["conv3/kernel"]
    assert (whole.folded, whole.permutation) == (False, (3, 2, 0, 1))
    expected = model.get_layer("conv3").kernel.numpy().transpose(3, 2, 0, 1)
    assert deployed.initializers[whole.initializer].tobytes() == expected.tobytes()
    assert deployed.records["fc/bias"].permutation is None
    assert any("were folded into others, first 'bn1/" in note for note in deployed.report.notes)


def test_deployed_says_that_zero_biases_were_dropped(tmp_path):
    converted = convert(f"{HERE}:sequential", tmp_path, mode="deployed")
    image = random(2, 8, 8, 3)
    _close(converted.run(image)[0], quiet(make(helpers.sequential), image).numpy())
    reasons = {record.reason for record in converted.provenance.parameters if record.name.endswith("/bias")}
    assert reasons == {"dropped: all zeros"}
    depthwise = converted.records["sequential/separable_conv2d/depthwise_kernel"]
    assert depthwise.initializer is not None
    assert not depthwise.folded


def test_sequential_models_lose_their_own_scope_only_in_layers(tmp_path):
    converted, model, image = convert(f"{HERE}:sequential", tmp_path), make(helpers.sequential), random(2, 8, 8, 3)
    _close(converted.run(image)[0], quiet(model, image).numpy())
    _check_every_variable(converted, model)
    assert converted.records["sequential/conv2d/kernel"].layer == "conv2d"
    labels = {layer_of(node) for node in converted.model.graph.node}
    assert labels >= {"conv2d", "leaky_re_lu", "depthwise_conv2d", "conv2d_transpose", "layer_normalization", "dense"}
    assert not any(label and label.startswith("sequential") for label in labels)
    assert [t for t in converted.operators("depthwise_conv2d") if t in ("Conv", "Relu")] == ["Conv", "Relu"]


def test_a_layer_called_twice_and_a_nested_model(tmp_path):
    converted, model, image = convert(f"{HERE}:shared", tmp_path), make(helpers.shared), random(2, 6, 6, 2)
    _close(converted.run(image)[0], quiet(model, image).numpy())
    _check_every_variable(converted, model)
    convolutions = [layer_of(node) for node in converted.model.graph.node if node.op_type == "Conv"]
    assert convolutions == ["twice", "twice", "features/conv2d"]
    activations = [layer_of(node) for node in converted.model.graph.node if node.op_type == "Relu"]
    assert activations == ["between", "features/re_lu"]
    assert "Mul" in converted.operators("multiply")


def test_a_subclassed_model_is_built_by_a_call(tmp_path):
    shapes = (("", (1, 5, 5, 3)),)
    converted = convert(f"{HERE}:Subclassed", tmp_path, input_shapes=shapes, arguments={"width": 6})
    model, image = make(helpers.Subclassed, 6), random(2, 5, 5, 3)
    quiet(model, helpers.keras.Input((5, 5, 3)))
    expected = quiet(model, image)
    found = dict(zip(("map", "scores"), converted.run(image), strict=True))
    for name, value in expected.items():
        _close(found[name], value.numpy())
    layers = {name: record.layer for name, record in converted.records.items()}
    assert layers["subclassed/block/conv/kernel"] == "block/conv"
    assert layers["subclassed/head/dense/bias"] == "head/dense"
    assert layers["subclassed/scale"] == ""
    idle = converted.records["subclassed/idle"]
    assert (idle.initializer, idle.reason) == (None, "not used by call()")
    assert any("not used by the model's call, first 'subclassed/idle'" in note for note in converted.report.notes)
    assert converted.operators("block") == ["Add", "Relu"]
    assert "Conv" in converted.operators("block/conv")
    assert converted.shapes["x"] == ["batch", 5, 5, 3]
    for variable in model.weights:
        if variable.path != "subclassed/idle":
            assert converted.initializers[variable.path].tobytes() == variable.numpy().tobytes()


def test_several_inputs_of_a_subclass_go_by_the_arguments_of_call(tmp_path):
    shapes = (("ids:int32", (1, None)), ("extra", (1, 3)))
    converted = convert(f"{HERE}:Pair", tmp_path, input_shapes=shapes)
    model, ids, extra = make(helpers.Pair), np.arange(8, dtype=np.int32).reshape(2, 4), random(2, 3)
    quiet(lambda: model(ids=helpers.keras.Input((None,), dtype="int32"), extra=helpers.keras.Input((3,))))
    _close(converted.run(ids, extra)[0], quiet(lambda: model(ids, extra)).numpy())
    assert converted.shapes["ids"] == ["batch", "ids_1"]
    assert converted.model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT32


def test_dictionaries_of_inputs_attention_and_recurrence(tmp_path):
    converted, model = convert(f"{HERE}:tokens", tmp_path), make(helpers.tokens)
    feeds = {"bias": random(2, 6), "ids": np.arange(10, dtype=np.int32).reshape(2, 5)}
    names = [value.name for value in converted.model.graph.input]
    _close(converted.run(*(feeds[name] for name in names))[0], quiet(model, feeds).numpy())
    assert sorted(names) == ["bias", "ids"]
    assert converted.shapes["ids"] == ["batch", "ids_1"]
    _check_every_variable(converted, model)
    loop = next(node for node in converted.model.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    assert {layer_of(node) for node in body.node} == {layer_of(loop)} == {"lstm"}
    assert "MatMul" in {node.op_type for node in body.node}
    products = [layer_of(n) for n in converted.model.graph.node if n.op_type == "Gemm"]
    assert {"attention/query", "attention/key", "attention/value"} <= set(products)


def test_static_keeps_the_first_axis(tmp_path):
    converted = convert(f"{HERE}:residual", tmp_path, input_shapes=(("", SHAPE),), static=True)
    assert converted.shapes == {"image": [2, 12, 12, 3], "fc": [2, 5]}


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("Subclassed", {}, "the model does not say the shape of its input"),
        ("Subclassed", {"input_shapes": (("", (1, 5)),)}, "the model cannot be called on (?, 5)"),
        ("Subclassed", {"input_shapes": (("", (1, 0, 5, 3)),)}, "an input shape has a dimension below 1, (1, 0, 5, 3)"),
        ("Subclassed", {"input_shapes": ((":float31", (1, 5, 5, 3)),)}, "no element type named 'float31'"),
        ("Subclassed", {"input_shapes": (("x", (1, 2)), ("x", (1, 2)))}, "two shapes for the input 'x'"),
        ("residual", {"input_shapes": (("", (1, 9, 12, 3)),)}, "(1, 9, 12, 3) contradicts the model's (?, 12, 12, 3)"),
        ("residual", {"input_shapes": (("picture", SHAPE),)}, "no input named 'picture'"),
        ("residual", {"input_shapes": (("", SHAPE), ("", SHAPE))}, "2 input shapes for 1 inputs"),
        ("residual", {"input_shapes": (("image:int32", SHAPE),)}, "the input 'image' is float32, not int32"),
        ("residual", {"opset": 99}, "opset 99 cannot be written by tf2onnx"),
        ("residual", {"exporter": "dynamo"}, "no exporter 'dynamo' for TensorFlow"),
        ("untraceable", {}, "the model cannot be traced (RuntimeError: "),
        ("unsupported", {}, "ONNX opset 18 has nothing for TensorFlow's Lgamma (model/odd_1/Lgamma)"),
    ],
)
def test_what_does_not_work_is_said_in_one_line(tmp_path, factory, options, message):
    with pytest.raises(ConversionError) as caught:
        convert(f"{HERE}:{factory}", tmp_path, **options)
    assert message in str(caught.value)
    assert str(caught.value).endswith(f": {HERE}:{factory}")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_shape_comes_with_the_option_that_gives_it(tmp_path):
    with pytest.raises(ConversionError) as caught:
        convert(f"{HERE}:Subclassed", tmp_path)
    assert caught.value.hint == "`--input-shape 1,224,224,3`, once for each input"


def test_the_opset_can_be_chosen(tmp_path):
    converted = convert(f"{HERE}:embedding", tmp_path, opset=15)
    assert converted.model.opset_import[0] == onnx.helper.make_opsetid("", 15)
    assert converted.report.opset == 15
    ids = np.array([[1, 2, 6]], np.int32)
    _close(converted.run(ids)[0], quiet(make(helpers.embedding), ids).numpy())


def test_a_model_that_its_factory_has_called_needs_no_shape(tmp_path):
    converted, model, image = convert(f"{HERE}:called", tmp_path), make(helpers.called), random(2, 5, 5, 3)
    assert next(iter(converted.shapes.items())) == ("x", ["batch", 5, 5, 3])
    _close(converted.run(image)[1], quiet(model, image)["scores"].numpy())


def test_a_sequential_without_an_input_takes_the_given_shape(tmp_path):
    converted = convert(f"{HERE}:deferred", tmp_path, input_shapes=(("", (1, 6, 6, 2)),))
    model, image = make(helpers.deferred), random(3, 6, 6, 2)
    quiet(model, helpers.keras.Input((6, 6, 2)))
    _close(converted.run(image)[0], quiet(model, image).numpy())
    assert {record.layer for record in converted.provenance.parameters} == {"conv", "fc"}


@pytest.mark.parametrize("names", [("", ""), ("left", "right")])
def test_one_argument_for_several_inputs(tmp_path, names):
    shapes = tuple((name, (1, 2)) for name in names)
    converted = convert(f"{HERE}:Several", tmp_path, input_shapes=shapes)
    left, right = random(3, 2), 1 - random(3, 2)
    kernel, bias = (converted.initializers[f"several/dense/{name}"] for name in ("kernel", "bias"))
    _close(converted.run(left, right)[0], left @ kernel + bias - 2 * right)
    assert list(converted.shapes)[:2] == (["left", "right"] if names[0] else ["inputs", "input_1"])


def test_an_optimizer_that_fails_is_left_out(tmp_path, monkeypatch):
    from tf2onnx import optimizer

    calls = []

    class Failing:
        graph_been_opt = False

        def optimize(self, graph, iteration):
            calls.append(iteration)
            raise RuntimeError("this optimizer has a fault")

    monkeypatch.setitem(optimizer._optimizers, "remove_identity", Failing)
    converted, image = convert(f"{HERE}:residual", tmp_path), random(*SHAPE)
    assert calls
    _close(converted.run(image)[0], quiet(make(helpers.residual), image).numpy())


def test_a_failure_of_tf2onnx_is_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("cannot\nat all")

    monkeypatch.setattr("tf2onnx.convert.from_function", fail)
    with pytest.raises(ConversionError) as caught:
        convert(f"{HERE}:embedding", tmp_path)
    assert str(caught.value) == f"tf2onnx cannot convert the model (ValueError: cannot): {HERE}:embedding"


def test_an_invalid_model_is_not_written(tmp_path, monkeypatch):
    graph = "g (float[N] x) => (float[N] y) { z = Relu(x) }"
    broken = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {graph}')
    monkeypatch.setattr("tf2onnx.convert.from_function", lambda *_, **__: (broken, None))
    with pytest.raises(ConversionError) as caught:
        convert(f"{HERE}:embedding", tmp_path)
    assert str(caught.value).startswith("tf2onnx made an invalid model (ValidationError: ")
    assert list(tmp_path.iterdir()) == []


def test_an_initializer_that_is_not_its_parameter_is_noticed(tmp_path, monkeypatch):
    attach = helpers.child.attach_parameters

    def spoil(exported):
        names = attach(exported)
        tensor = next(t for t in exported.model.graph.initializer if t.name == "fc/kernel")
        tensor.raw_data = bytes(len(tensor.raw_data))
        return names

    monkeypatch.setattr(helpers.child, "attach_parameters", spoil)
    with pytest.raises(ConversionError, match=r"^the initializer differs from its parameter: fc/kernel$"):
        convert(f"{HERE}:embedding", tmp_path)
