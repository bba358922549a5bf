"""What weights give reason to look at: planted faults are found, and what is well is left alone."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper
from weight_models import found, kinds, normal, rng, store, uniform

from onnxscope.findings.kinds import GRAVITY

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def test_the_trained_networks_are_left_alone():
    for name in ("digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx"):
        assert found(FIXTURES / name) == []


def test_numbers_that_are_not_finite_or_too_large_for_half_precision():
    odd, large = normal(4, 3, 3, 3), normal(4, 3, 3, 3)
    odd[0, 0, 0, :2], odd[1, 0, 0, 0] = np.nan, np.inf
    large[2, 1, 1, 1] = -70000
    assert found(store(a=odd, b=large)) == [
        ("non_finite_weight", "a", None, "a.weight holds 2 NaN and 1 infinity in 108 numbers"),
        ("float16_weight", "b", None, "b.weight reaches -70000, beyond float16's 65,504"),
    ]
    assert found(store(a=np.full((2, 2), np.nan, np.float32)))[0][0] == "non_finite_weight"


def test_kernels_that_are_constant_zero_or_repeated():
    kernel = normal(6, 3, 3, 3)
    kernel[2] = 0
    kernel[4] = kernel[1]
    constant, zeros = np.full((4, 5), 0.5, np.float32), np.zeros((4, 5), np.float32)
    assert found(store(a=kernel, b=constant, c=zeros)) == [
        ("constant_weight", "b", None, "b.weight is 0.5 in every one of its 20 numbers"),
        ("constant_weight", "c", None, "c.weight is 0 in every one of its 20 numbers"),
        ("zero_kernel", "a", 2, "a.weight is zero in every number of this channel"),
        ("duplicate_kernel", "a", 4, "a.weight is the same in this channel as in channel 1"),
    ]


def test_a_filter_that_all_channels_share_is_meant_so():
    blur = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
    assert found(store(a=np.broadcast_to(blur, (8, 1, 3, 3)).copy())) == []


def test_kernels_with_equal_statistics_but_other_numbers_are_no_duplicates():
    kernel = normal(6, 3, 3, 3)
    kernel[5] = kernel[0, ::-1, ::-1, ::-1]
    assert found(store(a=kernel)) == []


@pytest.mark.parametrize("limits", [(-2, 2), (-1, 1), (-2.5, 2.5), (-np.inf, 2), (-2, np.inf), (-3, 3)])
def test_clipped_weights_pile_up_at_their_extremes(limits):
    values = np.clip(rng().normal(size=(128, 64, 3, 3)), *limits).astype(np.float32)
    findings = found(store(a=values))
    assert [(each[0], each[1], each[2]) for each in findings] == [("clipped_weight", "a", None)]
    message = findings[0][3]
    assert message.startswith("a.weight looks clipped: ")
    for limit, end in zip(limits, ("least", "largest"), strict=True):
        count = int(np.count_nonzero(values == np.float32(limit)))
        piece = f"{count:,} of {values.size:,} numbers are exactly the {end}, {limit:.6g}"
        assert (piece in message) == np.isfinite(limit)


def test_what_only_looks_clipped():
    generator = rng()
    bell = generator.normal(size=(128, 64, 3, 3))
    bf16 = uniform(64, 64, 3, 3, bound=0.2).astype(ml_dtypes.bfloat16).astype(np.float32)
    ternary = np.sign(bell).astype(np.float32) * (np.abs(bell) > 0.5)
    scale = np.abs(bell).max() / 7
    four_bits = (np.clip(np.rint(bell / scale * 3), -8, 7) * scale).astype(np.float32)
    eight_bits = (np.rint(bell / np.abs(bell).max() * 127)).astype(np.float32)
    pruned = np.maximum(bell, 0).astype(np.float32)  # a pile at zero is sparsity, which has a column of its own
    few = np.clip(bell[:1, :2], -0.5, 0.5).astype(np.float32)[:, :, :1, :2]
    cases = {"bf16": bf16, "ternary": ternary, "four": four_bits, "eight": eight_bits, "pruned": pruned, "few": few}
    cases |= {"bell": bell.astype(np.float32), "flat": uniform(64, 64, 3, 3, bound=0.5)}
    for name, values in cases.items():
        assert "clipped_weight" not in kinds(store(a=values)), name


def test_every_kind_has_its_gravity():
    assert len(set(GRAVITY)) == len(GRAVITY)
    model = store(a=np.full((2, 2), np.nan, np.float32), b=np.zeros((4, 5), np.float32))
    assert kinds(model) == ["non_finite_weight", "constant_weight"]


def large_findings(text, values):
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), "m"))
    return [kind for kind, *_ in found(model)]


LEAST = float(np.finfo(np.float32).min)
MASKED = "g (float[N, 2, 2] x) => (float[N, 2, 2] y) { s = Add (x, m)  y = Softmax (s) }"


@pytest.mark.parametrize("value", [LEAST, -1e9])
def test_a_mask_of_large_numbers_is_no_risk_of_half_precision(value):
    assert large_findings(MASKED, [[0, value], [0, 0]]) == []


@pytest.mark.parametrize("values", [[[0, 1e6], [0, 0]], [[0.5, -1e9], [0, 0.1]]])
def test_other_large_numbers_before_a_softmax_are(values):
    assert large_findings(MASKED, values) == ["float16_weight"]


def test_a_large_number_that_masks_nothing_is():
    text = "g (float[N, 2, 2] x) => (float[N, 2, 2] y) { y = Add (x, m) }"
    assert large_findings(text, [[0, LEAST], [0, 0]]) == ["float16_weight"]
