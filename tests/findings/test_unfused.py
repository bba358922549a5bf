"""Taps that keep onnxruntime from fusing operators, counted in its own optimized graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from weight_models import normal

from onnxscope.findings.unfused import find_unfused
from onnxscope.model.loading import load_model
from onnxscope.selection.selectors import select_taps

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


CHAINS = {
    "Conv with Relu": "h = Conv(x, w) y = Relu(h)",
    "Conv with Clip": "h = Conv(x, w) y = Clip(h, low, high)",
    "Conv with LeakyRelu": "h = Conv(x, w) y = LeakyRelu(h)",
    "Conv with BatchNormalization": "h = Conv(x, w) y = BatchNormalization(h, one, one, one, one)",
    "Conv with Add": "h = Conv(x, w) y = Add(h, column)",
    "Conv with Mul": "h = Conv(x, w) y = Mul(h, column)",
    "behind": "a = Conv(x, w) h = BatchNormalization(a, one, one, one, one) y = Relu(h)",
    "ConvTranspose with BatchNormalization": "h = ConvTranspose(x, w) y = BatchNormalization(h, one, one, one, one)",
    "Gemm with Tanh": "f = Flatten(x) h = Gemm(f, dense) y = Tanh(h)",
    "Gemm with Selu": "f = Flatten(x) h = Gemm(f, dense) y = Selu(h)",
}
APART = (
    "h = Conv(x, w) y = Softplus(h)",
    "h = Conv(x, w) y = Add(column, h)",
    "h = Conv(x, w) y = Div(h, column)",
    "h = Conv<pads = [1, 1, 1, 1]>(x, w) y = Add(h, x)",
    "h = Conv(x, w) t = Neg(h) y = Relu(t)",
    "h = Conv(x, w) y = Neg(h)",
    "h = ConvTranspose(x, w) y = Relu(h)",
    "f = Flatten(x) h = Gemm(f, dense) y = Clip(h, low, high)",
    "f = Flatten(x) h = MatMul(f, dense) y = Relu(h)",
    "h = BatchNormalization(x, one, one, one, one) y = Relu(h)",
    "a = Conv(x, w) b = Relu(a) c = Neg(a) h = Add(b, c) y = Relu(h)",
)


def chain(text):
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17]> net (float[1, 3, 8, 8] x) => (float y) {{ {text} }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    stored = {"w": normal(3, 3, 3, 3), "one": np.ones(3, np.float32), "column": normal(3, 1, 1)}
    stored |= {"dense": normal(192, 5), "low": np.float32(-1), "high": np.float32(1)}
    used = {name for node in model.graph.node for name in node.input}
    for name, values in stored.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def optimized(model, folder, tap=None):
    """How many operators beside changes of layout onnxruntime runs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if tap is not None:
        copy.graph.output.add().name = tap
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(folder / "optimized.onnx").graph.node
    return sum(node.op_type != "ReorderOutput" and node.op_type != "ReorderInput" for node in nodes)


def unfused(model):
    loaded = load_model(model)
    return find_unfused(select_taps(loaded, ["value:h"]), loaded)


@pytest.mark.parametrize("fusion", CHAINS)
def test_taps_that_keep_onnxruntime_from_fusing(fusion, tmp_path):
    model = chain(CHAINS[fusion])
    (finding,) = unfused(model)
    kind = "Conv with Relu" if fusion == "behind" else fusion
    assert finding.message == (
        f"observed where onnxruntime would fuse {kind}: {finding.layer}; numbers from there on may differ from the "
        "deployed model's by rounding, and the run is slower"
    )
    assert (finding.kind, finding.channel) == ("unfused", None)
    assert optimized(model, tmp_path, "h") > optimized(model, tmp_path)
    model.graph.output.add().name = "h"
    assert unfused(model) == ()  # it is an output anyway


@pytest.mark.parametrize("text", APART)
def test_taps_that_fuse_with_nothing(text, tmp_path):
    model = chain(text)
    assert unfused(model) == ()
    assert optimized(model, tmp_path, "h") <= optimized(model, tmp_path)


def test_taps_after_the_activation_leave_fusions_alone():
    model = load_model(FIXTURES / "digits.onnx")
    assert find_unfused(select_taps(model, []), model) == ()
    (finding,) = find_unfused(select_taps(model, [], at="pre"), model)
    assert "fuse Conv with Relu and Conv with BatchNormalization: stem.0, block.0, down.0;" in finding.message
