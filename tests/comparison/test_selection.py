"""`diff` and `check` take every kind of selector, with data and without, and mean the same by it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from compared_models import parsed

import onnxscope
from onnxscope.cli.main import cli
from onnxscope.comparison.compare_models import diff
from onnxscope.errors import SelectorError
from onnxscope.gate.settings import Settings
from onnxscope.model.loading import load_model
from onnxscope.selection.chosen_parts import Selection

NETWORK = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        [conv1] c1 = Conv<pads = [1, 1, 1, 1]>(x, w1)
        [relu1] r1 = Relu(c1)
        [pool1] p1 = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r1)
        [conv2] c2 = Conv<pads = [1, 1, 1, 1]>(p1, w2)
        [relu2] r2 = Relu(c2)
        [mean] m = GlobalAveragePool(r2)
        [flat] f = Flatten(m)
        [fc] y = Gemm<transB = 1>(f, w3)
    }"""
RANDOM = np.random.default_rng(16)
X = RANDOM.standard_normal((3, 3, 8, 8), np.float32)
STORED = {
    "w1": RANDOM.standard_normal((4, 3, 3, 3), np.float32),
    "w2": RANDOM.standard_normal((6, 4, 3, 3), np.float32),
    "w3": RANDOM.standard_normal((5, 6), np.float32),
}
ROWS = {  # what each selector compares, beside the output
    "conv2": ["conv2"],
    "conv*": ["conv1", "conv2"],
    "re:conv[12]": ["conv1", "conv2"],
    "op:Conv": ["conv1", "conv2"],
    "node:fc": ["fc"],
    "value:c2": ["conv2"],
    "value:r?": ["conv1", "conv2"],
    "rank:2": ["fc", "flat"],
    "w2": ["conv2"],
    "value:w2": ["conv2"],
    "relu2": ["conv2"],
    "op:MaxPool": ["pool1"],
    "pool1": ["pool1"],
    "value:p1": ["pool1"],
    "!conv1": ["conv2", "fc"],
    "!op:Conv": ["fc"],
    "!re:conv.*": ["fc"],
    "!value:r1": ["conv2", "fc"],
    "!value:c1": ["conv1", "conv2", "fc"],
    "!w1": ["conv1", "conv2", "fc"],
    "!op:MaxPool": ["conv1", "conv2", "fc"],
}


def network(text=NETWORK, **changed):
    return parsed(text, **{**STORED, **changed})


def saved(tmp_path, model, name):
    onnx.save(model, tmp_path / name)
    return str(tmp_path / name)


@pytest.mark.parametrize("inputs", [None, X])
@pytest.mark.parametrize("selector", ROWS)
def test_every_kind_of_selector_chooses_the_same_rows(selector, inputs):
    result = diff(network(), network(), inputs, select=selector)
    assert sorted(row.a.layer for row in result) == ROWS[selector]
    assert result.equal
    assert all(row.b == row.a for row in result)


@pytest.mark.parametrize("selector", [selector for selector in ROWS if selector[0] == "!" and selector != "!w1"])
def test_weights_inspect_and_features_mean_the_same_by_an_exclusion(selector):
    model = load_model(network())
    layers = ROWS[selector]
    assert [row.layer for row in onnxscope.inspect(model, select=selector).layers] == layers
    assert [row.parameter.layer for row in onnxscope.weights(model, select=selector)] == layers
    assert [seen.tap.layer for seen in onnxscope.features(model, X, select=selector)] == layers


@pytest.mark.parametrize("selector", ROWS)
@pytest.mark.parametrize("inputs", [None, X])
def test_check_finds_a_weight_where_it_is_selected_and_nowhere_else(selector, inputs):
    baseline = onnxscope.snapshot(network(), inputs)
    changed = network(w2=STORED["w2"] * np.float32(1.5))
    result = onnxscope.check(changed, baseline, inputs, select=selector)
    statistics = {finding.layer: finding.statistic for finding in result.findings if "weight" in finding.statistic}
    assert ("conv2" in statistics) == ("conv2" in ROWS[selector])
    # The layer behind gives an output, which always is checked.
    moved = {finding.layer for finding in result.findings}
    assert moved - {"fc"} <= set(ROWS[selector])
    assert ("fc" in moved) == (inputs is not None)
    assert {change.layer for change in diff(network(), changed, inputs, select=selector).weights} == (
        {"conv2"} & set(ROWS[selector])
    )


