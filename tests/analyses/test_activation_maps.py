"""class_activation(): maps against linear algebra, which layer is looked at, and what the record shows."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnx.parser
import pytest
from class_models import CLASSES, KERNELS, X, channels_first, evaluated, refusal, residual, scaled, with_weights
from onnx import numpy_helper
from PIL import Image

from onnxscope.analyses.activation_maps import class_activation
from onnxscope.base.json_files import dump_json
from onnxscope.errors import InputError, SelectorError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
RNG = np.random.default_rng(22)
METHODS = ("eigen", "ablation", "score")


def channels_last():
    return with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float[batch, 8, 10, 3] x) => (float[batch, 4] y) {
            t = Transpose<perm = [0, 3, 1, 2]>(x)
            a = Conv(t, kernels)
            b = Transpose<perm = [0, 2, 3, 1]>(a)
            h = Relu(b)
            p = ReduceMean<axes = [1, 2], keepdims = 0>(h)
            y = MatMul(p, classes)
        }""",
        kernels=KERNELS,
        classes=CLASSES,
    )


def eigen(activation):
    """EigenCAM of (C, H, W) by numpy's full decomposition."""
    rows = activation.reshape(len(activation), -1).T.astype(np.float64)
    _, sizes, right = np.linalg.svd(rows, full_matrices=False)
    projection = rows @ right[0]
    projection *= np.sign(np.vdot(projection, rows.mean(axis=1)))
    return scaled(projection).reshape(activation.shape[1:]), sizes[0] ** 2 / (sizes**2).sum()


def test_eigen_is_the_projection_on_the_first_singular_vector():
    for sample in range(3):
        expected, share = eigen(evaluated(channels_first(), "h", X)[sample])
        found = class_activation(channels_first(), X, sample=sample)
        assert (found.tap.name, found.tap.layer, found.map.dtype, found.map.shape) == (
            "h",
            "Conv_0",
            np.float32,
            (6, 8),
        )
        np.testing.assert_allclose(found.map, expected, atol=1e-5)
        assert found.explained == pytest.approx(share, rel=1e-5)
        assert (found.output, found.target, found.score) == (None, None, None)


@pytest.mark.parametrize("shape", [(2, 5, 6), (40, 2, 3)])
def test_the_sign_of_an_eigen_map_follows_the_mean_over_channels(shape):
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[b, c, h, w] x) => (float[b, c, h, w] y) { y = Identity(x) }""")
    for offset in (-3, 3):
        x = (RNG.normal(size=(1, *shape)) + offset).astype(np.float32)
        found = class_activation(model, x, layer="value:y")
        np.testing.assert_allclose(found.map, eigen(x[0])[0], atol=1e-5)
        expected = scaled(x[0].mean(axis=0).astype(np.float64))
        assert np.corrcoef(found.map.ravel(), expected.ravel())[0, 1] > 0


def test_extremes_do_not_overflow_and_zeros_give_an_empty_map():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        net (double[1, 2, 3, 3] x) => (double[1, 2, 3, 3] y) { y = Identity(x) }""")
    x = RNG.uniform(0, 1e300, (1, 2, 3, 3))
    assert np.isfinite(class_activation(model, x, layer="y").map).all()
    found = class_activation(model, 0 * x, layer="y")
    assert found.explained is None
    assert not found.map.any()
    found = class_activation(model, 0 * x + 2, layer="y")
    assert found.explained == pytest.approx(1)
    assert not found.map.any()


@pytest.mark.parametrize("method", METHODS)
def test_channels_last_give_the_map_of_channels_first(method):
    last = class_activation(channels_last(), np.moveaxis(X, 1, 3), method=method, sample=2)
    first = class_activation(channels_first(), X, method=method, sample=2)
    assert last.tap.channel_axis in (-1, 3)
    np.testing.assert_allclose(last.map, first.map, atol=1e-5)
    np.testing.assert_allclose(np.asarray(last.overlay()), np.asarray(first.overlay()), atol=2)


def test_the_last_convolution_is_followed_through_the_residual_sum_and_has_spatial_axes():
    x = X[:1, :, :6, :6]
    found = class_activation(residual(), x)
    assert (found.tap.name, found.tap.layer, found.tap.op_type) == ("h", "Conv_0", "Conv")
    np.testing.assert_allclose(found.map, eigen(evaluated(residual(), "h", x)[0])[0], atol=1e-5)
    assert class_activation(residual(), x, layer="Conv_0").tap.name == "a"


