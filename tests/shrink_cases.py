"""Small models with a fault, as cases to be shrunk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import onnx.parser

from onnxscope.model.loading import load_model
from onnxscope.shrinking.case import Case, tidied
from onnxscope.shrinking.faults import Bench, find_fault
from onnxscope.shrinking.search import Search

HEADER = '<ir_version: 9, opset_import: ["": 17]> net '
CRASH = (
    HEADER
    + """(float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) <float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}> {
    h = Tanh(x)
    [norm] a, , v = BatchNormalization <training_mode = 1> (h, s, b, b, s)
    y = Relu(a)
}"""
)
"""onnxruntime 1.32 crashes on it: the second output has no name."""


def case_of(text: str, feeds: Mapping[str, Any]) -> Case:
    """A model as text, with what it is fed, as the search begins with it; every number is an original one."""
    proto = onnx.parser.parse_model(text if text.startswith("<") else HEADER + text)
    case = tidied(Case(load_model(proto).proto, feeds))
    counts = {name: value.size for name, value in feeds.items()}
    counts |= {tensor.name: onnx.numpy_helper.to_array(tensor).size for tensor in case.proto.graph.initializer}
    return Case(case.proto, case.feeds, counts)


def searched(bench: Bench, case: Case, *, most_trials: int = 1000) -> Search:
    """A search for the smallest case with the fault that this one has."""
    found = find_fault(bench, case)
    assert found.fault is not None, found.looked_for
    trials = bench.trials.count + most_trials
    return Search(bench, found.fault, found.case, load_model(case.proto), trials, time.monotonic() + 60)