@pytest.mark.parametrize(
    ("selector", "stored"),
    [("!w2", "w2"), ("!value:w2", "w2"), ("!re:w2", "w2"), ("!conv2.weight", "onnx::Conv_12")],
)
def test_a_parameter_is_left_out_by_itself_and_its_layer_stays(selector, stored):
    """One meaning in every command, by the parameter's name or by that of what stores it."""
    text = NETWORK.replace("(p1, w2)", f'(p1, "{stored}", b2)')
    known = {"w1": STORED["w1"], "w3": STORED["w3"]}

    def made(weight=STORED["w2"], bias=0):
        return parsed(text, **known, **{stored: weight}, b2=np.arange(6, dtype=np.float32) + np.float32(bias))

    model, layers = made(), ["conv1", "conv2", "fc"]
    assert [row.layer for row in onnxscope.inspect(model, select=selector).layers] == layers
    assert [seen.tap.layer for seen in onnxscope.features(model, X, select=selector)] == layers
    assert [row.layer for row in onnxscope.stats(model, X, select=selector)] == layers
    weights = onnxscope.weights(model, select=selector)
    assert [row.parameter.name for row in weights] == ["w1", "b2", "w3"]
    other_weight, other_bias = made(weight=STORED["w2"] * np.float32(1.5)), made(bias=1)
    baseline = onnxscope.snapshot(model)
    for other, is_found in ((other_weight, False), (other_bias, True)):
        result = diff(model, other, select=selector)
        assert [row.a.layer for row in result] == layers
        assert result.equal != is_found
        assert onnxscope.check(other, baseline, select=selector).ok != is_found
    # With data the layer's values are compared: it is the numbers of the parameter that are not.
    result = diff(model, other_weight, X, select=selector)
    assert (result.verdict, result.weights) == ("differs", ())
    assert diff(model, other_weight, X, select="!conv2").weights == ()


def test_a_parameter_of_no_layer_is_left_out_too():
    text = NETWORK.replace("m = Gl", "k = Mul(r2, gain) [mean] m = Gl").replace("Pool(r2)", "Pool(k)")
    gain = np.arange(1, 7, dtype=np.float32).reshape(6, 1, 1)
    model, other = network(text, gain=gain), network(text, gain=gain * 2)
    for select, is_same in (((), False), (["!gain"], True), (["!w1"], False), (["op:Mul", "!gain"], True)):
        assert diff(model, other, select=select).equal == is_same
        assert onnxscope.check(other, onnxscope.snapshot(model), select=select).ok == is_same


def other_pool():
    return network(NETWORK.replace("kernel_shape = [2, 2]", "kernel_shape = [1, 1]"))


@pytest.mark.parametrize("selector", ["op:MaxPool", "node:pool1", "value:p1", "pool*", "rank:4", "!conv2", "!op:Gemm"])
def test_a_node_without_weights_is_found_where_it_is_selected(selector):
    (change,) = diff(network(), other_pool(), select=selector).structure
    assert "kernel_shape" in change.message
    (finding,) = onnxscope.check(other_pool(), onnxscope.snapshot(network()), select=selector).findings
    assert "kernel_shape" in finding.message


@pytest.mark.parametrize("selector", ["conv1", "op:Conv", "value:y", "!pool1", "!op:MaxPool", "!value:p1"])
def test_a_node_without_weights_is_left_alone_elsewhere(selector):
    assert diff(network(), other_pool(), select=selector).equal
    assert onnxscope.check(other_pool(), onnxscope.snapshot(network()), select=selector).ok


def test_a_value_of_no_layer_is_measured():
    changed = network(w1=STORED["w1"] * np.float32(2))
    (row,) = diff(network(), changed, X, select="op:MaxPool")
    assert row.entire.relative_l2 == pytest.approx(1.0, rel=1e-5)
    assert row.own.relative_l2 == 0  # fed with the first model's values it adds nothing


def test_a_value_that_the_other_model_has_not_is_undecided():
    renamed = NETWORK.replace("[pool1] p1", "[other] q1").replace("(p1,", "(q1,")
    result = diff(network(), network(renamed), X, select="pool1")
    assert result.undecided[0].reason == "the second model has no value that belongs to it"
    assert not result.equal


@pytest.mark.parametrize("selector", ["conv1", "conv2", "fc", "op:Conv", "!conv1", "op:MaxPool"])
def test_own_errors_do_not_depend_on_what_else_is_selected(selector):
    changed = {name: values + np.float32(0.01) for name, values in STORED.items()}
    for run in ({}, {"memory_budget_bytes": 1}):
        whole = {row.a.layer: row for row in diff(network(), network(**changed), X, **run)}
        for row in diff(network(), network(**changed), X, select=selector, **run):
            if row.a.layer in whole:
                other = whole[row.a.layer]
                assert row.own.relative_l2 == pytest.approx(other.own.relative_l2, rel=1e-6)
                assert row.entire.relative_l2 == pytest.approx(other.entire.relative_l2, rel=1e-6)
                assert row.floor == other.floor


