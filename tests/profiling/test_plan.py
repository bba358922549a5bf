"""Plans and observers: what probes tell, against float64 numpy on the taps themselves."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx.parser
import pytest
from nested_models import GROWING
from observing import assert_observed, planned
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxscope.errors import RunError
from onnxscope.profiling.dataset_run import stats
from onnxscope.profiling.observer import Observer

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
RNG = np.random.default_rng(4)


def parsed(text, **initializers):
    model = onnx.parser.parse_model(text)
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


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


def test_samples_along_another_axis_of_a_fixed_batch_leave_out_what_fills_it_up():
    model = parsed(
        """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[7, 2, 5] x) => (float[7, 2, 3] y) { y = MatMul(x, w) t = Transpose<perm = [1, 0, 2]>(y) }""",
        w=RNG.normal(size=(5, 3)).astype(np.float32),
    )
    x = RNG.normal(size=(7, 3, 5)).astype(np.float32)
    found = stats(model, x, select=["value:y", "value:t"], batch_axis=1)
    expected = x.astype(np.float64) @ numpy_helper.to_array(model.graph.initializer[0])
    for tap in found.to_dict()["taps"]:
        assert (tap["count"], found.to_dict()["samples"]) == (expected.size, 3)
        assert tap["mean"] == pytest.approx(expected.mean(), rel=1e-5)
        np.testing.assert_allclose(tap["channels"]["max"], expected.max((0, 1)), rtol=1e-5)
