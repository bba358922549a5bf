"""Weights that were only renamed are said once; others under new names are found."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed
from model_changes import is_constant, is_weight, moved_entry, rewritten, with_constant_nodes, with_numbers
from small_networks import NETWORKS

from onnxscope import check, diff, snapshot

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


_PARALLEL = """<ir_version: 9, opset_import: ["": 18]>
    net (float[n, 4] x) => (float[n, 3] y) {
        %s r = Relu(a) t = Tanh(b) s = MatMul(x, u) h = Add(r, t) y = Add(h, s) }"""
_FIRST, _SECOND = "a = MatMul(x, v)", "b = MatMul(x, w)"
_X = np.random.default_rng(4).standard_normal((3, 4), np.float32)


def parallel(*order, names=("v", "w", "u"), seeds=(1, 2, 3), **more):
    """Three products of one input, of which two may stand in either order."""
    weights = {
        name: np.random.default_rng(seed).standard_normal((4, 3), np.float32)
        for name, seed in zip(names, seeds, strict=True)
    }
    named = parsed(_PARALLEL % " ".join(order), **weights | more)
    called = dict(zip("vwu", names, strict=True))
    for node in named.graph.node:
        for place, value in enumerate(node.input):
            node.input[place] = called.get(value, value)
    return named


@pytest.mark.parametrize("inputs", [None, _X], ids=["without data", "with data"])
@pytest.mark.parametrize(
    "names", [("v", "w", "u"), ("other.v", "other.w", "u2"), ("onnx::MatMul_9", "onnx::MatMul_7", "5")]
)
@pytest.mark.parametrize("old", [("v", "w", "u"), ("onnx::MatMul_1", "onnx::MatMul_2", "onnx::MatMul_3")])
def test_renamed_weights_of_reordered_nodes_do_not_fail_and_exchanged_ones_do(old, names, inputs):
    baseline = snapshot(parallel(_FIRST, _SECOND, names=old), inputs)
    for order in ((_FIRST, _SECOND), (_SECOND, _FIRST)):
        assert check(parallel(*order, names=names), baseline, inputs).ok
        for seeds in ((2, 1, 3), (1, 3, 2), (1, 1, 3), (1, 2, 9)):
            assert not check(parallel(*order, names=names, seeds=seeds), baseline, inputs).ok


@pytest.mark.parametrize("inputs", [None, _X], ids=["without data", "with data"])
def test_names_that_count_operators_say_nothing_where_the_order_of_the_nodes_is_another(inputs):
    baseline = snapshot(parallel(_FIRST, _SECOND, names=("onnx::MatMul_1", "onnx::MatMul_2", "u")), inputs)
    names = "onnx::MatMul_2", "onnx::MatMul_1", "u"
    assert check(parallel(_SECOND, _FIRST, names=names), baseline, inputs).ok
    for seeds in ((2, 1, 3), (1, 3, 2), (1, 2, 9)):
        assert not check(parallel(_SECOND, _FIRST, names=names, seeds=seeds), baseline, inputs).ok


def test_renamed_numbers_in_another_shape_are_found():
    vector = np.arange(3, dtype=np.float32)

    def scaled(name, shape):
        return parsed(
            """<ir_version: 9, opset_import: ["": 18]>
            net (float[3, 3] x) => (float[3, 3] y) { y = Mul(x, NAME) }""".replace("NAME", name),
            **{name: vector.reshape(shape)},
        )

    assert check(scaled("b", (3,)), snapshot(scaled("a", (3,)))).ok
    assert not check(scaled("b", (3, 1)), snapshot(scaled("a", (3,)))).ok


def test_a_number_that_nothing_reads_is_still_guarded():
    spare = np.arange(12, dtype=np.float32).reshape(4, 3)
    baseline = snapshot(parallel(_FIRST, _SECOND, spare=spare))
    assert check(parallel(_SECOND, _FIRST, spare=spare), baseline).ok
    changed = check(parallel(_FIRST, _SECOND, spare=spare + 1), baseline)
    assert [finding.statistic for finding in changed.findings] == ["weight spare"]


_GATES = """
    k0 = Slice(kernel, at0, at1, axis) k1 = Slice(kernel, at1, at2, axis) k2 = Slice(kernel, at2, at3, axis)
    k3 = Slice(kernel, at3, at4, axis) k = Concat<axis = 2>(k0, k3, k1, k2) W = Transpose<perm = [0, 2, 1]>(k)"""


def recurrent(*, computed, inside, change=0.0):
    """An LSTM whose kernel is in the order of ONNX's gates, or is brought into it by the graph."""
    rng = np.random.default_rng(7)
    kernel = rng.standard_normal((1, 4, 12), np.float32)
    kernel[0, 1, 5] += change
    stored = {"R": rng.standard_normal((1, 12, 3), np.float32), "B": rng.standard_normal((1, 24), np.float32)}
    places = {f"at{gate}": np.array([3 * gate]) for gate in range(5)} | {"axis": np.array([2]), "one": np.array([1])}
    gates = [kernel[:, :, 3 * gate : 3 * gate + 3] for gate in (0, 3, 1, 2)]
    stored |= {"kernel": kernel} if computed else {"W": np.concatenate(gates, axis=2).transpose(0, 2, 1)}
    body = f"{_GATES if computed else ''} h, last, cell = LSTM<hidden_size = 3>(x, W, R, B) p = Squeeze(h, one)"
    if inside:
        body = f"""p = If (c) <then_branch = t () => (float[s, n, 3] u) {{ {body.replace(" p =", " u =")} }},
            else_branch = e () => (float[s, n, 3] v) {{ v = Slice(x, at0, at1, axis) }}>"""
    text = f"""<ir_version: 9, opset_import: ["": 18]>
        net (float[s, n, 4] x, bool c) => (float[s, n, 3] y) {{ {body} y = Tanh(p) }}"""
    return parsed(text, **stored, **places)


@pytest.mark.parametrize("taken", [None, True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_a_weight_that_the_graph_computes_is_the_one_that_was_folded(inside, taken):
    x = np.random.default_rng(8).standard_normal((5, 2, 4), np.float32)
    inputs = None if taken is None else {"x": x, "c": np.array(taken)}
    for first, second in ((False, True), (True, False)):
        one = recurrent(computed=first, inside=inside)
        other = recurrent(computed=second, inside=inside)
        changed = recurrent(computed=second, inside=inside, change=1.0)
        assert diff(one, other, inputs).equal
        assert not diff(one, changed, inputs).equal
        baseline = snapshot(one, inputs)
        assert check(other, baseline, inputs).ok
        assert not check(changed, baseline, inputs).ok