def test_an_input_without_a_batch_axis(tmp_path):
    model = with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float[3, 8, 10] x) => (float[1, 4] y) <int64[1] first = {0}> {
            i = Unsqueeze(x, first)
            a = Conv(i, kernels)
            h = Relu(a)
            p = GlobalAveragePool(h)
            f = Flatten(p)
            y = MatMul(f, classes)
        }""",
        kernels=KERNELS,
        classes=CLASSES,
    )
    Image.fromarray(RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    photo = str(tmp_path / "photo.png")
    for method in METHODS:
        found = class_activation(model, photo, method=method, preprocess="unit")
        twin = class_activation(channels_first(), photo, method=method, preprocess="unit")
        np.testing.assert_allclose(found.map, twin.map, atol=1e-6)
        assert found.overlay().size == (220, 176)
    assert refusal(model, photo, sample=1, preprocess="unit") == ("no sample 1 among 1: net", "samples count from 0")


def test_half_precision_and_whole_numbers_in_the_input():
    half = with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float16[batch, 3, 8, 10] x) => (float16[batch, 4] y) {
            a = Conv(x, kernels)
            h = Relu(a)
            p = GlobalAveragePool(h)
            f = Flatten(p)
            y = MatMul(f, classes)
        }""",
        kernels=KERNELS.astype(np.float16),
        classes=CLASSES.astype(np.float16),
    )
    for method in METHODS:
        found = class_activation(half, X.astype(np.float16), method=method)
        np.testing.assert_allclose(found.map, class_activation(channels_first(), X, method=method).map, atol=0.1)
    model = channels_first()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["real"], to=onnx.TensorProto.FLOAT))
    model.graph.node[1].input[0] = "real"
    x = RNG.integers(0, 256, (1, 3, 8, 10), dtype=np.uint8)
    found = class_activation(model, x, method="score")
    expected = class_activation(channels_first(), x.astype(np.float32), method="score")
    np.testing.assert_allclose(found.map, expected.map, atol=0.05)


def test_the_trained_network_looks_at_the_strokes():
    model, digits = str(FIXTURES / "digits.onnx"), FIXTURES / "digits.npz"
    images = np.load(digits)["digits"]
    for method in METHODS:
        inside = 0.0
        for sample in range(8):
            found = class_activation(model, str(digits), method=method, sample=sample)
            shown = np.asarray(Image.fromarray(found.map).resize((8, 8), Image.Resampling.BILINEAR))
            stroke = images[sample, 0] > 0.5
            inside += float(shown[stroke].mean() > shown[~stroke].mean())
        assert inside >= 5, method


def test_the_same_input_gives_the_same_bytes_and_the_record_is_strict_json():
    for method in METHODS:
        one, two = (class_activation(channels_first(), X, method=method, threads=threads) for threads in (1, 2))
        assert one.map.tobytes() == two.map.tobytes()
        assert one.overlay().tobytes() == two.overlay().tobytes()
        record = json.loads(dump_json(one.to_dict()))
        assert list(record) == [
            *("schema", "model", "input", "name", "layer", "op_type", "method", "sample"),
            *("output", "target", "score", "explained", "map"),
        ]
        assert record["schema"] == "onnxscope.class_activation/1"
        np.testing.assert_array_equal(np.array(record["map"], np.float32), one.map)


def test_the_record_shows_itself_and_escapes_names():
    model = channels_first()
    model.graph.node[0].name = "<script>1</script>"
    found = class_activation(model, X, method="ablation")
    assert repr(found) == f"<Ablation-CAM, class {found.target}: <script>1</script>, 6 x 8: net>"
    shown = found._repr_html_()
    assert "<script>" not in shown
    assert 'src="data:image/png;base64,' in shown
    figure = found.plot()
    assert figure.axes[0].get_title() == found.title
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.asarray(found.overlay()))


def test_the_overlay_lies_over_the_cropped_photograph():
    found = class_activation(channels_first_of(40, 40), str(HOPPER), preprocess="imagenet")
    assert found.picture is not None
    assert found.picture.size == (40, 40)
    assert found.overlay().size == (200, 200)
    assert found.overlay(cmap="magma").tobytes() != found.overlay().tobytes()


def channels_first_of(height, width):
    model = channels_first()
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (height, width), strict=True):
        dim.dim_value = size
    return model


