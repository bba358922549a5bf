"""Plans and observers: what probes tell, against float64 numpy on the taps themselves."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx.parser
import pytest
from nested_models import GROWING
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxscope.base.run_options import RunOptions
from onnxscope.errors import RunError
from onnxscope.model.loading import load_model
from onnxscope.model.selectors import select_taps
from onnxscope.numerics.blocks import widened
from onnxscope.numerics.sample_moments import sample_rows
from onnxscope.profiling.observer import Observer
from onnxscope.profiling.plan import make_plan, open_observer
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.session import Session, open_session

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
RNG = np.random.default_rng(4)


def parsed(text, **initializers):
    model = onnx.parser.parse_model(text)
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@dataclass
class Samples:
    """As much of a dataset as a plan asks for."""

    batch_axes: dict
    fixed_batch: int | None
    count: int = 1 << 40


def planned(model, select, feeds, *, fixed=None, exact=False, budget=1 << 30, batch=None, at="post", axes=None):
    loaded = load_model(model)
    taps = select_taps(loaded, select, at=at)
    axes = dict.fromkeys(feeds, 0) if axes is None else axes
    size = batch or fixed or len(next(iter(feeds.values())))
    options = RunOptions(batch_size=size, memory_budget_bytes=budget, exact=exact, threads=1)
    pilot = Pilot(loaded, taps, options)
    pilot.run(feeds)
    plan, _ = open_observer(loaded, make_plan(pilot, taps, Samples(axes, fixed), options), 1)
    return loaded, pickle.loads(pickle.dumps(plan))


def assert_observed(found, array, batch_axis, channel_axis, rel=1e-5):
    """Each sample and channel, by the definitions."""
    wide = array.astype(np.float64)
    samples = [wide] if batch_axis is None else list(np.moveaxis(wide, batch_axis, 0))
    moments = found.moments
    assert len(moments.count) == len(samples)
    for index, sample in enumerate(samples):
        place = None if channel_axis is None else channel_axis - (batch_axis is not None and batch_axis < channel_axis)
        rows = [sample] if place is None else np.moveaxis(sample, place, 0)
        for row, values in enumerate(rows):
            finite = values[np.isfinite(values)]
            assert moments.count[index, row] == finite.size
            assert moments.nan[index, row] == np.isnan(values).sum()
            assert moments.inf[index, row] == np.isinf(values).sum()
            if finite.size:
                assert moments.min[index, row] == finite.min()
                assert moments.max[index, row] == finite.max()
                scale = max(finite.std(), abs(finite.mean()))
                assert moments.mean[index, row] == pytest.approx(finite.mean(), abs=rel * scale)
    count = np.maximum(moments.count.sum(axis=0), 1)
    mean = (moments.mean * moments.count).sum(axis=0) / count
    m2 = (moments.m2 + moments.count * (moments.mean - mean) ** 2).sum(axis=0)
    rows = [wide] if channel_axis is None else np.moveaxis(wide, channel_axis, 0)
    for row, values in enumerate(rows):
        finite = values[np.isfinite(values)]
        assert np.sqrt(m2[row] / count[row]) == pytest.approx(finite.std() if finite.size else 0, rel=rel, abs=1e-12)


CONV = """
    <ir_version: 9, opset_import: ["": {opset}]>
    net (float[batch, 3, 40, 50] x) => (float[batch, 8, 40, 50] y) {{
        a = Conv<pads = [1, 1, 1, 1]>(x, w)
        y = Relu(a)
    }}"""


@pytest.mark.parametrize("opset", [9, 10, 11, 13, 17, 18, 21])
@pytest.mark.parametrize("at", ["pre", "post"])
def test_probes_agree_with_numpy_in_every_opset(opset, at):
    model = parsed(CONV.format(opset=opset), w=RNG.normal(size=(8, 3, 3, 3)).astype(np.float32))
    x = RNG.normal(size=(3, 3, 40, 50)).astype(np.float32)
    loaded, plan = planned(model, [], {"x": x}, at=at)
    (tap,) = plan.taps
    assert tap.probed == (opset >= 10)
    assert (tap.batch_axis, tap.channel_axis, tap.shape, tap.dtype) == (0, 1, (1, 8, 40, 50), "float32")
    found, reasons = Observer(loaded, plan, threads=1).observe({"x": x}, 3)
    assert not reasons
    expected = ReferenceEvaluator(model).run(["a" if at == "pre" else "y"], {"x": x})[0]
    observation = found[tap.name]
    assert_close(observation, expected)
    assert observation.shape == (8, 40, 50)
    assert observation.values.shape[2] in (
        expected[0, 0].size,
        np.prod([-(-40 // tap.steps[2]), -(-50 // tap.steps[3])]),
    )


def assert_close(observation, expected):
    """The evaluator's convolutions differ from onnxruntime's in the last digits."""
    wide = expected.astype(np.float64)
    np.testing.assert_allclose(observation.moments.min, wide.min(axis=(2, 3)), atol=1e-5)
    np.testing.assert_allclose(observation.moments.max, wide.max(axis=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(observation.moments.mean, wide.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(observation.moments.m2, wide.var(axis=(2, 3)) * wide[0, 0].size, rtol=1e-5)


TYPES = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
}


@pytest.mark.parametrize("dtype", TYPES)
def test_every_element_type(dtype):
    model = parsed(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[batch, 4, 3000] x) => (float[batch, 4, 3000] y) {{
            h = Cast<to = {TYPES[dtype]}>(x)
            y = Cast<to = 1>(h)
        }}""")
    x = RNG.integers(0, 100, (2, 4, 3000)).astype(np.float32)
    loaded, plan = planned(model, ["value:h"], {"x": x})
    assert plan.taps[0].dtype == dtype
    assert plan.taps[0].probed == (dtype != "uint64")
    found, _ = Observer(loaded, plan).observe({"x": x}, 2)
    expected = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert_observed(found["h"], expected, 0, plan.taps[0].channel_axis)


