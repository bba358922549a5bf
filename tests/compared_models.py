"""Models to compare: stored ones, written ones, and copies with one initializer changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from onnxscope.comparison.floors import own_floors
from onnxscope.datasets.dataset import open_dataset
from onnxscope.profiling.dataset_run import start_pilot
from onnxscope.selection.selectors import tap_values

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
DIGITS, DEPLOYED, QDQ, INPUT = (
    str(FIXTURES / name) for name in ("digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx", "digits.npz")
)
RNG = np.random.default_rng(5)
LAYERS = ["stem.0", "block.0", "down.0", "classifier.2"]


def planted(name, change, source=DIGITS):
    """A copy of a model with one initializer changed."""
    model = onnx.load(source)
    (tensor,) = (each for each in model.graph.initializer if each.name == name)
    values = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return model


def one_weight(values):
    values.flat[values.size // 2] += values.std()
    return values


def swapped(values):
    values[[0, 2]] = values[[2, 0]]
    return values


def parsed(text, **initializers):
    model = onnx.parser.parse_model(text)
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


TWO = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 3, 6, 6] x) => (float[batch, 5] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w1)
        r = Relu(c)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        y = Gemm<transB = 1>(f, w2, b2)
    }"""
WEIGHTS = {
    "w1": RNG.standard_normal((4, 3, 3, 3), np.float32),
    "w2": RNG.standard_normal((5, 4), np.float32),
    "b2": RNG.standard_normal(5, np.float32),
}
KINDS_OF_OUTPUT = {  # of a network, made of its value `m`
    "float[] y": "a = ReduceMean<keepdims = 0>(m) y = Neg(a)",
    "double y": "a = ReduceMean<keepdims = 0>(m) y = Cast<to = 11>(a)",
    "float16 y": "a = ReduceMean<keepdims = 0>(m) y = Cast<to = 10>(a)",
    "int64 y": "a = ReduceSum<keepdims = 0>(m) b = Mul(a, thousand) y = Cast<to = 7>(b)",
    "int32 y": "a = ReduceSum<keepdims = 0>(m) b = Mul(a, thousand) y = Cast<to = 6>(b)",
    "bool y": "a = ReduceMean<keepdims = 0>(m) y = Greater(a, limit)",
    "float[1] y": "a = ReduceMean<keepdims = 0>(m) y = Reshape(a, minus)",
    "float[1, 1] y": "y = ReduceMean<keepdims = 1>(m)",
    "float[n] y": "y = Reshape(m, minus)",
    "int64[n] y": "a = Reshape(m, minus) b = Mul(a, thousand) y = Cast<to = 7>(b)",
    "bool[n, 3] y": "y = Greater(m, limit)",
    "uint8[n, 3] y": "y = Cast<to = 2>(m)",
    "uint64[n, 3] y": "y = Cast<to = 13>(m)",
    "float[0, 3] y": "y = Slice(m, zero, zero, zero, one)",
    "int64[0, 3] y": "a = Slice(m, zero, zero, zero, one) y = Cast<to = 7>(a)",
    "string[1] y": "a = ReduceSum<keepdims = 0>(m) b = Reshape(a, minus) y = Cast<to = 8>(b)",
    "string y": "a = ReduceSum<keepdims = 0>(m) y = Cast<to = 8>(a)",
    "seq(float[n, 1]) y": "y = SplitToSequence<axis = 1>(m)",
}
WITHOUT_NUMBERS = [kind for kind in KINDS_OF_OUTPUT if kind.startswith(("float[0", "int64[0"))]


def with_output(kind, k=1.0, opset=17):
    """A network whose only output is of a kind."""
    return parsed(
        f"""
        <ir_version: 9, opset_import: ["": {opset}]>
        net (float[n, 4] x) => ({kind}) {{
            h = MatMul(x, w)
            p = Abs(h)
            m = Mul(p, k)
            {KINDS_OF_OUTPUT[kind]}
        }}""",
        w=np.random.default_rng(8).normal(size=(4, 3)).astype(np.float32),
        k=np.float32(k),
        thousand=np.float32(1000),
        limit=np.float32(10),
        minus=np.array([-1]),
        zero=np.array([0]),
        one=np.array([1]),
    )


KIND_INPUT = np.random.default_rng(9).uniform(1, 9, (5, 4)).astype(np.float32)
X = RNG.standard_normal((3, 3, 6, 6), np.float32)
CHANNELS_LAST = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 6, 6, 3] image) => (float[batch, 5] scores) {
        t = Transpose<perm = [0, 3, 1, 2]>(image)
        k = Transpose<perm = [3, 2, 0, 1]>(kernel)
        c = Conv<pads = [1, 1, 1, 1]>(t, k)
        u = Transpose<perm = [0, 2, 3, 1]>(c)
        r = Relu(u)
        p = ReduceMean<keepdims = 0>(r, axes)
        m = MatMul(p, dense)
        scores = Add(m, bias)
    }"""


def floors_of(model, inputs, options):
    """How far a model is from itself, by the name of the value: of its layers and its outputs."""
    layers = [(layer.path, layer.value) for layer in model.layers]
    taps = tap_values(model, [*layers, *(((), name) for name in model.main.outputs)])
    pilot, _ = start_pilot(model, list(taps.values()), open_dataset(inputs, model, options), options)
    return {name: floor.relative for name, floor in own_floors(pilot, taps).items()}
