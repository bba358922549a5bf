"""diff says which model is random or carries state, and where one alone does."""

from __future__ import annotations

import numpy as np
import pytest
from compared_models import parsed
from unstable_models import X, dropping, noisy, quiet

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
