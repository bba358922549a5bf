"""Trial runs: a misfit is 0 exactly where onnxruntime runs, and its sign says which way; refusals name their node."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxscope.inputs.trial_runs import TrialRuns
from onnxscope.model.loading import load_model

HEAD = '<ir_version: 9, opset_import: ["": 18]>'
NODES = {
    "Gemm": ("float[2, n] x", "y = Gemm (x, w)", {"w": (6, 3)}),
    "Gemm, turned": ("float[n, 2] x", "y = Gemm <transA = 1, transB = 1> (x, w)", {"w": (3, 6)}),
    "MatMul": ("float[2, 2, n] x", "y = MatMul (x, w)", {"w": (6, 3)}),
    "MatMul, right": ("float[n, 2] x", "y = MatMul (w, x)", {"w": (3, 6)}),
    "Add": ("float[2, n] x", "y = Add (x, w)", {"w": (2, 6)}),
    "Mul": ("float[n, 2] x", "y = Mul (w, x)", {"w": (3, 6, 1)}),
    "Concat": ("float[2, n] x", "y = Concat <axis = 0> (x, w)", {"w": (1, 6)}),
    "Conv, channels": ("float[1, n, 5] x", "y = Conv <group = 2> (x, w)", {"w": (4, 3, 2)}),
    "Conv, window": ("float[1, 3, n] x", "y = Conv <dilations = [2], pads = [1, 1]> (x, w)", {"w": (4, 3, 4)}),
    "MaxPool": ("float[1, 3, n] x", "y = MaxPool <kernel_shape = [6]> (x)", {}),
    "BatchNormalization": ("float[2, n, 2] x", "y = BatchNormalization (x, w, w, w, w)", {"w": (6,)}),
    "GRU": ("float[2, 1, n] x", "y, z = GRU <hidden_size = 2> (x, w, r)", {"w": (1, 6, 5), "r": (1, 6, 2)}),
    "Split": ("float[n, 2] x", "y, z = Split (x, parts)", {"parts": np.array([2, 4])}),
    "Pad": ("float[n, 2] x", 'y = Pad <mode = "reflect"> (x, by)', {"by": np.array([4, 0, 1, 0])}),
    "Reshape": ("float[n, 4] x", "y = Reshape (x, to)", {"to": np.array([3, 8])}),
    "Reshape, open": ("float[n, 2] x", "y = Reshape (x, to)", {"to": np.array([-1, 3, 2])}),
    "Reshape, kept": ("float[2, n] x", "y = Reshape (x, to)", {"to": np.array([0, 2, 3])}),
}


@pytest.mark.parametrize("kind", NODES)
def test_a_misfit_is_nothing_exactly_where_onnxruntime_runs(kind):
    given, node, weights = NODES[kind]
    declared = ", ".join(f"float[d{name.strip()}] {name}" for name in node.partition("=")[0].split(","))
    proto = onnx.parser.parse_model(f"{HEAD} g ({given}) => ({declared}) {{ {node} }}")
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    for name, weight in weights.items():
        array = weight if isinstance(weight, np.ndarray) else np.ones(weight, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    model = load_model(proto)
    trials = TrialRuns(model)
    (spec,) = model.inputs
    found = {}
    for size in range(1, 13):
        x = np.ones([size if dim == "n" else dim for dim in spec.shape], np.float32)
        try:
            answers = session.run(None, {"x": x})
        except Exception:  # onnxruntime raises many unrelated classes
            answers = []
        runs = bool(answers)
        refusal = trials.refusal({"x": x})
        assert (refusal is None) == runs
        assert runs or refusal.node is model.main.nodes[0]
        found[size] = trials.misfit(model.main.nodes[0], {"x": x})
        # A pool also slides over one number less than its window has, and gives nothing.
        assert (found[size] == 0) == (runs and all(answer.size for answer in answers)), size
    misfits = [misfit for misfit in found.values() if misfit]
    assert misfits
    if kind not in ("Reshape, open", "Mul"):  # short of what fits, then beyond it
        assert misfits == sorted(misfits) or misfits == sorted(misfits, reverse=True)


def test_a_refusal_inside_a_body_comes_behind_its_owner():
    proto = onnx.parser.parse_model(f"""{HEAD} g (float[n] x, bool c) => (float[m] y) {{
        z = Relu (x)
        y = If (c) <
          then_branch = t () => (float[k] p) <int64[1] to = {{7}}> {{ [inner] p = Reshape (z, to) }},
          else_branch = e () => (float[k] q) {{ q = Identity (z) }}
        > }}""")
    trials = TrialRuns(load_model(proto))
    feeds = {"x": np.ones(5, np.float32), "c": np.array(True)}
    refusal = trials.refusal(feeds)
    assert (refusal.called, refusal.node, refusal.rank[0]) == ("Reshape 'inner'", None, 1)
    assert trials.refusal({**feeds, "c": np.array(False)}) is None
    assert trials.refusal({**feeds, "x": np.ones(7, np.float32)}) is None
