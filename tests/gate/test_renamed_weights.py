"""Weights that were only renamed are said once; others under new names are found."""

from __future__ import annotations

import numpy as np
from compared_models import parsed

from onnxscope import check, snapshot

TEXT = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[b, 4] x) => (float[b, 4] y) {
        h = Gemm(x, PRE1_weight, PRE1_bias)
        r = Relu(h)
        y = Gemm(r, PRE2_weight, PRE2_bias)
    }"""


def model(prefix, change=0.0, swapped=False):
    rng = np.random.default_rng(0)
    stored = {}
    for layer in (2, 1) if swapped else (1, 2):
        stored[f"{prefix}{layer}_weight"] = rng.standard_normal((4, 4)).astype(np.float32)
        stored[f"{prefix}{layer}_bias"] = rng.standard_normal(4).astype(np.float32)
    stored[f"{prefix}2_weight"][0, 0] += change
    return parsed(TEXT.replace("PRE", prefix), **stored)


def test_renamed_weights_are_said_once_and_do_not_fail():
    result = check(model("other"), snapshot(model("fc")))
    assert result.ok
    assert result.notes == ("weights that were only renamed: 4",)
    assert check(model("fc"), snapshot(model("fc"))).notes == ()


def test_a_renamed_weight_that_changed_is_found():
    result = check(model("other", change=1.0), snapshot(model("fc")))
    assert [finding.statistic for finding in result.findings] == ["weight fc2_weight", "weight other2_weight"]
    assert result.notes == ("weights that were only renamed: 3",)


def test_renamed_weights_of_exchanged_layers_are_found():
    assert not check(model("other", swapped=True), snapshot(model("fc"))).ok
