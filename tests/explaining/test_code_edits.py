"""Codes whose scale or zero point is wrong are told from A's real weight; what rounding leaves is said."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.explaining.code_edits import right_scale, right_zero_point

RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
WEIGHTS = [(RNG.standard_normal((4, 4, 3, 3)) / 3).astype(np.float32) for _ in range(3)]


def network(change=None, *, by_channel=False):
    """Three convolutions, with real weights, or with codes of which `change` makes those of the second one."""
    body, stored = "", {}
    for number, weight in enumerate(WEIGHTS):
        name = f"w{number}"
        if change is None:
            stored[name] = weight
        else:
            largest = np.abs(weight).max(axis=(1, 2, 3)) if by_channel else np.abs(weight).max()
            scale = np.asarray(largest / 127, np.float32)
            steps = scale.reshape(-1, 1, 1, 1) if by_channel else scale
            codes, zero = np.clip(np.round(weight / steps), -127, 127).astype(np.int8), np.zeros_like(scale, np.int8)
            if number == 1:
                codes, scale, zero = change(codes, scale, zero)
            stored |= {f"q{number}": codes, f"s{number}": scale, f"z{number}": zero}
            body += f" {name} = DequantizeLinear <axis = 0> (q{number}, s{number}, z{number})"
        body += f" {'xab'[number]}0 = Relu({'xab'[number]})" if number else ""
        read = f"{'xab'[number]}0" if number else "x"
        body += f" {'aby'[number]} = Conv <pads = [1, 1, 1, 1]> ({read}, {name})"
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 17]>
        net (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {{ {body} }}""")
    for name, values in stored.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda q, s, z: (q, (s * 1.5).astype(np.float32), z), "x_scale"),
        (lambda q, s, z: (q, s, (z + 5).astype(np.int8)), "x_zero_point"),
    ],
    ids=["scale", "zero point"],
)
def test_a_wrong_scale_or_zero_point_is_named(change, name, by_channel, tmp_path):
    a, b = network(), network(change, by_channel=by_channel)
    result = onnxscope.explain(a, b, X, mend=tmp_path / "mended.onnx")
    worst = result.explanations[0]
    assert worst.text.startswith(f"B's DequantizeLinear has `{name}`")
    assert worst.text.endswith("it is equal but for the rounding to int8")
    right = network(lambda *codes: codes, by_channel=by_channel)
    (wanted,) = (each for each in right.graph.initializer if each.name == {"x_scale": "s1", "x_zero_point": "z1"}[name])
    np.testing.assert_allclose(worst.edits[0].wanted, numpy_helper.to_array(wanted), rtol=5e-3)
    assert [each.is_explained for each in result.explanations[1:]] == [False, False]
    assert result.mended.layers[1].own.sqnr_db > 35


@pytest.mark.parametrize(
    "change",
    [
        lambda q, s, z: (q, s, z),
        lambda q, s, z: (q // 16 * 16, s, z),
        lambda q, s, z: (np.roll(q, 7, axis=1), s, z),
        lambda q, s, z: (q, (s * np.float32(1.001)).astype(np.float32), z),
    ],
    ids=["right", "four bits", "other codes", "a scale chosen otherwise"],
)
def test_right_codes_and_other_ones_are_explained_by_nothing(change):
    result = onnxscope.explain(network(), network(change), X)
    assert [each.is_explained for each in result.explanations] == [False] * 3


def test_scales_and_zero_points_follow_from_a_weight():
    weight = np.random.default_rng(0).standard_normal((3, 50))
    scale = np.abs(weight).max(axis=1) / 100
    codes = np.round(weight / scale[:, None])
    np.testing.assert_allclose(right_scale(weight, codes), scale, rtol=2e-3)
    np.testing.assert_array_equal(right_zero_point(weight, codes + np.array([[3], [-2], [0]]), scale), [3, -2, 0])
    assert right_scale(weight, np.roll(codes, 1, axis=1)) is None
    assert right_scale(weight, -codes) is None
    assert right_zero_point(weight, codes, 2 * scale) is None
    assert right_scale(weight[:, :4], codes[:, :4]) is None