def test_a_value_without_a_picture_is_shown_alone():
    model = with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float[b, 5, 6, 6] x) => (float[b, 5, 4, 4] y) { y = Conv(x, kernels) }""",
        kernels=RNG.normal(size=(5, 5, 3, 3)).astype(np.float32),
    )
    found = class_activation(model, "random:3")
    assert found.picture is None
    assert found.overlay().size == (224, 224)


def test_refusals_of_options():
    model = channels_first()
    assert refusal(model, X, method="grad") == ("unknown method 'grad'", "one of eigen, ablation, score")
    assert refusal(model, X, target=1) == (
        "EigenCAM knows no classes, and was asked for class 1",
        "ablation and score do",
    )
    assert refusal(model, X, batch_size=0) == ("a batch of 0 samples is none", "give at least 1")
    assert refusal(model, X, sample=3) == ("no sample 3 among 3: net", "samples count from 0")
    for target in (-1, 4):
        assert refusal(model, X, method="score", target=target) == (
            f"no class {target} among 4: output 'y' of net",
            "classes count from 0",
        )
    assert refusal(model, X, layer="fc", error=SelectorError)[0] == "nothing matches the selector 'fc': net"
    assert refusal(model, X, layer="rank:4") == (
        "4 values, not one, match the selector 'rank:4': net",
        "one of them: value:x, value:a, value:h, …",
    )


def test_refusals_of_values():
    model = channels_first()
    choose = "choose the layer of a convolution; `onnxscope inspect` lists them"
    fault = "no two spatial axes in a value of shape (1, 4): MatMul_0: net"
    assert refusal(model, X, layer="value:y") == (fault, choose)
    dense = with_weights(
        '<ir_version: 9, opset_import: ["": 17]> net (float[b, 5] x) => (float[b, 4] y) { y = MatMul(x, classes) }',
        classes=CLASSES,
    )
    assert refusal(dense, "random") == ("no convolution with spatial axes: net", "name a layer that has them")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(KERNELS * np.float32(np.nan), "kernels"))
    fault = "no map of values that are not finite (240 of 240): Conv_0: net"
    assert refusal(model, X, layer="value:a") == (fault, None)
    whole = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        net (uint8[b, 2, 3, 3] x) => (uint8[b, 2, 3, 3] y) { y = Identity(x) }""")
    assert refusal(whole, "random", layer="y") == ("no map of whole numbers (uint8): Identity_0: net", choose)
    words = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[b, 2, 3, 3] x, string[b] s) => (string[b] y) { y = Identity(s) }""")
    inputs = {"x": np.zeros((1, 2, 3, 3), np.float32), "s": np.array(["a"])}
    assert refusal(words, inputs, layer="value:y")[0] == "no map of y (strings have no statistics): net"


def test_a_layer_inside_a_body_has_an_eigen_map_only():
    model = with_weights(
        """
        <ir_version: 10, opset_import: ["": 21]>
        net (float[1, 3, 8, 10] x, bool c) => (float[1, 4] y) {
            p = If(c) <then_branch = t () => (float[1, 5, 1, 1] u) { h = Conv(x, kernels) u = GlobalAveragePool(h) },
                       else_branch = e () => (float[1, 5, 1, 1] v) { k = Conv(x, kernels) v = GlobalAveragePool(k) }>
            f = Flatten(p)
            y = MatMul(f, classes)
        }""",
        kernels=KERNELS,
        classes=CLASSES,
    )
    inputs = {"x": X[:1], "c": np.array(True)}
    found = class_activation(model, inputs, layer="value:h")
    expected = eigen(evaluated(channels_first(), "a", X[:1])[0])[0]
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    assert refusal(model, inputs, layer="value:h", method="ablation")[0].startswith(
        "no channel can be left out inside the body of then_branch: "
    )
    fault = refusal(model, inputs, layer="value:k")[0]
    assert fault.startswith("no map of a value without numbers (the else_branch that holds it was not executed")


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("method", METHODS[:2])
def test_samples_along_another_axis(method, fixed):
    model = with_weights(
        f"""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[3, {1 if fixed else "n"}, 8, 10] x) => (float[n, 4] y) {{
            t = Transpose<perm = [1, 0, 2, 3]>(x)
            a = Conv(t, kernels)
            h = Relu(a)
            p = ReduceMean<axes = [2, 3], keepdims = 0>(h)
            y = MatMul(p, classes)
        }}""",
        kernels=KERNELS,
        classes=CLASSES,
    )
    x = np.ascontiguousarray(X.transpose(1, 0, 2, 3))
    for sample in range(3):
        found = class_activation(model, x, batch_axis=1, sample=sample, method=method)
        alone = {name: evaluated(model, name, x[:, sample : sample + 1])[0] for name in "hy"}
        if method == "eigen":
            np.testing.assert_allclose(found.map, eigen(alone["h"])[0], atol=1e-5)
        else:
            assert (found.target, found.score) == (alone["y"].argmax(), pytest.approx(alone["y"].max(), rel=1e-5))
            weights = [
                (
                    alone["y"].max()
                    - np.delete(alone["h"], [c], 0).mean((1, 2)) @ np.delete(CLASSES, c, 0)[:, found.target]
                )
                / abs(alone["y"].max())
                for c in range(len(alone["h"]))
            ]
            expected = np.maximum(np.tensordot(weights, alone["h"].astype(np.float64), 1), 0)
            np.testing.assert_allclose(found.map, scaled(expected), atol=1e-4)
    with pytest.raises(InputError, match="no sample 3 among 3"):
        class_activation(model, x, batch_axis=1, sample=3)
