"""Something else in place of a layer's value: what follows, against numpy and against the model itself."""

import pickle

import numpy as np
import onnx
import pytest

import onnxscope
from onnxscope.errors import InputError, SelectorError
from onnxscope.model.loading import load_model
from onnxscope.patching.patched_model import patch_model
from onnxscope.patching.runs import Run
from onnxscope.runtime.session import open_session

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PLAIN = """<ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y, float[N, 3] h) { h = Relu(x)  k = Exp(h)  y = Add(k, h) }"""
OPERATORS = {
    "several readers, and an output": (PLAIN, "h", X),
    "half precision": (
        """<ir_version: 9, opset_import: ["": 17]>
        g (float16[N, 3] x) => (float16[N, 3] y) { h = Exp(x)  y = Mul(h, h) }""",
        "h",
        X.astype(np.float16),
    ),
    "integers": (
        """<ir_version: 9, opset_import: ["": 17]>
        g (int64[N, 3] x) => (int64[N, 3] y) { h = Abs(x)  y = Mul(h, h) }""",
        "h",
        np.arange(-6, 6).reshape(4, 3),
    ),
    "codes": (
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3] x) => (float[N, 3] y) <float s = {0.02}, uint8 z = {128}>
        { h = QuantizeLinear(x, s, z)  r = DequantizeLinear(h, s, z)  y = Relu(r) }""",
        "h",
        X,
    ),
    "read inside a loop": (
        """<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3] x) => (float[N, 3] y) <int64 n = {3}, bool go = {1}> {
            h = Relu(x)
            y = Loop (n, go, x) <body = b (int64 i, bool c, float[N, 3] before)
                => (bool again, float[N, 3] after) { again = Identity(c)  after = Add(before, h) }>
        }""",
        "h",
        X,
    ),
}


def loaded(text):
    return load_model(onnx.parser.parse_model(text))


def runs_of(*arrays):
    return lambda: iter([Run({"x": array}, len(array), len(array)) for array in arrays])


def outputs(model, x=X):
    return open_session(model).run({"x": x})


@pytest.mark.parametrize("case", OPERATORS)
def test_own_values_put_back_change_no_bit(case):
    text, value, x = OPERATORS[case]
    model = loaded(text)
    patched = patch_model(model, {f"value:{value}": model}, runs_of(x))
    before, after = outputs(model, x), outputs(patched, x)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_a_recorded_array_put_back_changes_no_bit():
    model = loaded(PLAIN)
    h = np.maximum(X, 0)
    after = outputs(patch_model(model, {"value:h": h}, runs_of(X)))
    assert all(after[name].tobytes() == value.tobytes() for name, value in outputs(model).items())


def test_zero_reaches_every_reader_and_the_output():
    after = outputs(patch_model(loaded(PLAIN), {"value:h": "zero"}, runs_of(X)))
    assert not after["h"].any()
    np.testing.assert_array_equal(after["y"], np.ones_like(X))


def test_zero_of_codes_is_the_zero_point():
    text, value, x = OPERATORS["codes"]
    assert not outputs(patch_model(loaded(text), {f"value:{value}": "zero"}, runs_of(x)), x)["y"].any()


def test_zero_reaches_readers_inside_a_body():
    text, value, x = OPERATORS["read inside a loop"]
    after = outputs(patch_model(loaded(text), {f"value:{value}": "zero"}, runs_of(x)), x)
    np.testing.assert_array_equal(after["y"], x)


def test_a_value_inside_a_body_is_replaced():
    text, _, x = OPERATORS["read inside a loop"]
    patched = patch_model(loaded(text), {"value:after": np.full((4, 3), 2, np.float32)}, runs_of(x))
    np.testing.assert_array_equal(outputs(patched, x)["y"], np.full((4, 3), 2))


def test_the_mean_is_over_the_samples_of_all_runs_position_by_position():
    patched = patch_model(loaded(PLAIN), {"value:h": "mean"}, runs_of(X[:3], X[3:]))
    wanted = np.maximum(X.astype(np.float64), 0).mean(axis=0)
    np.testing.assert_allclose(outputs(patched)["h"], np.tile(wanted, (4, 1)), rtol=1e-6)


def test_another_models_value_is_computed_from_the_same_input():
    model = loaded(PLAIN)
    other = loaded(PLAIN.replace("Relu(x)", "Abs(x)"))
    after = outputs(patch_model(model, {"value:h": other}, runs_of(X)))
    np.testing.assert_array_equal(after["h"], np.abs(X))


def test_the_record_says_what_stands_where_and_travels():
    model = loaded(PLAIN)
    patched = pickle.loads(pickle.dumps(patch_model(model, {"value:h": "zero"}, runs_of(X))))
    (record,) = patched.to_dict()["replaced"]
    assert (record["value"], record["by"], record["sha256"]) == ("h", "zero", None)
    assert "replaced" not in model.to_dict()


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (
            {"value:h": np.zeros((4, 5), np.float32)},
            r"gives float32 \[4, 3\] \(N, 3\), and array holds float32 \[4, 5\]",
        ),
        ({"value:h": np.zeros((2, 4, 3), np.float32)}, r"array holds float32 \[2, 4, 3\]"),
        ({"value:h": np.zeros((4, 3), np.complex64)}, "which it cannot become"),
        ({"value:x": "zero"}, "nothing computes 'x'"),
        ({"value:h": "nil"}, "nothing to put in place of 'value:h': 'nil'"),
        ({"op:*": np.zeros(3)}, "one array in place of 3 values"),
    ],
)
def test_what_does_not_fit_is_refused(replace, message):
    with pytest.raises(InputError, match=message):
        patch_model(loaded(PLAIN), replace, runs_of(X))


def test_an_array_of_one_run_is_refused_where_there_are_more():
    with pytest.raises(InputError, match="which is one run, and there are more"):
        patch_model(loaded(PLAIN), {"value:h": X[:2]}, runs_of(X[:2], X[2:]))


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(SelectorError, match="conv9"):
        patch_model(loaded(PLAIN), {"conv9": "zero"}, runs_of(X))


def test_old_operator_sets_are_refused():
    with pytest.raises(InputError, match="no value can be replaced in operator set 7"):
        patch_model(loaded(PLAIN.replace('"": 17', '"": 7')), {"value:h": "zero"}, runs_of(X))


def test_features_stats_and_diff_say_how_far_the_outputs_move(tmp_path):
    proto = onnx.parser.parse_model(PLAIN)
    for result in (
        onnxscope.features(proto, X, select="value:h", replace={"value:h": "zero"}),
        onnxscope.stats(proto, X, select="value:h", replace={"value:h": "zero"}),
        onnxscope.diff(proto, proto, X, replace={"value:h": "zero"}),
    ):
        moved = {row["name"]: row for row in result.to_dict()["replaced"]["outputs"]}
        h = np.maximum(X.astype(np.float64), 0)
        y = np.exp(h) + h
        assert moved["h"]["relative_l2"] == pytest.approx(1)
        assert moved["y"]["sqnr_db"] == pytest.approx(10 * np.log10(np.sum(y**2) / np.sum((y - 1) ** 2)), rel=1e-4)
        assert any("zero in place of" in note for note in result.notes)


def test_features_show_what_stands_in_place():
    maps = onnxscope.features(onnx.parser.parse_model(PLAIN), X, select="value:h", replace={"value:h": "zero"})
    assert not maps[0].data.any()
