"""features(): what taps hold, on models whose values are known by hand or by onnx's own evaluator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from onnxscope.analyses.feature_maps import features
from onnxscope.base.json_files import dump_json
from onnxscope.errors import InputError, RunError, SelectorError
from onnxscope.profiling.dataset_run import stats
from onnxscope.reporting.reports import report

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
RNG = np.random.default_rng(3)


def parsed(text):
    return onnx.parser.parse_model(text)


@pytest.fixture
def convolutions():
    """Two convolutions, the first with a Relu."""
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[batch, 2, 6, 6] x) => (float[batch, 3, 2, 2] y) {
            a = Conv(x, w1)
            h = Relu(a)
            y = Conv(h, w2)
        }""")
    for name, shape in (("w1", (4, 2, 3, 3)), ("w2", (3, 4, 3, 3))):
        model.graph.initializer.append(numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name))
    return model


def test_statistics_agree_with_float64_numpy(convolutions):
    x = RNG.normal(size=(5, 2, 6, 6)).astype(np.float32)
    maps = features(convolutions, x)
    names = ["x", "a", "h", "y"]
    values = dict(zip(names, [x, *ReferenceEvaluator(convolutions).run(["a", "h", "y"], {"x": x})], strict=True))
    assert [tap.tap.name for tap in maps] == ["h", "y"]
    for tap in maps:
        expected = values[tap.tap.name].astype(np.float64)
        record = tap.to_dict()
        np.testing.assert_allclose(tap.data, expected, rtol=1e-4, atol=1e-5)
        held = tap.data.astype(np.float64)
        assert record["mean"] == pytest.approx(held.mean(), rel=1e-9)
        assert record["std"] == pytest.approx(held.std(ddof=1), rel=1e-9)
        assert (record["min"], record["max"]) == (held.min(), held.max())
        assert record["zero_fraction"] == np.mean(held == 0)


def test_the_record_has_the_fields_of_the_contract(convolutions):
    maps = features(convolutions, "random:1", verify=True)
    record = json.loads(dump_json(maps.to_dict({"h": "001_a.png"})))
    assert list(record) == ["schema", "model", "input", "taps", "unreachable", "tapping"]
    assert record["schema"] == "onnxscope.features/1"
    assert list(record["taps"][0]) == [
        *("name", "layer", "op_type", "at", "shape", "dtype", "channel_axis", "channels", "picture"),
        *("axes", "map", "no_picture", "mean", "std"),
        *("min", "max", "zero_fraction", "zero_channels", "nan_count", "inf_count"),
    ]
    assert record["taps"][0]["picture"] == "001_a.png"
    assert record["tapping"]["relative"] < 1e-5
    assert record["input"]["kind"] == "random"


def test_zero_channels_and_non_finite_values_are_counted():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[1, 2, 2, 2] x) => (float[1, 2, 2, 2] y) { y = Identity(x) }""")
    x = np.zeros((1, 2, 2, 2), np.float32)
    x[0, 1] = [[1, np.nan], [np.inf, 3]]
    record = features(model, x, select="value:y")[0].to_dict()
    assert record["zero_channels"] == [0]
    assert (record["nan_count"], record["inf_count"]) == (1, 1)
    assert (record["mean"], record["min"], record["max"]) == (pytest.approx(4 / 6), 0.0, 3.0)


@pytest.mark.parametrize(("rank", "expected"), [("index", [0, 1]), ("max", [3, 1]), ("mean", [2, 3]), ("std", [3, 1])])
def test_pictures_show_the_channels_asked_for(rank, expected):
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[1, 4, 1, 2] x) => (float[1, 4, 1, 2] y) { y = Identity(x) }""")
    x = np.array([[0, 0], [0, 5], [4, 4], [-2, 9]], np.float32).reshape(1, 4, 1, 2)
    tap = features(model, x, select="value:y", channels=2, rank=rank)[0]
    assert list(tap.channels) == expected
    np.testing.assert_array_equal(tap.maps(), x[0, expected])


def test_another_sample_can_be_shown(convolutions):
    x = RNG.normal(size=(3, 2, 6, 6)).astype(np.float32)
    tap = features(convolutions, x, sample=2)[0]
    np.testing.assert_array_equal(tap.maps(), tap.data[2])
    with pytest.raises(InputError, match=r"no sample 3 among 3: net"):
        features(convolutions, x, sample=3)