ELEMENTS = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}
WITHOUT_BFLOAT16 = set(ELEMENTS) - {"bfloat16"}
OPERATORS = {  # and the element types that onnxruntime computes them in on a CPU
    "h = Conv<pads = [1, 1, 1, 1]>(x, w)": {"float16", "float32"},
    "h = MatMul(x, m)": WITHOUT_BFLOAT16,
    "f = Flatten<axis = 3>(x) h = Gemm(f, m)": WITHOUT_BFLOAT16,
    "h = Relu(x)": WITHOUT_BFLOAT16,
    "h = Sigmoid(x)": WITHOUT_BFLOAT16,
    "h = Gelu(x)": {"float16", "float32"},
    "h = Exp(x)": WITHOUT_BFLOAT16,
    "h = Add(x, x)": WITHOUT_BFLOAT16,
    "h = Mul(x, x)": WITHOUT_BFLOAT16,
    "h = Pow(x, two)": WITHOUT_BFLOAT16,
    "h = Clip(x)": set(ELEMENTS),
    "h = Softmax(x)": WITHOUT_BFLOAT16,
    "h = LayerNormalization(x, one)": set(ELEMENTS),
    "h = BatchNormalization(x, scale, shift, shift, scale)": WITHOUT_BFLOAT16,
    "h = MaxPool<kernel_shape = [2, 2]>(x)": WITHOUT_BFLOAT16,
    "h = AveragePool<kernel_shape = [2, 2]>(x)": {"float16", "float32"},
    "h = Transpose<perm = [0, 1, 3, 2]>(x)": set(ELEMENTS),
    "h = Concat<axis = 3>(x, x)": set(ELEMENTS),
    "f = Cast<to = 1>(x) g = Mul(f, more) h = Cast<to = ELEMENT>(g)": set(ELEMENTS),
}
OPERATOR_CASES = [(text, dtype) for text, dtypes in OPERATORS.items() for dtype in ELEMENTS if dtype in dtypes]


