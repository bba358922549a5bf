"""Weights that were only renamed are said once; others under new names are found."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed
from model_changes import is_constant, is_weight, moved_entry, rewritten, with_constant_nodes, with_numbers
from small_networks import NETWORKS

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


BESIDE = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[b, 4] x) => (float[b, 4] y) { s = Mul(x, PREscale)  t = Mul(x, PREgain)  u = Exp(t)  y = Sub(s, u) }"""


def beside(prefix, exchanged=False):
    """Vectors that no layer owns."""
    vectors = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    vectors = vectors[::-1] if exchanged else vectors
    return parsed(BESIDE.replace("PRE", prefix), **{f"{prefix}scale": vectors[0], f"{prefix}gain": vectors[1]})


def test_renamed_numbers_that_no_layer_owns_do_not_fail():
    result = check(beside("b_"), snapshot(beside("a_")))
    assert result.ok
    assert result.notes == ("weights that were only renamed: 2",)


def test_renamed_numbers_that_other_nodes_read_now_are_found():
    result = check(beside("b_", exchanged=True), snapshot(beside("a_")))
    assert not result.ok
    assert {finding.statistic for finding in result.findings} == {"node constant 0"}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_a_network_with_everything_renamed_and_reordered_is_what_its_baseline_says(network):
    made = network()
    copy = rewritten(made.model, np.random.default_rng(3))
    assert check(copy, snapshot(made.model)).ok
    assert check(copy, snapshot(made.model, made.feeds), made.feeds).ok


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_weights_that_became_constants_are_what_the_baseline_says_unless_they_changed(network):
    model = network().model
    rng = np.random.default_rng(4)
    baseline = snapshot(model)
    copy = with_constant_nodes(model, rng)
    assert check(copy, baseline).ok
    assert check(model, snapshot(copy)).ok
    for fits in (is_weight, is_constant):
        changed = with_numbers(copy, rng, fits, moved_entry(rng))
        assert changed is None or not check(changed.model, baseline).ok
