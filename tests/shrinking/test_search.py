"""A change is kept where the fault is there, once, and within what a search may take."""

from __future__ import annotations

import time

import numpy as np
import onnx
from shrink_cases import CRASH, case_of, searched

from onnxscope.shrinking.case import Case, changed, copied, with_outputs

X = np.array([1, -1], np.float32)
TEXT = "(float[N] x) => (float[N] y) { a = Neg(x)  b = Sqrt(a)  y = Tanh(b) }"


def test_what_shows_the_fault_is_kept_and_what_does_not_is_tried_once(bench):
    search = searched(bench, case_of(TEXT, {"x": X}))
    assert search.keeps(with_outputs(search.case, ["b"]))
    assert search.case.outputs == ["b"]
    without = with_outputs(search.case, ["a"])
    count = bench.trials.count
    assert not search.keeps(without)
    assert not search.keeps(without)
    assert bench.trials.count == count + 1
    assert search.case.outputs == ["b"]


def test_nan_that_is_fed_is_not_the_fault(bench):
    search = searched(bench, case_of(TEXT, {"x": X}))
    count = bench.trials.count
    assert not search.keeps(Case(search.case.proto, {"x": np.array([np.nan, 1], np.float32)}))
    assert bench.trials.count == count


def test_values_are_computed_as_they_are_fed(bench):
    search = searched(bench, case_of(TEXT, {"x": X}))
    values = search.values(["a", "x"])
    np.testing.assert_array_equal(values["a"], -X)
    assert values["x"] is X


def test_it_ends_with_its_trials_and_with_its_time(bench):
    few = searched(bench, case_of(TEXT, {"x": X}), most_trials=0)
    few.most_trials = bench.trials.count
    assert few.is_over
    assert not few.keeps(with_outputs(few.case, ["b"]))
    assert few.values(["a"]) is None
    late = searched(bench, case_of(TEXT, {"x": X}))
    late.end_s = time.monotonic() - 1
    assert late.is_over


def test_what_onnxscope_cannot_read_is_not_kept(bench):
    """A crash hides what else is wrong with a model."""
    search = searched(bench, case_of(CRASH, {"x": np.ones((2, 3, 4, 4), np.float32)}))
    proto = copied(search.case.proto)
    proto.graph.node[2].output.append("z")
    proto.graph.node[2].input[0] = "nowhere"
    assert not search.keeps(changed(search.case, proto))
    proto = onnx.ModelProto.FromString(search.case.proto.SerializeToString())
    assert len(proto.graph.node) == 3
