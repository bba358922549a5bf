"""Probed against raw statistics, for every element type, class of operators and level of optimization.

onnxruntime computes float16 in float32 here and there, and drops Casts between: a probe must not see that, but the
numbers that the value's own type holds, as they leave onnxruntime when nothing is probed.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from observing import assert_observed, planned
from onnx import numpy_helper

from onnxscope.errors import RunError
from onnxscope.numerics.blocks import widened
from onnxscope.numerics.sample_moments import sample_rows
from onnxscope.profiling.observer import Observer
from onnxscope.runtime.session import Session

LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
REAL = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}
WHOLE = {"bool": "bool", **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}}
ELEMENTS = REAL | WHOLE
NUMBERS = {"float16": 10, "bfloat16": 16, "float32": 1, "float64": 11, "bool": 9, "uint8": 2, "int8": 3}
NUMBERS |= {"uint16": 4, "int16": 5, "int32": 6, "int64": 7, "uint32": 12, "uint64": 13}
SIDE = 90

SINGLE, SMALL = "float16 float32", "float16 float32 float64"
SIGNED = f"{SMALL} int8 int16 int32 int64"
ORDERED = f"{SIGNED} uint8 uint16 uint32 uint64"
EVERY = f"{ORDERED} bfloat16 bool"
MOST = f"{SMALL} int8 int32 int64 uint8 uint32 uint64"

OPERATORS = {  # and the element types that onnxruntime computes them in on a CPU
    # layers
    "h = Conv<pads = [1, 1, 1, 1]>(x, w)": SINGLE,
    "h = ConvTranspose<pads = [1, 1, 1, 1]>(x, w)": SINGLE,
    "h = MatMul(x, m)": f"{SMALL} int32 int64 uint32 uint64",
    "f = Flatten<axis = 3>(x) h = Gemm(f, m)": SMALL,
    'h = Einsum<equation = "abcd,abde->abce">(x, x)': f"{SMALL} int32 int64",
    # normalization
    "h = BatchNormalization(x, scale, shift, shift, scale)": SMALL,
    "h = InstanceNormalization(x, scale, shift)": SINGLE,
    "h = GroupNormalization<num_groups = 2>(x, scale, shift)": SMALL,
    "h = LayerNormalization(x, one)": f"{SMALL} bfloat16",
    "h = LRN<size = 3>(x)": SINGLE,
    "h = Softmax(x)": SMALL,
    # activation functions
    "h = Relu(x)": f"{SMALL} int8 int32",
    "h = LeakyRelu(x)": SINGLE,
    "h = Sigmoid(x)": SMALL,
    "h = Tanh(x)": SMALL,
    "h = Gelu(x)": SINGLE,
    "h = HardSwish(x)": SINGLE,
    "h = Erf(x)": SINGLE,
    "h = Exp(x)": SMALL,
    "h = Clip(x)": f"{MOST} int16 uint16 bfloat16",
    # arithmetic
    "h = Add(x, x)": ORDERED,
    "h = Sub(x, x)": ORDERED,
    "h = Mul(x, x)": ORDERED,
    "h = Div(x, one)": ORDERED,
    "h = Pow(x, two)": f"{SMALL} int32 int64",
    "h = Neg(x)": SIGNED,
    "h = Abs(x)": ORDERED,
    "h = Sign(x)": f"{ORDERED} bfloat16",
    "h = Max(x, x)": MOST,
    "h = Min(x, x)": MOST,
    "h = CumSum(x, axis)": f"{SMALL} int32 int64",
    "h = Not(x)": "bool",
    "h = And(x, x)": "bool",
    "h = Equal(x, x)": f"{ORDERED} bool",
    # pools, and what moves numbers
    "h = MaxPool<kernel_shape = [2, 2]>(x)": f"{SMALL} int8 uint8",
    "h = AveragePool<kernel_shape = [2, 2]>(x)": SINGLE,
    "h = DepthToSpace<blocksize = 2>(x)": f"{SMALL} int8 uint8",
    "h = Transpose<perm = [0, 1, 3, 2]>(x)": EVERY,
    "h = Reshape(x, shape)": EVERY,
    "h = Concat<axis = 3>(x, x)": EVERY,
    "h, rest = Split<axis = 2, num_outputs = 2>(x)": EVERY,
    "h = Gather<axis = 3>(x, places)": EVERY,
    "h = Slice(x, from, to, last)": EVERY,
    "h = Pad(x, pads)": f"{MOST} bfloat16 bool",
    "h = Tile(x, twice)": f"{ORDERED} bool",
    "h = Identity(x)": EVERY,
    "c = Cast<to = 9>(x) h = Where(c, x, x)": f"{SMALL} int8 int32 int64 uint8 uint32",
    "f = Cast<to = 1>(x) g = Mul(f, more) h = Cast<to = ELEMENT>(g)": EVERY,
}


def numpy_type(dtype):
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def operator_model(text, dtype):
    """A network whose value `h` is what one operator gives in an element type, and what leaves it from there."""
    rng = np.random.default_rng(1)
    arrays = {
        "w": rng.normal(size=(4, 4, 3, 3)),
        "m": rng.normal(size=(SIDE, SIDE)),
        "two": np.array(2.0),
        "one": np.ones(SIDE),
        "scale": rng.uniform(0.5, 2, 4),
        "shift": rng.uniform(0.5, 2, 4),
    }
    integers = {"places": range(SIDE), "from": [1], "to": [SIDE - 1], "last": [3], "pads": [0, 0, 1, 1] * 2}
    integers |= {"shape": [0, 4, -1], "twice": [1, 1, 1, 2], "axis": 2}
    element = ELEMENTS[dtype]
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net ({element}[batch, 4, {SIDE}, {SIDE}] x) => ({element}[] y) {{
            {text.replace("ELEMENT", str(NUMBERS[dtype]))}
            y = {"Sigmoid" if dtype in SMALL.split() else "Transpose"}(h)
        }}""")
    if dtype.startswith("uint"):  # wrapped numbers are beyond what float64, the oracle's type, tells apart
        arrays = {name: np.abs(array) for name, array in arrays.items()}
    stored = {name: array.astype(numpy_type(dtype)) for name, array in arrays.items()}
    stored |= {name: np.array(values, np.int64) for name, values in integers.items()}
    stored["more"] = np.float32(1.003)  # beyond the largest number of half precision, but not of single
    read = {name for node in model.graph.node for name in node.input}
    for name, array in stored.items():
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    if text.startswith("h = Equal"):
        model.graph.node[-1].op_type = "Transpose"
        model.graph.output[0].type.tensor_type.elem_type = NUMBERS["bool"]
    return model


