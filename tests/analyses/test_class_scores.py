"""Scores of classes: models without any, and scores that break where the sample is varied."""

from __future__ import annotations

import numpy as np
import onnx
from class_models import CLASSES, KERNELS, X, channels_first, refusal, with_weights
from onnx import numpy_helper

from onnxscope.analyses.activation_maps import class_activation
from onnxscope.errors import RunError


def test_a_batch_that_a_reshape_holds_to_one_is_run_channel_by_channel():
    model = with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float[batch, 3, 8, 10] x) => (float[batch, 4] y) <int64[2] one = {1, 5}> {
            a = Conv(x, kernels)
            h = Relu(a)
            p = GlobalAveragePool(h)
            f = Reshape(p, one)
            y = MatMul(f, classes)
        }""",
        kernels=KERNELS,
        classes=CLASSES,
    )
    for method in ("ablation", "score"):
        found = class_activation(model, X[:1], method=method)
        np.testing.assert_allclose(found.map, class_activation(channels_first(), X[:1], method=method).map, atol=1e-6)


def test_refusals_of_models_without_class_scores():
    model = with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float[b, 3, 8, 10] x) => (float[b, 5, 6, 8] a) { a = Conv(x, kernels) }""",
        kernels=KERNELS,
    )
    for method in ("ablation", "score"):
        assert refusal(model, X, method=method) == (
            "no output scores classes (samples x classes): a (1, 5, 6, 8): net",
            "the method `eigen` needs no scores",
        )
    model = channels_first()
    model.graph.node.append(onnx.helper.make_node("Conv", ["x", "kernels"], ["beside"]))
    fault = "output 'y' does not depend on the layer: Conv_1: net"
    assert refusal(model, X, method="ablation", layer="value:beside")[0] == fault
    model = channels_first(tail="l = MatMul(f, classes) y = Div(l, zero)")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    assert refusal(model, X, method="score") == ("scores that are not finite: output 'y' of net", None)


def test_scores_that_break_where_the_sample_is_varied():
    """Zeros divided by their sum: only the untouched sample has a score."""
    model = channels_first(tail="r = Relu(l) l = MatMul(f, classes) y = Identity(r)")
    del model.graph.node[-3:]
    model.graph.node.extend(
        [
            onnx.helper.make_node("Abs", ["x"], ["size"]),
            onnx.helper.make_node("ReduceSum", ["size"], ["sum"], keepdims=0),
            onnx.helper.make_node("MatMul", ["f", "classes"], ["l"]),
            onnx.helper.make_node("Div", ["l", "sum"], ["y"]),
        ]
    )
    fault, hint = refusal(model, X, method="score", batch_size=1)
    assert (fault, hint) == ("scores that are not finite once the input is varied: output 'y'", None)


def test_scores_whose_number_depends_on_the_input():
    """Only classes whose pixel is above zero are scored: none are in an input of zeros."""
    model = channels_first(
        tail="""
        all = Flatten<axis = 0>(x)
        pixels = Gather<axis = 1>(all, columns)
        row = Squeeze(pixels)
        above = Greater(row, zero)
        l = MatMul(f, classes)
        y = Compress<axis = 1>(l, above)
        """
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(4), "columns"))
    message, _ = refusal(model, abs(X[:1]), method="score", error=RunError, batch_size=1)
    assert message.startswith("no 4 scores for each of 1 samples but (1, ")


def test_what_onnxruntime_refuses_stays_an_error_of_the_run():
    model = channels_first("2")
    model.graph.node[3].attribute.append(onnx.helper.make_attribute("axis", 9))
    message, _ = refusal(model, X[:2], method="ablation", error=RunError)
    assert message.startswith("onnxruntime cannot")
