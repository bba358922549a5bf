"""Constants that two models share: found by their bytes, whatever they are called and however they are stored."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed

from onnxscope.model.loading import load_model
from onnxscope.pairing.match_values import shared_constants

RAMP = np.arange(40, dtype=np.float32)


def shared(a, b):
    return shared_constants(load_model(storing(a)), load_model(storing(b)))


def storing(arrays):
    return parsed('<ir_version: 9, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }', **arrays)


def test_the_same_bytes_are_found_under_another_name():
    assert shared({"w": RAMP, "v": RAMP + 1}, {"k": RAMP + 1, "w": RAMP + 2}) == {"k": "v"}


def test_of_several_that_are_alike_the_one_of_the_same_name_is_taken():
    assert shared({"v": RAMP, "w": RAMP}, {"w": RAMP, "k": RAMP}) == {"w": "w", "k": "v"}


@pytest.mark.parametrize(
    "other",
    [RAMP.reshape(8, 5), RAMP.view(np.int32), np.append(RAMP[:-1], np.float32(7))],
    ids=["shape", "element type", "behind the bytes that are looked up first"],
)
def test_what_is_not_the_same_is_not_shared(other):
    assert shared({"w": RAMP}, {"w": other}) == {}


def test_two_zeros_of_either_sign_are_not_the_same_and_two_nans_are():
    assert shared({"w": np.float32([0])}, {"w": np.float32([-0.0])}) == {}
    assert shared({"w": np.float32([np.nan])}, {"w": np.float32([np.nan])}) == {"w": "w"}


def test_a_constant_node_is_shared_with_an_initializer_and_strings_never_are():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) <string[1] s = {"word"}> {
            k = Constant<value = float[2] {1, 2}>()
            y = Add(x, k)
        }""")
    other = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) <string[1] s = {"word"}, float[2] w = {1, 2}> { y = Add(x, w) }""")
    assert shared_constants(load_model(model), load_model(other)) == {"w": "k"}