def operator_model(text, dtype):
    """A network whose value `h` is what one operator gives in an element type, and what leaves it from there."""
    elem_type = TYPES.get(dtype, TensorProto.FLOAT)
    rng = np.random.default_rng(1)
    arrays = {
        "w": rng.normal(size=(4, 4, 3, 3)),
        "m": rng.normal(size=(60, 60)),
        "two": np.array(2.0),
        "one": np.ones(60),
        "scale": rng.uniform(0.5, 2, 4),
        "shift": rng.uniform(0.5, 2, 4),
    }
    stored = {name: array.astype(numpy_type(dtype)) for name, array in arrays.items()}
    follower = "Transpose" if dtype == "bfloat16" else "Sigmoid"
    return parsed(
        f"""
        <ir_version: 10, opset_import: ["": 21]>
        net ({ELEMENTS[dtype]}[batch, 4, 60, 60] x) => ({ELEMENTS[dtype]}[] y) {{
            {text.replace("ELEMENT", str(elem_type))}
            y = {follower}(h)
        }}""",
        more=np.float32(1.003),  # beyond the largest number of half precision, but not of single
        **stored,
    )


def numpy_type(dtype):
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(("text", "dtype"), OPERATOR_CASES)
def test_a_probe_sees_what_the_element_type_holds(text, dtype, optimize, monkeypatch):
    # onnxruntime computes float16 in float32 here and there, and a probe must not see that.
    opened = functools.partial(open_session, optimize=optimize)
    monkeypatch.setattr("onnxscope.profiling.observer.open_session", opened)
    model = operator_model(text, dtype)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    plain.graph.output.add().name = "h"
    session = Session(plain, folder=None, where="plain", optimize=optimize)
    x = np.random.default_rng(2).normal(size=(2, 4, 60, 60)).astype(numpy_type(dtype))
    loaded, plan = planned(model, ["value:h"], {"x": x})
    (tap,) = plan.taps
    assert (tap.dtype, tap.probed) == (dtype, True)
    raw = session.run({"x": x})["h"]
    assert raw.dtype == numpy_type(dtype)
    observer = Observer(loaded, plan, threads=1)
    monkeypatch.setattr(observer, "_observe_raw", None)  # the probe alone has to tell
    found, _ = observer.observe({"x": x}, 2)
    assert_observed(found["h"], raw, tap.batch_axis, tap.channel_axis)
    examined = sample_rows(
        raw[tuple(slice(None, None, step) for step in tap.steps)], tap.batch_axis, tap.channel_axis, 2
    )
    np.testing.assert_array_equal(found["h"].values, widened(examined))

    planted = x.copy()
    planted[1, 2, 3:6, 4:7] = ml_dtypes.finfo(numpy_type(dtype)).max
    raw = session.run({"x": planted})["h"]
    found, _ = Observer(loaded, plan, threads=1).observe({"x": planted}, 2)
    assert_counts_and_extremes(found["h"], raw, tap)


def assert_counts_and_extremes(found, raw, tap):
    """The sums of numbers as large as the type holds are not told by any that is as narrow."""
    rows = sample_rows(raw, tap.batch_axis, tap.channel_axis, 2).astype(np.float64)
    finite = np.isfinite(rows)
    np.testing.assert_array_equal(found.moments.count, finite.sum(axis=2))
    np.testing.assert_array_equal(found.moments.nan, np.isnan(rows).sum(axis=2))
    np.testing.assert_array_equal(found.moments.inf, np.isinf(rows).sum(axis=2))
    np.testing.assert_array_equal(found.moments.min, np.where(finite, rows, np.inf).min(axis=2))
    np.testing.assert_array_equal(found.moments.max, np.where(finite, rows, -np.inf).max(axis=2))


