"""Small networks that score classes, and what class_activation() is compared with: onnx's own evaluator."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxscope.analyses.activation_maps import class_activation
from onnxscope.errors import InputError

RNG = np.random.default_rng(21)
KERNELS = RNG.normal(size=(5, 3, 3, 3)).astype(np.float32)
CLASSES = RNG.normal(size=(5, 4)).astype(np.float32)
POINT = RNG.normal(size=(5, 3, 1, 1)).astype(np.float32)
X = RNG.normal(size=(3, 3, 8, 10)).astype(np.float32)


def with_weights(text, **weights):
    model = onnx.parser.parse_model(text)
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def channels_first(batch="batch", tail="y = MatMul(f, classes)"):
    return with_weights(
        f"""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[{batch}, 3, 8, 10] x) => (float[{batch}, 4] y) {{
            a = Conv(x, kernels)
            h = Relu(a)
            p = GlobalAveragePool(h)
            f = Flatten(p)
            {tail}
        }}""",
        kernels=KERNELS,
        classes=CLASSES,
    )


def residual():
    """A block as in ResNet: convolution, BatchNorm, a sum, Relu; the sum reads the input of the block too."""
    ones = np.ones(3, np.float32)
    return with_weights(
        """
        <ir_version: 9, opset_import: ["": 17]>
        net (float[batch, 3, 6, 6] x) => (float[batch, 4] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, kernels)
            n = BatchNormalization(a, scale, shift, mean, variance)
            s = Add(n, x)
            h = Relu(s)
            p = GlobalAveragePool(h)
            c = Conv(p, point)
            f = Flatten(c)
            y = MatMul(f, classes)
        }""",
        kernels=KERNELS[:3],
        scale=ones,
        shift=ones,
        mean=0 * ones,
        variance=ones,
        point=POINT,
        classes=CLASSES,
    )


def evaluated(model, value, x):
    """A value by onnx's reference evaluator, which has no part in what is tested."""
    return ReferenceEvaluator(model).run([value], {"x": x})[0]


def scaled(values):
    span = values.max() - values.min()
    return (values - values.min()) / span if span else np.zeros_like(values)


def refusal(*arguments, error=InputError, **options):
    with pytest.raises(error) as caught:
        class_activation(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint
