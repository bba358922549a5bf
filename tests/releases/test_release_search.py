"""Planted releases: the right pair, in as few trials as halving takes, and what happens there."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from shimmed_release import Planted, from_on, most_installs

from onnxscope.base.run_options import RunOptions
from onnxscope.errors import RunError
from onnxscope.releases.bisect_releases import search_releases

NETWORK = """
    <ir_version: 9, opset_import: ["": 17]>
    net (float[N, 3, 6, 6] image) => (float[N, 4] scores) {
        [stem] a = Conv <pads = [1, 1, 1, 1]> (image, stem_weight)
        b = Relu(a)
        [body] c = Conv <pads = [1, 1, 1, 1]> (b, body_weight)
        d = Relu(c)
        e = GlobalAveragePool(d)
        f = Flatten(e)
        [head] scores = Gemm(f, head_weight)
    }"""
RELEASES = [f"1.{minor}.0" for minor in range(8, 24)]
IMAGES = np.random.default_rng(1).normal(0, 1, (2, 3, 6, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    model = onnx.parser.parse_model(NETWORK)
    rng = np.random.default_rng(0)
    weights = {"stem_weight": (8, 3, 3, 3), "body_weight": (8, 8, 3, 3), "head_weight": (8, 4)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in weights.items()
    )
    return model


def searched(model, releases, plans, timeout_s=60.0):
    environments = Planted(plans)
    found = search_releases(model, {"image": IMAGES}, RunOptions(), environments, releases, "onnxruntime", timeout_s)
    return found, environments


def test_the_release_that_changed_a_layer_is_named_with_the_layer(network):
    few = RELEASES[:5]
    found, environments = searched(network, few, from_on(few, "1.10.0", {"off": {"d": 1.01, "scores": 1.01}}))
    assert (found.verdict, found.pair, found.between) == ("differs", ("1.9.0", "1.10.0"), ())
    row = found.changed.first_row
    assert (row.a.layer, row.a.name, row.op_type) == ("body", "d", "Conv")
    assert row.entire.relative_l2 == pytest.approx(0.01, rel=1e-3)  # the factor that was planted
    assert found.installs == len(environments.asked) <= most_installs(5)
    assert [row.differs for row in found.changed.rows] == [False, True, True, True]  # three layers, and the output
    assert "from 1.9.0 to 1.10.0: first body (Conv), by 0.01" in found.summary()
    assert "1.12.0" in repr(found)
    assert "body" in found._repr_html_()


def test_a_crash_is_named_with_its_signal_and_the_first_node_that_crashes(network):
    few = RELEASES[:3]
    found, _ = searched(network, few, from_on(few, "1.9.0", {"dies": "SIGSEGV", "at": ["e", "f", "scores"]}))
    assert found.pair == ("1.8.0", "1.9.0")
    assert found.changed.end.detail == "SIGSEGV"
    assert (found.crash.name, found.crash.op_type, found.crash.position) == ("e", "GlobalAveragePool", 4)
    assert found.crash.nodes == 5  # with the four that it depends on
    assert "crashes (SIGSEGV) while running; the first node to crash is" in found.summary()


@pytest.mark.acceptance
def test_what_crashes_everywhere_is_no_change_and_its_node_is_named(network):
    few = RELEASES[:2]
    found, _ = searched(network, few, from_on(few, "1.8.0", {"dies": "SIGSEGV", "at": ["c", "scores"]}))
    assert (found.verdict, found.pair) == ("equal", None)
    assert (found.crash.name, found.crash.layer) == ("c", "body")
    assert "crashes (SIGSEGV) while running; the first node to crash is body (Conv)" in found.summary()


def test_rounding_is_no_change(network):
    found, environments = searched(network, RELEASES, {"1.23.0": {"off": {"scores": 1 + 2**-23}}})
    assert (found.verdict, found.pair, found.changed) == ("equal", None, None)
    assert environments.asked == ["1.8.0", "1.23.0"]
    assert "no change" in found.summary()


def test_a_release_that_cannot_be_tried_is_said_and_left_out(network):
    plans = {
        "1.8.0": {"refuses": "[ONNXRuntimeError] : 1 : FAIL : Unsupported model IR version: 9, max supported is 8"},
        "1.10.0": {"lacks": "no library"},
        "1.11.0": {"off": {"scores": 2.0}, "alone": True},
    }
    found, _ = searched(network, RELEASES[:4], plans)
    assert (found.pair, found.between) == (("1.9.0", "1.11.0"), ("1.10.0",))
    assert [one.answers for one in found] == ["skipped", "first", "skipped", "changed"]
    assert "Unsupported model IR version: 9" in found.release("1.8.0").text
    assert any("1.9.0 stands for it" in note for note in found.notes)
    assert "no layer shows it" in found.changed.text
    assert found.to_dict()["tried"][2]["ending"] == "unusable"


@pytest.mark.acceptance
def test_releases_that_are_too_old_for_the_model_take_few_installs(network):
    old = {"refuses": "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Conv(11)"}
    plans = dict.fromkeys(RELEASES[: RELEASES.index("1.18.0")], old)
    plans |= from_on(RELEASES, "1.21.0", {"off": {"b": 1.01}})
    found, environments = searched(network, RELEASES, plans)
    assert found.pair == ("1.20.0", "1.21.0")
    assert found.release("1.18.0").answers == "first"
    assert len(environments.asked) <= 2 + 4 + 3  # both ends, the first that knows the model, the halves behind that


def test_nothing_that_can_be_tried_is_an_error(network):
    with pytest.raises(RunError, match=r"fewer than two of 2 can be tried \(1\.8\.0: no wheel\)"):
        searched(network, RELEASES[:2], {"1.8.0": {"missing": "no wheel"}})


CASES = [
    ({"off": {"b": 1.001}}, "1.9.0", "ran"),
    ({"off": {"scores": -1.0}}, "1.23.0", "ran"),
    ({"off": {"d": float("nan")}}, "1.16.0", "ran"),
    ({"short": ["scores"]}, "1.12.0", "ran"),
    ({"dies": "SIGSEGV"}, "1.22.0", "crashed"),
    ({"dies": "SIGABRT", "at": ["scores"]}, "1.15.0", "crashed"),
    ({"dies": "SIGILL"}, "1.10.0", "crashed"),
    ({"fails": "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code"}, "1.20.0", "failed"),
    ({"refuses": "[ONNXRuntimeError] : 1 : FAIL : Type Error: Shape of 'c'"}, "1.14.0", "failed"),
    ({"hangs": True}, "1.19.0", "late"),
]


@pytest.mark.acceptance
@pytest.mark.parametrize(("plan", "first", "ending"), CASES, ids=[f"{case[2]}-{case[1]}" for case in CASES])
def test_ten_planted_changes(network, plan, first, ending):
    found, environments = searched(network, RELEASES, from_on(RELEASES, first, plan), timeout_s=20.0)
    assert found.pair == (RELEASES[RELEASES.index(first) - 1], first)
    assert found.changed.end.ending == ending
    assert len(environments.asked) <= most_installs(len(RELEASES)) == 6


@pytest.mark.acceptance
def test_another_change_later_on_hides_nothing(network):
    plans = from_on(RELEASES, "1.13.0", {"off": {"b": 1.01}}) | from_on(RELEASES, "1.18.0", {"dies": "SIGSEGV"})
    found, _ = searched(network, RELEASES, plans)
    assert found.pair == ("1.12.0", "1.13.0")


@pytest.mark.acceptance
def test_the_release_that_mended_a_crash_is_named(network):
    plans = {release: {"dies": "SIGSEGV"} for release in RELEASES[: RELEASES.index("1.17.0")]}
    found, _ = searched(network, RELEASES, plans)
    assert found.pair == ("1.16.0", "1.17.0")
    assert "crashes (SIGSEGV) while running before, now runs" in found.summary()