@pytest.mark.parametrize("offset", [0.0, 30.0, 1e4, 1e6])
def test_a_large_mean_does_not_cancel_the_spread(offset):
    model = parsed("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 4, 100, 100] x) => (float[batch, 4, 100, 100] y) { y = Identity(x) }""")
    x = (offset + RNG.normal(size=(3, 4, 100, 100))).astype(np.float32)
    loaded, plan = planned(model, ["value:y"], {"x": x})
    assert plan.taps[0].probed
    assert (plan.taps[0].shift is not None) == (offset > 10)
    found, _ = Observer(loaded, plan).observe({"x": x}, 3)
    assert_observed(found["y"], x, 0, 1)
    moved = (x + np.float32(3 * offset)).astype(np.float32)  # far from the shift: the tap itself has to tell
    found, _ = Observer(loaded, plan).observe({"x": moved}, 3)
    assert_observed(found["y"], moved, 0, 1)


def test_non_finite_values_and_constants():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 3, 90, 90] x) => (float[batch, 3, 90, 90] y) { h = Sqrt(x) y = Log(h) }""")
    x = np.abs(RNG.normal(size=(2, 3, 90, 90))).astype(np.float32)
    x[:, 1] = 0.1
    loaded, plan = planned(model, ["value:h", "value:y"], {"x": x})
    assert [tap.probed for tap in plan.taps] == [True, True]
    x[1, 0, 5, 5], x[0, 2, 0, 0] = -1, 0
    found, _ = Observer(loaded, plan).observe({"x": x}, 2)
    with np.errstate(all="ignore"):
        assert_observed(found["h"], np.sqrt(x), 0, 1)
    assert found["h"].moments.nan.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert found["y"].moments.inf.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert found["h"].moments.m2[:, 1].tolist() == [0, 0]


def test_tokens_fixed_batches_and_padding():
    model = parsed(
        """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[4, 600, 16] x) => (float[4, 600, 20] y) { a = MatMul(x, w) y = Relu(a) }""",
        w=RNG.normal(size=(16, 20)).astype(np.float32),
    )
    x = RNG.normal(size=(4, 600, 16)).astype(np.float32)
    loaded, plan = planned(model, [], {"x": x}, fixed=4)
    assert (plan.taps[0].batch_axis, plan.taps[0].channel_axis, plan.taps[0].probed) == (0, 2, True)
    found, _ = Observer(loaded, plan).observe({"x": x}, 3, padded=True)
    expected = np.maximum(x.astype(np.float64) @ numpy_helper.to_array(model.graph.initializer[0]), 0)[:3]
    observation = found[plan.taps[0].name]
    np.testing.assert_allclose(observation.moments.mean, expected.mean(axis=1), rtol=1e-5)
    assert observation.moments.count.tolist() == [[600] * 20] * 3


def test_a_value_without_a_batch_axis_counts_once_a_run():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 5] x) => (float[batch, 5] y) { s = ReduceSum<keepdims = 0>(x) y = Add(x, s) }""")
    x = np.ones((3, 5), np.float32)
    loaded, plan = planned(model, ["value:s", "value:y"], {"x": x})
    found, _ = Observer(loaded, plan).observe({"x": x}, 3)
    assert found["s"].moments.max.tolist() == [[15]]
    assert found["y"].moments.max.tolist() == [[16] * 5] * 3
    _, reasons = Observer(loaded, plan).observe({"x": x}, 2, padded=True)
    assert reasons == {"s": "it has no batch axis, and the run is filled up with copies"}


CONTROL = """
    <ir_version: 10, opset_import: ["": 21]>
    net (float[batch, 3] x, bool c) => (float[batch, 3] y) {
        y = If(c) <then_branch = t () => (float[batch, 3] u) { d = Add(x, x) u = Neg(d) },
                   else_branch = e () => (float[batch, 3] v) { s = Mul(x, x) v = Abs(s) }>
    }"""


def test_values_inside_branches_and_the_one_that_is_not_executed():
    x = np.array([[1, -3, 2]], np.float32)
    feeds = {"x": x, "c": np.array(True)}
    loaded, plan = planned(parsed(CONTROL), ["value:d", "value:s"], feeds, axes={"x": 0, "c": None}, batch=1)
    found, reasons = Observer(loaded, plan).observe(feeds, 1)
    assert found["d"].moments.max.max() == 4
    assert reasons == {"s": "the else_branch that holds it was not executed on this input"}
    found, reasons = Observer(loaded, plan).observe({"x": x, "c": np.array(False)}, 1)
    assert list(found) == ["s"]
    assert found["s"].moments.max.max() == 9


def test_a_shape_that_changes_in_a_loop_spoils_nothing_else():
    model = parsed(GROWING)
    feeds = {"x": np.ones(1, np.float32), "n": np.array(3)}
    select = ["value:next", "value:steady", "value:y"]
    loaded, plan = planned(model, select, feeds, axes={"x": None, "n": None}, batch=1)
    found, reasons = Observer(loaded, plan).observe(feeds, 1)
    assert found["steady"].moments.max.tolist() == [[2]]
    assert found["y"].moments.count.tolist() == [[8]]
    assert reasons == {"next": "its shape changes from one iteration to the next"}


def test_exact_and_a_small_memory_budget_see_the_same():
    with np.load(FIXTURES / "digits.npz") as archive:
        digits = archive["digits"][:6]
    results = []
    for options in ({}, {"exact": True}, {"exact": True, "budget": 1}, {"budget": 1}):
        loaded, plan = planned(FIXTURES / "digits.onnx", ["*"], {"digits": digits}, **options)
        observer = Observer(loaded, plan)
        found, reasons = observer.observe({"digits": digits}, 6)
        assert not reasons
        results.append(found)
        if options.get("exact") and "budget" in options:
            assert len(plan.groups(plan.taps)) == len(plan.taps)
    for found in results[1:]:
        assert found.keys() == results[0].keys()
        for name, observation in found.items():
            np.testing.assert_allclose(observation.moments.mean, results[0][name].moments.mean, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(observation.moments.max, results[0][name].moments.max, rtol=1e-4, atol=1e-6)


def test_the_limits_of_bounded_activations():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[batch, 4] x) => (float[batch, 4] f) <float low = {0.0}, float high = {6.0}> {
            a = Sigmoid(x) b = Tanh(a) c = Clip(b, low, high) d = Clip(c, low) e = Relu(d) f = Softsign(e)
        }""")
    x = np.ones((2, 4), np.float32)
    _, plan = planned(model, [f"value:{name}" for name in "abcdef"], {"x": x})
    assert [tap.limits for tap in plan.taps] == [(0, 1), (-1, 1), (0, 6), None, None, (-1, 1)]


def test_one_thread_or_two_give_the_same_bits():
    model = parsed(CONV.format(opset=18), w=RNG.normal(size=(8, 3, 3, 3)).astype(np.float32))
    x = RNG.normal(size=(4, 3, 40, 50)).astype(np.float32)
    loaded, plan = planned(model, [], {"x": x})
    one, two = (Observer(loaded, plan, threads=threads).observe({"x": x}, 4)[0]["y"] for threads in (1, 2))
    np.testing.assert_array_equal(one.values, two.values)
    for name in ("mean", "m2", "min", "max", "zeros"):
        np.testing.assert_array_equal(getattr(one.moments, name), getattr(two.moments, name))


def test_a_model_that_fails_says_so():
    model = parsed("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[n, 2] x, float[n, k] z) => (float[n, k] y) { y = Add(x, z) }""")
    with pytest.raises(RunError, match=r"^onnxruntime cannot run the model \(.*\): net$"):
        planned(model, ["value:y"], {"x": np.ones((2, 2), np.float32), "z": np.ones((2, 3), np.float32)})
