"""How far outputs move: against numpy in float64, added up over runs, in words and as a record."""

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxscope.base.run_options import RunOptions
from onnxscope.model.loading import load_model
from onnxscope.patching.effects import measure_effect, with_replacements
from onnxscope.patching.patched_model import patched_pair
from onnxscope.patching.runs import Run

X = np.random.default_rng(6).standard_normal((6, 4)).astype(np.float32)


def loaded(body, outputs="float[N, 4] y"):
    return load_model(
        onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["": 17]> g (float[N, 4] x) => ({outputs}) {{ {body} }}'
        )
    )


def runs_of(*arrays, real=None):
    return lambda: iter([Run({"x": array}, len(array), real or len(array)) for array in arrays])


def effect(model, replace, runs):
    return measure_effect(*patched_pair(model, replace, runs), runs)


def test_numbers_are_those_of_numpy_however_the_samples_are_cut():
    model = loaded("h = Relu(x) y = Exp(h)")
    y = np.exp(np.maximum(X.astype(np.float64), 0))
    for runs in (runs_of(X), runs_of(X[:1], X[1:4], X[4:])):
        (moved,) = effect(model, {"value:h": "zero"}, runs).outputs
        apart = moved.discrepancy
        assert apart.relative_l2 == pytest.approx(np.linalg.norm(1 - y) / np.linalg.norm(y), rel=1e-5)
        assert apart.max_abs == pytest.approx(np.abs(1 - y).max(), rel=1e-5)
        assert apart.cosine == pytest.approx(y.sum() / np.linalg.norm(y) / np.sqrt(y.size), rel=1e-5)
        assert moved.scores.count == 6
        assert not moved.identical


def test_samples_that_only_fill_a_run_up_do_not_count():
    model = loaded("h = Relu(x) y = Exp(h)")
    y = np.exp(np.maximum(X[:2].astype(np.float64), 0))
    (moved,) = effect(model, {"value:h": "zero"}, runs_of(X, real=2)).outputs
    assert moved.discrepancy.relative_l2 == pytest.approx(np.linalg.norm(1 - y) / np.linalg.norm(y), rel=1e-5)


def test_an_output_that_nothing_reaches_does_not_move():
    model = loaded("h = Relu(x) y = Exp(h) z = Neg(x)", "float[N, 4] y, float[N, 4] z")
    first, second = effect(model, {"value:h": "zero"}, runs_of(X)).outputs
    assert (first.identical, second.identical) == (False, True)
    assert second.text == "output z does not move, bit for bit"
    assert second.to_dict()["max_abs"] == 0


def test_numbers_that_become_infinite_are_said():
    model = loaded("h = Exp(x) y = Log(h)")
    (moved,) = effect(model, {"value:h": "zero"}, runs_of(X)).outputs
    assert "in one of them numbers are not finite" in moved.text
    assert moved.to_dict()["relative_l2"] is None


def test_another_shape_and_texts_are_no_numbers():
    model = loaded("h = Relu(x) y = NonZero(h) t = Cast <to = 8> (h)", "int64[A, B] y, string[N, 4] t")
    first, second = effect(model, {"value:h": "zero"}, runs_of(X)).outputs
    assert first.text.startswith("output y moves: shape [2, ")
    assert first.text.endswith(" becomes [2, 0]")
    assert second.text == "output t moves: texts"
    assert second.to_dict()["sqnr_db"] is None


def test_a_sequence_is_compared_as_one():
    model = loaded("h = Relu(x) y = SequenceConstruct(h, x)", "seq(float[N, 4]) y")
    (moved,) = effect(model, {"value:h": "zero"}, runs_of(X)).outputs
    assert moved.text == "output y moves: its numbers differ"
    (still,) = effect(model, {"value:h": np.maximum(X, 0)}, runs_of(X)).outputs
    assert still.identical


def test_the_record_the_notes_and_the_table_say_the_same():
    model = loaded("h = Relu(x) y = Exp(h)")
    made = effect(model, {"value:h": "zero"}, runs_of(X))
    record = made.to_dict()
    assert record["values"][0]["value"] == "h"
    assert record["outputs"][0]["name"] == "y"
    assert made.notes[0] == "replaced: zero in place of Relu_0"
    assert made.notes[1].startswith(f"output y moves: {record['outputs'][0]['sqnr_db']:.1f} dB, cosine ")
    assert made.table().rows[0][:2] == ("y", record["outputs"][0]["sqnr_db"])


def test_all_is_taken_away_at_no_decibels():
    (moved,) = effect(loaded("h = Relu(x) y = Neg(h)"), {"value:h": "zero"}, runs_of(X)).outputs
    assert moved.text.startswith("output y moves: 0.0 dB")


def test_without_replacements_nothing_is_done():
    model = loaded("y = Relu(x)")
    assert with_replacements(model, RunOptions(), runs_of(X)) == (model, None)
