"""What is taken out of a known sequence or optional is what was put in, for diff and check, with data and without."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime
import pytest

from onnxscope import check, diff, snapshot

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
HEAD = '<ir_version: 9, opset_import: ["": 18]> g (float[3, 4] x) => (float[P, Q] y) '
AB = "a = Relu(x) b = Neg(x) "
PLACE = "k = Constant<value_int = PLACE>() "
TAKEN = "y = SequenceAt(s, k)"
BUILT = AB + "s = SequenceConstruct(a, b) "
INSERTED = AB + "t = SequenceConstruct(a) s = SequenceInsert(t, b) "
FROM_NOTHING = AB + "n = SequenceEmpty() t = SequenceInsert(n, b) z = Constant<value_int = -1>() "
FROM_NOTHING += "s = SequenceInsert(t, a, z) "
ERASED = AB + "c = Abs(x) t = SequenceConstruct(c, a, b) z = Constant<value_int = 0>() s = SequenceErase(t, z) "
CUT = "h = Constant<value_ints = [1, 3]>() s = SplitToSequence<axis = 1>(x, h) "
FED_OPTIONAL = "o = Optional(x) "

SAME = {  # two spellings of one model
    "a place from the end": (BUILT + PLACE.replace("PLACE", "-1") + TAKEN, BUILT + PLACE.replace("PLACE", "1") + TAKEN),
    "the element itself": (BUILT + PLACE.replace("PLACE", "0") + TAKEN, "y = Relu(x)"),
    "a place of parts": (CUT + PLACE.replace("PLACE", "-2") + TAKEN, CUT + PLACE.replace("PLACE", "0") + TAKEN),
    "one after the other": (INSERTED + PLACE.replace("PLACE", "1") + TAKEN, "y = Neg(x)"),
    "before the last one": (FROM_NOTHING + PLACE.replace("PLACE", "0") + TAKEN, "y = Relu(x)"),
    "what is left": (ERASED + PLACE.replace("PLACE", "-1") + TAKEN, "y = Neg(x)"),
    "joined": (BUILT + "y = ConcatFromSequence<axis = 1>(s)", AB + "y = Concat<axis = 1>(a, b)"),
    "a length": (
        BUILT + "l = SequenceLength(s) f = Cast<to = 1>(l) y = Mul(x, f)",
        "f = Constant<value_float = 2.0>() y = Mul(x, f)",
    ),
    "an optional": (FED_OPTIONAL + "e = OptionalGetElement(o) y = Relu(e)", "y = Relu(x)"),
    "an optional of a sequence": (
        BUILT + "o = Optional(s) e = OptionalGetElement(o) " + PLACE.replace("PLACE", "0") + "y = SequenceAt(e, k)",
        "y = Relu(x)",
    ),
    "that there is something": (
        FED_OPTIONAL + "h = OptionalHasElement(o) f = Cast<to = 1>(h) y = Mul(x, f)",
        "h = Constant<value: tensor = bool {1}>() f = Cast<to = 1>(h) y = Mul(x, f)",
    ),
}
OTHER = {  # two models
    "another place": (BUILT + PLACE.replace("PLACE", "-1") + TAKEN, BUILT + PLACE.replace("PLACE", "0") + TAKEN),
    "another element": (BUILT + PLACE.replace("PLACE", "0") + TAKEN, "y = Neg(x)"),
    "other parts": (
        CUT.replace("1, 3", "3, 1") + PLACE.replace("PLACE", "0") + TAKEN,
        CUT + PLACE.replace("PLACE", "1") + TAKEN,
    ),
    "erased elsewhere": (
        ERASED + PLACE.replace("PLACE", "0") + TAKEN,
        ERASED.replace("value_int = 0", "value_int = 1") + PLACE.replace("PLACE", "0") + TAKEN,
    ),
    "another order": (BUILT + "y = ConcatFromSequence<axis = 1>(s)", AB + "y = Concat<axis = 1>(b, a)"),
    "another length": (
        BUILT + "l = SequenceLength(s) f = Cast<to = 1>(l) y = Mul(x, f)",
        "f = Constant<value_float = 3.0>() y = Mul(x, f)",
    ),
    "something else in an optional": (FED_OPTIONAL + "e = OptionalGetElement(o) y = Relu(e)", "y = Abs(x)"),
}


def models(bodies):
    return [onnx.parser.parse_model(f"{HEAD} {{ {body} }}") for body in bodies]


def run(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"x": X})[0]


@pytest.mark.parametrize("name", SAME)
def test_two_spellings_are_one_model(name):
    a, b = models(SAME[name])
    np.testing.assert_array_equal(run(a), run(b))
    for first, second in ((a, b), (b, a)):
        for inputs in (None, X):
            result = diff(first, second, inputs)
            assert result.equal, repr(result)
            assert check(second, snapshot(first, inputs), inputs).ok


@pytest.mark.parametrize("name", OTHER)
def test_what_is_taken_from_elsewhere_is_found(name):
    a, b = models(OTHER[name])
    assert run(a).shape != run(b).shape or not np.array_equal(run(a), run(b))
    for inputs in (None, X):
        assert diff(a, b, inputs).verdict == "differs"
        assert not check(b, snapshot(a, inputs), inputs).ok


def test_what_is_not_known_stays_as_it_is():
    """A place that is computed, a sequence that is fed, parts whose number nobody knows: the operators themselves."""
    head = '<ir_version: 9, opset_import: ["": 18]> g (float[M, 4] x, int64 k) => (float[P, Q] y) '
    bodies = (BUILT + TAKEN, "s = SplitToSequence<axis = 0>(x) z = Constant<value_int = -1>() y = SequenceAt(s, z)")
    for body in bodies:
        model = onnx.parser.parse_model(f"{head} {{ {body} }}")
        assert diff(model, model).equal
    fed = '<ir_version: 9, opset_import: ["": 18]> g (seq(float[3, 4]) s) => (float[3, 4] y) '
    a, b = (
        onnx.parser.parse_model(f"{fed} {{ k = Constant<value_int = {place}>() y = SequenceAt(s, k) }}")
        for place in (-1, 1)
    )
    assert not diff(a, b).equal


def test_a_place_outside_is_left_to_onnxruntime():
    a, b = models((BUILT + PLACE.replace("PLACE", "2") + TAKEN, BUILT + PLACE.replace("PLACE", "1") + TAKEN))
    assert not diff(a, b).equal
    assert diff(a, a).equal
