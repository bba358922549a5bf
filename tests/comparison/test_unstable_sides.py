"""diff says which model is random or carries state, and where one alone does."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed
from unstable_models import X, dropping, noisy, quiet, written

import onnxscope
from onnxscope.comparison.unstable_sides import mode_changes, notes_on_unstable
from onnxscope.model.loading import load_model

REASON = "Dropout drop1 is in training mode: random"
REACH = "it reaches 2 of 3 layers and the output y; onnxruntime's optimizer drops it unless it is observed"


@pytest.mark.parametrize("inputs", [None, X])
def test_both_models_are_named_once(inputs):
    result = onnxscope.diff(dropping(), dropping(), inputs)
    assert result.notes[0] == f"both models: {REASON}; {REACH}"
    assert result.structure == ()


@pytest.mark.parametrize("inputs", [None, X])
def test_a_mode_of_one_model_alone_is_a_change_of_structure(inputs):
    for sides, word in (((dropping(), quiet()), "first"), ((quiet(), dropping()), "second")):
        result = onnxscope.diff(*sides, inputs)
        assert result.notes[0] == f"the {word} model: {REASON}; {REACH}"
        assert ("drop1", f"{REASON}; in the {word} model alone") in [
            (change.layer, change.message) for change in result.structure
        ]
        assert [change.layer for change in result.structure].count("drop1") == 1
        assert not any("Dropout" in change.message and "only in" in change.message for change in result.structure)
        assert inputs is not None or not result.equal


def test_a_batchnorm_in_training_mode_is_told_once():
    text = """
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) {
            c = Conv(x, w)
            [norm] y, m1, v1 = BatchNormalization<training_mode = 1>(c, s, b, m, v)
        }"""
    ones = np.ones(2, np.float32)
    stored = {"w": np.ones((2, 2, 1, 1), np.float32), "s": ones, "b": 0 * ones, "m": 0 * ones, "v": ones}
    trained = parsed(text, **stored)
    plain = parsed(text.replace("<training_mode = 1>", "").replace("y, m1, v1 =", "y ="), **stored)
    for sides, word in (((trained, plain), "first"), ((plain, trained), "second")):
        (change,) = onnxscope.diff(*sides).structure
        assert change.message.startswith("BatchNormalization norm is in training mode")
        assert change.message.endswith(f"in the {word} model alone")


def test_models_without_any_say_nothing():
    result = onnxscope.diff(quiet(), quiet(), X)
    assert not any("random" in note for note in result.notes)
    assert result.structure == ()
    assert result.equal


def test_renamed_nodes_are_each_others():
    renamed = noisy()
    for node in renamed.graph.node:
        node.name = f"other_{node.name}"
    first, second = load_model(noisy()), load_model(renamed)
    assert mode_changes(first, second) == ()
    assert len(notes_on_unstable(first, second)) == 6
    ((change, _),) = mode_changes(load_model(dropping()), load_model(quiet()))
    assert change.layer == "drop1"
    changes = mode_changes(first, load_model(quiet()))
    assert [change.layer for change, _ in changes] == ["norm", "noise", "RandomUniformLike_0"]


DRAWN = "a = Dropout(x, q, t)"
STORED = "<float q = {0.5}, bool t = {1}>"
COMPOSITES = {  # what is declared, what makes it of `a`, and the same with another number, kind, length or key
    "a sequence": (
        "seq(float[6, 4]) y",
        "b = Relu(a) y = SequenceConstruct(a, b)",
        ["b = Relu(a) n = Neg(b) y = SequenceConstruct(a, n)", "y = SequenceConstruct(a)"],
    ),
    "an optional": ("optional(float[6, 4]) y", "b = Relu(a) y = Optional(b)", ["b = Softmax(a) y = Optional(b)"]),
    "maps": (
        "seq(map(int64, float)) y",
        "b = Softmax(a) y = ai.onnx.ml.ZipMap<classlabels_int64s = [1, 2, 3, 4]>(b)",
        [
            "n = Neg(a) b = Softmax(n) y = ai.onnx.ml.ZipMap<classlabels_int64s = [1, 2, 3, 4]>(b)",
            "b = Softmax(a) y = ai.onnx.ml.ZipMap<classlabels_int64s = [1, 2, 3, 5]>(b)",
        ],
    ),
    "strings": ("string[6, 4] y", "b = Relu(a) y = Cast<to = 8>(b)", ["b = Abs(a) n = Neg(b) y = Cast<to = 8>(n)"]),
}


@pytest.mark.parametrize("kind", COMPOSITES)
def test_an_output_of_any_kind_behind_something_random_is_judged_by_its_own_error(kind):
    declared, text, others = COMPOSITES[kind]

    def network(body):
        return written(f"{DRAWN} {body}", stored=STORED, outputs=declared, domains=', "ai.onnx.ml": 3')

    same = onnxscope.diff(network(text), network(text), X)
    assert same.verdict == "undecided"
    assert same.outputs[0].own is not None
    assert "Dropout" in same.undecided[0].reason
    for body in others:
        result = onnxscope.diff(network(text), network(body), X)
        assert result.verdict == "differs"
        assert [row.a.layer for row in result.guilty] == ["y"]
