"""What formats leave of numbers, against numpy and ml_dtypes by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

from onnxscope.errors import InputError
from onnxscope.narrowing.formats import FORMATS, find_formats, narrow_values, narrow_weight, scheme_of

WEIGHT = np.random.default_rng(0).normal(0, 0.1, (6, 5, 3, 3)).astype(np.float32)


def symmetric(values, most):
    scale = np.abs(values).max() / most
    return np.round(values / scale).clip(-most, most) * scale


def test_eight_bits_a_tensor_are_symmetric_over_127():
    narrowed = narrow_weight(WEIGHT, FORMATS["int8"], "tensor", 0)
    np.testing.assert_allclose(narrowed, symmetric(WEIGHT.astype(float), 127), rtol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_every_channel_has_a_scale_of_its_own(axis):
    narrowed = np.moveaxis(narrow_weight(WEIGHT, FORMATS["int8"], "channel", axis), axis, 0)
    for found, channel in zip(narrowed, np.moveaxis(WEIGHT.astype(float), axis, 0), strict=True):
        np.testing.assert_allclose(found, symmetric(channel, 127), rtol=1e-12)


def test_blocks_of_a_channel_have_scales_of_their_own_and_the_last_may_be_short():
    narrowed = narrow_weight(WEIGHT, FORMATS["int4"], "block", 0)
    for found, channel in zip(narrowed.reshape(6, 45), WEIGHT.astype(float).reshape(6, 45), strict=True):
        np.testing.assert_allclose(found[:32], symmetric(channel[:32], 7), rtol=1e-12)
        np.testing.assert_allclose(found[32:], symmetric(channel[32:], 7), rtol=1e-12)


def test_half_precision_is_a_cast_and_eight_bits_of_floating_point_are_scaled_to_the_largest():
    np.testing.assert_array_equal(narrow_weight(WEIGHT, FORMATS["float16"], None, 0), WEIGHT.astype(np.float16))
    scale = float(np.abs(WEIGHT).max()) / 448
    by_hand = (WEIGHT.astype(float) / scale).astype(ml_dtypes.float8_e4m3fn).astype(float) * scale
    np.testing.assert_allclose(narrow_weight(WEIGHT, FORMATS["fp8"], "tensor", 0), by_hand, rtol=1e-12)


def test_activations_use_all_codes_of_their_range_and_are_clipped_outside():
    narrowed = narrow_values(np.array([-9.0, -1.0, 0.0, 0.5, 3.0, 9.0]), FORMATS["int8"], -1.0, 3.0)
    step = 4 / 255
    zero = round(1 / step)
    codes = [0, 0, zero, round(0.5 / step) + zero, 255, 255]
    np.testing.assert_allclose(narrowed, [(code - zero) * step for code in codes], rtol=1e-6)


def test_pixels_that_lie_halfway_between_two_codes_go_where_onnxruntime_lets_them_go():
    pixels = (np.arange(256) / 127.5 - 1).astype(np.float32)
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[256] x) => (float[256] y) <float s = {0.00784313771873712539672}, uint8 z = {128}> {
            q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }""")
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": pixels})
    narrowed = narrow_values(pixels, FORMATS["uint8"], -1.0, 1.0)
    np.testing.assert_allclose(narrowed, expected, rtol=1e-6)


def test_zeros_stay_zeros():
    for form in FORMATS.values():
        assert not narrow_weight(np.zeros((3, 40), np.float32), form, scheme_of(form, None), 0).any()


def test_an_unknown_format_or_scheme_is_an_error():
    with pytest.raises(InputError, match="no format is called 'int7'"):
        find_formats("int8,int7")
    with pytest.raises(InputError, match="unknown scheme 'row'"):
        scheme_of(FORMATS["int8"], "row")
    assert [form.name for form in find_formats(["fp16,int8", "float16"])] == ["float16", "int8"]