@pytest.mark.parametrize(
    ("selector", "hint"),
    [("typ:Conv", "op:Conv"), ("type:Conv", "op:Conv"), ("nod:conv1", "node:conv1"), ("!oper:Conv", "op:Conv")],
)
def test_an_unknown_kind_of_selector_is_an_error_that_names_the_kinds(tmp_path, selector, hint):
    model = saved(tmp_path, network(), "net.onnx")
    baseline = str(tmp_path / "base.json")
    onnxscope.snapshot(model).save(baseline)
    commands = ["inspect"], ["weights"], ["diff", model], ["check", "--baseline", baseline]
    for command, *arguments in commands:
        result = CliRunner().invoke(cli, [command, model, *arguments, "-s", selector])
        assert result.exit_code == 2, command
        assert f"no kind of selector is called '{selector.strip('!').partition(':')[0]}'" in result.stderr
        assert f"hint: {hint}? the kinds are op:, node:, value:, rank:, re:" in result.stderr


def test_a_name_with_a_colon_is_no_kind():
    model = network(NETWORK.replace("[conv1]", "").replace("c1", '"scope:0"'))
    assert [row.a.layer for row in diff(model, model, select="scope:0")] == ["Conv_0"]


def test_a_layer_that_is_gone_is_found_where_it_was_selected():
    baseline = onnxscope.snapshot(network())
    shorter = NETWORK.replace("[fc] y = Gemm<transB = 1>(f, w3)", "[out] y = Identity(f)").replace("[N, 5]", "[N, 6]")
    without = parsed(shorter, w1=STORED["w1"], w2=STORED["w2"])
    (finding,) = [one for one in onnxscope.check(without, baseline, select="fc").findings if one.statistic == "layer"]
    assert (finding.layer, finding.message) == ("fc", "the layer is gone")
    found = onnxscope.check(without, baseline, select="conv1").findings
    assert not any(one.statistic == "layer" for one in found)
    with pytest.raises(SelectorError, match="nothing matches the selector 'head'"):
        onnxscope.check(without, baseline, select="head")


@pytest.mark.parametrize("pattern", ["op:Conv", "node:conv2", "value:r2", "conv2", "conv*", "re:conv.", "w2"])
def test_settings_take_the_same_selectors(pattern):
    baseline = onnxscope.snapshot(network())
    changed = network(w2=STORED["w2"] * np.float32(1.5))
    assert not onnxscope.check(changed, baseline).ok
    assert onnxscope.check(changed, baseline, settings=Settings(ignore=(pattern,))).ok
    assert not onnxscope.check(changed, baseline, settings=Settings(ignore=("fc", "nothing", "op:Add"))).ok


@pytest.mark.parametrize("pattern", ["op:Conv", "node:conv2", "conv2", "re:.*2"])
def test_tolerances_take_the_same_selectors(pattern):
    baseline = onnxscope.snapshot(network(), X)
    changed = network(w2=STORED["w2"] * np.float32(1.0001))
    strict = onnxscope.check(changed, baseline, X)
    assert any(one.layer == "conv2" and one.statistic == "mean" for one in strict.findings)
    loose = onnxscope.check(changed, baseline, X, settings=Settings(tolerances={pattern: 0.1}))
    assert {one.statistic for one in loose.findings if one.layer == "conv2"} == {"weight w2"}


def test_nothing_left_and_nothing_computed_are_told():
    model = load_model(network())
    with pytest.raises(SelectorError, match="the exclusions leave nothing: g"):
        Selection(model, ["!op:*"])
    with pytest.raises(SelectorError, match="nothing that is computed is selected: g"):
        Selection(load_model(network(unread=np.ones(3, np.float32))), ["value:unread"])
    message = r"inputs are fed, not computed, and nothing else is selected to be compared \(x\): g"
    for selector in ("value:x", "x"):
        with pytest.raises(SelectorError, match=message):
            Selection(model, [selector])
        with pytest.raises(SelectorError, match=message):
            onnxscope.diff(network(), network(), X, select=selector)
        with pytest.raises(SelectorError, match=message):
            onnxscope.check(network(), onnxscope.snapshot(network(), X), X, select=selector)


def test_inputs_beside_what_is_compared_are_told():
    result = onnxscope.diff(network(), network(), X, select=["value:x", "conv1"])
    assert [row.a.layer for row in result.layers] == ["conv1"]
    assert "inputs are fed to both models, and not compared: x" in result.notes
    assert not any("are fed" in note for note in onnxscope.diff(network(), network(), X, select=["conv1"]).notes)