def batch_of(dtype):
    rng = np.random.default_rng(2)
    if dtype in REAL:
        return rng.normal(size=(2, 4, SIDE, SIDE)).astype(numpy_type(dtype))
    if dtype == "bool":
        return rng.random((2, 4, SIDE, SIDE)) < 0.4
    return rng.integers(-100 if dtype.startswith("int") else 0, 100, (2, 4, SIDE, SIDE)).astype(dtype)


def largest(dtype):
    if dtype == "bool":
        return True
    return ml_dtypes.finfo(numpy_type(dtype)).max if dtype in REAL else np.iinfo(dtype).max


def raw_session(model):
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    plain.graph.output.add().name = "h"
    return Session(plain, folder=None, where="plain")


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """The level at which every session is opened."""
    make = onnxruntime.SessionOptions

    def options():
        made = make()
        made.graph_optimization_level = LEVELS[request.param]
        return made

    monkeypatch.setattr(onnxruntime, "SessionOptions", options)
    return request.param


def assert_probed_as_raw(text, dtype):
    model = operator_model(text, dtype)
    session = raw_session(model)
    x = batch_of(dtype)
    loaded, plan = planned(model, ["value:h"], {"x": x})
    (tap,) = plan.taps
    raw = session.run({"x": x})["h"]
    assert (tap.dtype, tap.probed) == (raw.dtype.name, raw.dtype.name != "uint64")
    observer = Observer(loaded, plan, threads=1)
    if tap.probed:
        observer._observe_raw = None  # the probe alone has to tell
    found, _ = observer.observe({"x": x}, 2)
    assert_observed(found["h"], raw, tap.batch_axis, tap.channel_axis)
    axes = tap.batch_axis, tap.channel_axis
    examined = sample_rows(raw[tuple(slice(None, None, step) for step in tap.steps)], *axes, 2)
    np.testing.assert_array_equal(found["h"].values, widened(examined))
    planted = x.copy()
    planted[1, 2, 3:6, 4:7] = largest(dtype)
    raw = session.run({"x": planted})["h"]
    found, _ = Observer(loaded, plan, threads=1).observe({"x": planted}, 2)
    assert_counts_and_extremes(found["h"], raw, axes)


def assert_counts_and_extremes(found, raw, axes):
    """The sums of numbers as large as the type holds are not told by any that is as narrow."""
    rows = sample_rows(raw, *axes, 2).astype(np.float64)
    finite = np.isfinite(rows)
    np.testing.assert_array_equal(found.moments.count, finite.sum(axis=2))
    np.testing.assert_array_equal(found.moments.nan, np.isnan(rows).sum(axis=2))
    np.testing.assert_array_equal(found.moments.inf, np.isinf(rows).sum(axis=2))
    np.testing.assert_array_equal(found.moments.min, np.where(finite, rows, np.inf).min(axis=2))
    np.testing.assert_array_equal(found.moments.max, np.where(finite, rows, -np.inf).max(axis=2))


@pytest.mark.parametrize("text", OPERATORS)
def test_a_probe_sees_what_a_real_type_holds(text, level):
    for dtype in OPERATORS[text].split():
        if dtype in REAL:
            assert_probed_as_raw(text, dtype)


@pytest.mark.parametrize("text", [text for text, dtypes in OPERATORS.items() if WHOLE.keys() & {*dtypes.split()}])
def test_a_probe_sees_what_an_integer_type_holds(text):
    for dtype in OPERATORS[text].split():
        if dtype in WHOLE:
            assert_probed_as_raw(text, dtype)


@pytest.mark.parametrize("text", OPERATORS)
def test_other_types_are_those_that_onnxruntime_refuses(text):
    for dtype in ELEMENTS.keys() - {*OPERATORS[text].split()}:
        with pytest.raises(RunError):
            raw_session(operator_model(text, dtype)).run({"x": batch_of(dtype)})


def test_every_type_is_compared():
    counts = {dtype: sum(dtype in dtypes.split() for dtypes in OPERATORS.values()) for dtype in ELEMENTS}
    assert min(counts.values()) >= 10
    assert counts["float16"] >= 40
