"""What two models compute in the same way goes, and what differs stays."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime
from shrink_cases import case_of

from onnxscope.model.loading import load_model
from onnxscope.shrinking.faults import find_fault
from onnxscope.shrinking.fewer_pairs import cut_pairs
from onnxscope.shrinking.search import Search

X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def test_nodes_that_both_have_go(bench):
    text = """(float[N, 3] x) => (float[N, 3] y, float[N, 3] z) {
        a1 = Tanh(x)  a2 = LeakyRelu <alpha = 0.1> (a1)  y = Neg(a2)
        b1 = Tanh(x)  b2 = LeakyRelu <alpha = 0.3> (b1)  z = Neg(b2)
    }"""
    case = case_of(text, {"x": X})
    found = find_fault(bench, case, has_two=True)
    trials = bench.trials.count + 100
    search = Search(bench, found.fault, found.case, load_model(case.proto), trials, time.monotonic() + 60)
    cut_pairs(search)
    assert [node.op_type for node in search.case.proto.graph.node] == ["LeakyRelu", "LeakyRelu"]
    session = onnxruntime.InferenceSession(search.case.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    one, other = session.run(None, dict(search.case.feeds))
    for given, slope in ((one, 0.1), (other, 0.3)):
        np.testing.assert_allclose(given, np.where(X < 0, slope * X, X), rtol=1e-6)