def test_a_fixed_batch_is_filled_run_by_run():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[2, 3] x) => (float[2, 3] y) { y = Neg(x) }""")
    x = RNG.normal(size=(6, 3)).astype(np.float32)
    np.testing.assert_array_equal(features(model, x, select="value:y")[0].data, -x)


def test_images_that_fill_a_fixed_batch_up_leave_no_trace(tmp_path):
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[4, 1, 8, 8] x) => (float[4, 1, 8, 8] y) { y = Neg(x) }""")
    Image.fromarray(RNG.integers(0, 256, (8, 8)).astype(np.uint8)).save(tmp_path / "digit.png")
    tap = features(model, tmp_path / "digit.png", select="value:y", preprocess="none")[0]
    assert tap.data.shape == (1, 1, 8, 8)


def test_an_initializer_is_a_tap_like_any_other(convolutions):
    tap = features(convolutions, "random", select="value:w1")[0]
    np.testing.assert_array_equal(tap.data, numpy_helper.to_array(convolutions.graph.initializer[0]))


def test_a_model_that_fails_says_so_in_one_line():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[n] x, float[m] z) => (float[k] y) { y = Add(x, z) }""")
    with pytest.raises(RunError, match=r"onnxruntime cannot run the model \(.*\): net") as caught:
        features(model, {"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)}, select="value:y")
    assert "\n" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)


def test_an_unknown_selector_is_an_error(convolutions):
    with pytest.raises(SelectorError, match="nothing matches the selector 'conv7'"):
        features(convolutions, "random", select="conv7")


def test_digits_are_recognised_from_the_tapped_values():
    """The network was trained: the pictures are of something."""
    with np.load(FIXTURES / "digits.npz") as archive:
        digits = archive["digits"]
    maps = features(FIXTURES / "digits.onnx", digits, select="value:output")
    stored = ReferenceEvaluator(str(FIXTURES / "digits.onnx")).run(None, {"digits": digits})[0]
    np.testing.assert_allclose(maps[0].data, stored, rtol=1e-3, atol=1e-4)


def test_records_show_themselves():
    maps = features(FIXTURES / "digits.onnx", FIXTURES / "digits.npz")
    assert "stem.0" in repr(maps)
    assert "<td>stem.0</td>" in maps._repr_html_()
    assert len(maps.layer("stem.0").plot().axes) >= 12
    with pytest.raises(KeyError):
        maps.layer("nowhere")
    flat = features(FIXTURES / "digits.onnx", FIXTURES / "digits.npz", select="value:output")[0]
    assert flat.image() is None
    with pytest.raises(InputError, match=r"no picture for a value of shape \[64, 10\]: output"):
        flat.plot()


def test_another_axis_of_samples_is_asked_for_as_in_stats():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[3, N, 2] x) => (float[3, N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }""")
    x = RNG.normal(size=(3, 5, 2)).astype(np.float32)
    maps = features(model, x, batch_axis=1)
    np.testing.assert_allclose(maps[0].data, x @ np.array([[1, 2], [3, 4]], np.float32), rtol=1e-6)
    assert (maps.input["samples"], maps.input["batch_axes"]) == (5, {"x": 1})
    assert features(model, x, batch_axis="none").input["batch_axes"] == {"x": None}
    with pytest.raises(InputError, match="axis 3"):
        features(model, x, batch_axis=3)


@pytest.mark.parametrize("selector", ["value:x", "x", "re:x"])
def test_an_input_that_is_selected_is_shown_itself(convolutions, selector):
    x = RNG.normal(size=(5, 2, 6, 6)).astype(np.float32)
    (tap,) = features(convolutions, x, select=selector, sample=3)
    assert (tap.tap.layer, tap.tap.op_type) == ("x", "Input")
    np.testing.assert_array_equal(tap.data, x)
    np.testing.assert_array_equal(tap.maps(), x[3])
    (row,) = stats(convolutions, x, select=selector).to_dict()["taps"]
    assert row["mean"] == pytest.approx(x.mean(dtype=np.float64), rel=1e-5)
    np.testing.assert_allclose(row["channels"]["max"], x.max((0, 2, 3)))
    assert "<td>Input</td>" in report(convolutions, x, select=selector).html
