"""What no output depends on: its numbers are compared, and that an optimizer leaves it out is no difference."""

from __future__ import annotations

import attention_models
import numpy as np
import pytest
from compared_models import parsed
from onnx import numpy_helper

from onnxscope import check, diff, snapshot

RNG = np.random.default_rng(2)
STORED = {"w": RNG.standard_normal((3, 4)).astype(np.float32), "b": RNG.standard_normal(4).astype(np.float32)}
ROW, OTHER_ROW = np.array([1, 2, 3], np.float32), np.array([1, 2, 4], np.float32)
FED = RNG.standard_normal((2, 3)).astype(np.float32)
UNREAD = {
    "an initializer": "",
    "a node": "d = Add(x, k)",
    "a layer and what is behind it": "d = Gemm(x, v) e = LeakyRelu(d) f = Add(e, k)",
}


def network(nodes="", **stored):
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[n, 3] x) => (float[n, 4] y) {{ y = Gemm(x, w, b) {} }}'
    return parsed(text.format(nodes), **STORED, **stored)


@pytest.mark.parametrize("given", [None, FED])
@pytest.mark.parametrize("name", UNREAD)
def test_what_no_output_depends_on_may_be_left_out(name, given):
    stored = {"k": ROW} | ({"v": np.ones((3, 3), np.float32)} if "v" in UNREAD[name] else {})
    full, bare = network(UNREAD[name], **stored), network()
    for first, second in ((full, bare), (bare, full)):
        result = diff(first, second, given)
        assert result.equal
        assert {name for change in result.weights for name in (change.a, change.b)} == {None, *stored}
        assert check(second, snapshot(first, given), given).findings == ()


@pytest.mark.parametrize("given", [None, FED])
@pytest.mark.parametrize("name", UNREAD)
def test_a_number_that_nothing_reads_is_guarded(name, given):
    stored = {"v": np.ones((3, 3), np.float32)} if "v" in UNREAD[name] else {}
    first, second = (network(UNREAD[name], k=row, **stored) for row in (ROW, OTHER_ROW))
    result = diff(first, second, given)
    assert result.verdict == "differs"
    (message,) = [change.message for change in result.weights if change.counts]
    assert message == "largest difference 1, relative 0.267, 1 of 3 numbers, in channel 2, on which no output depends"
    (finding,) = check(second, snapshot(first, given), given).findings
    assert finding.statistic == "weight k"


def test_a_row_of_numbers_that_nothing_reads_is_guarded():
    first, second = (network(f"k = Constant<value = float[3] {{1, 2, {last}}}>()") for last in (3, 4))
    assert diff(first, second).verdict == "differs"
    assert not check(second, snapshot(first)).ok
    assert diff(first, network()).equal


def test_another_type_or_shape_is_told():
    first = network(k=ROW)
    changes = ((ROW[None], "float32[3] became float32[1, 3]"), (ROW.astype("f8"), "float32[3] became float64[3]"))
    for row, message in changes:
        (change,) = diff(first, network(k=row)).weights
        assert change.message == f"{message}, on which no output depends"


@pytest.mark.parametrize("given", [None, {"x": attention_models.FED["x"]}])
def test_packed_weights_that_are_compared_as_parts_are_not_told_as_unread(given):
    written, packed = attention_models.unfused(), attention_models.fused()
    for first, second in ((written, packed), (packed, written)):
        messages = [change.message for change in diff(first, second, given).weights]
        assert not any("no output depends" in message for message in messages), messages
    packed.graph.initializer.append(numpy_helper.from_array(ROW, "k"))
    messages = [change.message for change in diff(written, packed, given).weights if change.change != "renamed"]
    assert messages == ["only the second model has k, on which no output depends"]
