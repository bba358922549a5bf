"""What is found to be wrong, and what is still the same fault."""

from __future__ import annotations

import numpy as np
import pytest
from shrink_cases import CRASH, case_of

from onnxscope.shrinking.faults import Fault, find_fault, is_finite
from onnxscope.shrinking.trial_run import OutputState
from onnxscope.shrinking.trials import Outcome

X = np.array([1, -4, 0.5], np.float32)
IMAGE = np.ones((2, 3, 4, 4), np.float32)
WRONG = {
    "crash": (CRASH, IMAGE, "onnxruntime crashes (SIGSEGV)"),
    "nan": ("(float[N] x) => (float[N] y) { y = Log(x) }", X, "onnxruntime gives NaN, and no input holds one"),
    "infinity": (
        "(float[N] x) => (float[N] y) <float z = {0}> { y = Div(x, z) }",
        X,
        "onnxruntime gives infinite numbers, and no input holds one",
    ),
    "error": (
        "(float[N] x) => (float[M] y) <int64[1] s = {7}> { y = Reshape(x, s) }",
        X,
        "onnxruntime cannot run the model (",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_every_kind_is_found_and_said(bench, kind):
    text, x, said = WRONG[kind]
    found = find_fault(bench, case_of(text, {"x": x}))
    assert found.fault.kind == kind
    assert str(found.fault).startswith(said)
    assert "the part" not in str(found.fault)


def test_where_nothing_is_wrong_what_was_looked_for_is_said(bench):
    found = find_fault(bench, case_of("(float[N] x) => (float[N] y) { y = Tanh(x) }", {"x": X}))
    assert found.fault is None
    assert found.looked_for == (
        "onnxruntime runs it within 10 s, gives neither NaN nor infinite numbers, and gives the same without its"
        " optimizations and by onnx's ReferenceEvaluator"
    )
    fed = find_fault(
        bench, case_of("(float[N] x) => (float[N] y) { y = Tanh(x) }", {"x": np.full(3, np.nan, np.float32)})
    )
    assert fed.fault is None
    assert "was fed NaN or infinite numbers, so that its own prove nothing" in fed.looked_for


def test_what_is_random_is_held_to_nothing(bench):
    case = case_of("(float[N] x) => (float[N] y) { y = RandomNormalLike(x) }", {"x": X})
    found = find_fault(bench, case, unstable=["y"])
    assert found.fault is None
    assert found.looked_for.endswith("gives neither NaN nor infinite numbers, and never gives the same twice")
    assert find_fault(bench, case).fault is not None


def test_two_models_in_one_are_held_to_each_other(bench):
    text = "(float[N] x) => (float[N] a, float[N] b) <float k = {KK}> { a = Identity(x)  b = Mul(x, k) }"
    assert find_fault(bench, case_of(text.replace("KK", "1.1"), {"x": X}), has_two=True).fault.kind == "models"
    assert find_fault(bench, case_of(text.replace("KK", "1"), {"x": X}), has_two=True).fault is None


def test_another_failure_is_another_fault():
    def failed(reason):
        return Outcome("failed", f"onnxruntime cannot run the model ({reason}): the part")

    fault = Fault("error", "onnxruntime cannot run the model (Node 'a' of shape {2,4}: no (good) axis 3)")
    assert fault.is_in(failed("Node 'b' of shape {1}: no (good) axis 12"))
    assert not fault.is_in(failed("Node 'b' of shape {1}: no (good) kernel 12"))
    assert not fault.is_in(Outcome("crashed", "SIGSEGV"))
    assert not Fault("crash", "SIGSEGV").is_in(Outcome("crashed", "SIGABRT"))
    assert Fault("hang", "10").is_in(Outcome("late"))
    assert str(Fault("hang", "10")) == "onnxruntime does not end within 10 s"
    assert str(Fault("hang", "10", "loading the part")) == "onnxruntime does not end within 10 s, loading the part"


def test_a_quarter_of_what_it_was_off_is_still_the_fault():
    fault = Fault("reference", excess=100.0)
    answer = {"near": OutputState(False, False, 24.0), "far": OutputState(False, False, 26.0)}
    assert fault.outputs(Outcome("answered", "", answer)) == ["far"]
    assert fault.is_in(Outcome("answered", "", answer))
    assert not fault.is_in(Outcome("answered", "", {"near": answer["near"]}))


def test_what_is_finite():
    assert is_finite(np.array(["a"]))
    assert is_finite([X, X])
    assert not is_finite([X, np.array([np.nan])])
    assert not is_finite(np.array([np.inf], np.float16))
