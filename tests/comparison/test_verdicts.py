"""Three answers: equal, differs, undecided; what is random, carries state or holds no numbers decides which."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from compared_models import DIGITS, INPUT, TWO, WEIGHTS, X, parsed
from onnx import numpy_helper

from onnxscope import check, diff, snapshot
from onnxscope.comparison.floors import floor_of
from onnxscope.numerics.distances import measure

RNG = np.random.default_rng(3)
W = RNG.normal(size=(16, 16)).astype(np.float32)
DATA = RNG.normal(size=(8, 16)).astype(np.float32)
UNSTABLE = {
    "RandomNormal": "r = RandomNormalLike(h) d = Add(h, r)",
    "RandomUniform": "r = RandomUniformLike(h) d = Add(h, r)",
    "Bernoulli": "p = Sigmoid(h) r = Bernoulli(p) d = Mul(h, r)",
    "Dropout": "d, mask = Dropout(h, ratio, train)",
    "in a branch": """
        d = If(train) <then_branch = yes () => (float[N, 16] u) { a, mask = Dropout(h, ratio, train) u = Abs(a) },
                       else_branch = no () => (float[N, 16] v) { v = Abs(h) }>""",
}
STATE = """
    <ir_version: 8, opset_import: ["": 15]>
    net (float[N, 4, 6, 6] x) => (float[N, 4, H, W] y) {
        c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, k)
        NORM
        y = Relu(n)
    }"""
TRAINING = "n, mean2, var2 = BatchNormalization<training_mode = 1>(c, scale, shift, mean, var)"
EVALUATION = "n = BatchNormalization(c, scale, shift, mean, var)"


def unstable(kind, end="Identity"):
    return parsed(
        f"""
        <ir_version: 8, opset_import: ["": 15]>
        net (float[N, 16] x) => (float[N, 16] y) <float ratio = {{0.5}}, bool train = {{1}}> {{
            h = MatMul(x, w)
            {UNSTABLE[kind]}
            g = MatMul(d, w)
            y = {end}(g)
        }}""",
        w=W,
    )


def normalized(norm, end="y = Relu(n)"):
    rng = np.random.default_rng(1)
    return parsed(
        STATE.replace("NORM", norm).replace("y = Relu(n)", end),
        k=rng.normal(size=(4, 4, 3, 3)).astype(np.float32),
        scale=rng.uniform(0.5, 1.5, 4).astype(np.float32),
        shift=rng.normal(size=4).astype(np.float32),
        mean=rng.normal(size=4).astype(np.float32),
        var=rng.uniform(0.5, 2, 4).astype(np.float32),
    )


@pytest.mark.parametrize("kind", UNSTABLE)
def test_noise_is_no_licence(kind):
    result = diff(unstable(kind), unstable(kind), DATA)
    assert result.verdict == "undecided"
    assert not result.equal
    assert result[0].verdict == "equal"  # what no random node reaches is still compared
    assert [found.name for found in result.undecided][-1] == "y"
    for found in result.undecided:
        assert found.reason.startswith("does not reproduce: relative ")
    record = result.to_dict()
    assert (record["equal"], record["verdict"]) == (False, "undecided")
    assert record["undecided"] == [found.to_dict() for found in result.undecided]
    assert result.summary().startswith("undecided: ")
    assert "undecided" in result.table().text()


@pytest.mark.parametrize("kind", UNSTABLE)
def test_noise_hides_no_change_behind_it(kind):
    for models in ((unstable(kind), unstable(kind, "Neg")), (unstable(kind, "Neg"), unstable(kind))):
        result = diff(*models, DATA)
        assert result.verdict == "differs"
        (output,) = result.outputs
        assert (output.differs, output.is_guilty, output.undecided) == (True, True, None)
        assert output.own.relative_l2 == pytest.approx(2)  # y against -y, of the same draw
        assert result.first_divergence is output
        assert [found.name for found in result.undecided] == ["g"]
        row = result.to_dict()["outputs"][0]
        assert row["verdict"] == "differs"
        assert row["reason"].startswith("does not reproduce: relative ")
        if kind != "in a branch":
            assert "; it depends on " in row["reason"]
            assert row["reason"].endswith(": random")


def behind(text, **stored):
    return parsed(
        f"""
        <ir_version: 8, opset_import: ["": 15]>
        net (float[N, 16] x) => (float[N, 16] y) <float ratio = {{0.5}}, bool train = {{1}}> {{ {text} }}""",
        w=W,
        **stored,
    )


@pytest.mark.parametrize(
    ("draws", "before", "after"),
    [
        ("d = Dropout(h, ratio, train)", "n = Identity(d)", "n = Neg(d)"),
        ("d = Dropout(h, ratio, train)", "n = Softmax(d)", "n = Softmax<axis = 0>(d)"),
        ("r = RandomNormalLike(h)", "n = Add(h, r)", "n = Mul(h, r)"),
        ("r = RandomUniformLike<seed = 3.0>(h)", "n = Add(h, r)", "n = Sub(h, r)"),
        ("p = Sigmoid(h) r = Bernoulli(p)", "n = Add(h, r)", "n = Sub(h, r)"),
        ("r = RandomNormal<shape = [1, 16]>()", "n = Add(h, r)", "n = Sub(h, r)"),
        ("s = Softmax(h) m = Multinomial(s) r = Cast<to = 1>(m)", "n = Add(h, r)", "n = Sub(h, r)"),
    ],
)
@pytest.mark.parametrize("end", ["y = MatMul(n, w)", "y = Tanh(n)"])
def test_what_stands_right_behind_a_random_node_is_compared_on_the_same_draw(draws, before, after, end):
    first, second = (behind(f"h = MatMul(x, w) {draws} {step} {end}") for step in (before, after))
    assert diff(first, first, DATA).verdict == "undecided"
    result = diff(first, second, DATA)
    assert result.verdict == "differs"
    assert result.first_divergence.a.name == "y"
    baseline = snapshot(first, DATA)
    assert check(first, baseline, DATA).verdict == "undecided"
    assert check(second, baseline, DATA).verdict == "differs"


def test_a_random_node_that_differs_itself_stays_undecided():
    text = "h = MatMul(x, w) d = Dropout(h, RATIO, train) y = MatMul(d, w)"
    stored = {"low": np.array(0.3, np.float32)}
    sides = [behind(text.replace("RATIO", name), **stored) for name in ("ratio", "low")]
    result = diff(*sides, DATA)
    assert result.verdict == "undecided"  # nobody can say how far a share of 0.3 is from one of 0.5
    assert "ratio" in " ".join(change.message for change in result.structure)


def test_behind_a_normalization_in_training_mode_a_change_is_found():
    sides = [
        normalized(TRAINING, f"r = Relu(n) y = {pool}<kernel_shape = [2, 2], strides = [2, 2]>(r)")
        for pool in ("MaxPool", "AveragePool")
    ]
    x = np.random.default_rng(5).normal(size=(8, 4, 6, 6)).astype(np.float32)
    result = diff(*sides, x)
    assert result.verdict == "differs"
    assert [row.a.name for row in result.outputs if row.is_guilty] == ["y"]
    baseline = snapshot(sides[0], x)
    assert check(sides[0], baseline, x).verdict in ("equal", "undecided")
    assert check(sides[1], baseline, x).verdict == "differs"


@pytest.mark.parametrize("kind", UNSTABLE)
def test_a_change_before_what_is_random_is_found(kind):
    changed = unstable(kind)
    weight = numpy_helper.to_array(changed.graph.initializer[-1]).copy()
    weight[3, 4] += 0.5
    changed.graph.initializer[-1].CopyFrom(numpy_helper.from_array(weight, "w"))
    result = diff(unstable(kind), changed, DATA)
    assert result.verdict == "differs"
    assert result.first_divergence.a.name == "h"


@pytest.mark.parametrize("kind", UNSTABLE)
def test_a_change_behind_what_is_random_fails_a_check(kind):
    result = check(unstable(kind, "Neg"), snapshot(unstable(kind), DATA), DATA)
    assert (result.ok, result.verdict) == (False, "differs")
    (finding,) = [finding for finding in result.findings if finding.statistic != "undecided"]
    assert (finding.statistic, finding.expected, finding.found) == ("node", None, "Neg")


@pytest.mark.parametrize("kind", UNSTABLE)
def test_a_baseline_of_what_is_random_is_no_licence(kind):
    baseline = snapshot(unstable(kind), DATA)
    assert {row["layer"]: row["reproduces"] for row in baseline.layers}["y"] is False
    result = check(unstable(kind), baseline, DATA)
    assert (result.ok, result.verdict) == (False, "undecided")
    assert {finding.statistic for finding in result.findings} == {"undecided"}
    assert "does not reproduce from run to run in the baseline" in result.findings[-1].message
    assert result.summary().startswith("undecided: ")


def test_batch_normalization_in_training_mode_is_not_the_one_in_evaluation_mode():
    training, evaluation = normalized(TRAINING), normalized(EVALUATION)
    x = np.random.default_rng(5).normal(size=(8, 4, 6, 6)).astype(np.float32)
    values = [
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        for model in (training, evaluation)
    ]
    assert np.linalg.norm(values[0] - values[1]) > 0.1 * np.linalg.norm(values[1])
    assert diff(evaluation, evaluation, x).verdict == "equal"
    assert diff(evaluation, training, x).verdict == "differs"
    assert diff(training, evaluation, x).verdict in ("differs", "undecided")


@pytest.mark.parametrize(("dtype", "fine", "beyond"), [("float32", 5e-4, 2e-3), ("float16", 2e-2, 0.1)])
def test_rounding_explains_only_so_much(dtype, fine, beyond):
    x = RNG.normal(size=1000)

    def noise(size):
        return measure(x, x * (1 + size), None, None)

    assert floor_of(noise(fine), [dtype]).unstable is None
    assert floor_of(noise(fine), [dtype]).relative == pytest.approx(fine)
    assert floor_of(noise(beyond), [dtype]).unstable.startswith("does not reproduce: relative ")
    assert floor_of(noise(beyond), [dtype]).relative < fine
    assert floor_of(noise(0.02), ["float32"], in_codes=True).unstable is None
    assert "finite in one run only" in floor_of(measure(x, np.where(x > 2, np.nan, x), None, None), [dtype]).unstable


CLASSIFIER = """
    <ir_version: 8, opset_import: ["": 15, "ai.onnx.ml": 3]>
    net (float[N, 16] x) => (string[N] label, seq(map(string, float)) probabilities) {
        label, scores = ai.onnx.ml.LinearClassifier<
            classlabels_strings = ["cat", "dog", "owl"], post_transform = "SOFTMAX", multi_class = 1,
            coefficients = [COEFFICIENTS], intercepts = [0.0, 0.0, 0.0]>(x)
        probabilities = ai.onnx.ml.ZipMap<classlabels_strings = ["cat", "dog", "owl"]>(scores)
    }"""


def classifier(scale=1.0):
    numbers = np.random.default_rng(4).normal(size=48) * 0.2
    numbers[:16] *= scale
    return onnx.parser.parse_model(CLASSIFIER.replace("COEFFICIENTS", ", ".join(f"{number:.6f}" for number in numbers)))


def test_classifiers_whose_probabilities_leave_through_maps_are_compared():
    sessions = [onnxruntime.InferenceSession(classifier(scale).SerializeToString()) for scale in (1.0, 4.0)]
    (_, left), (_, right) = (session.run(None, {"x": DATA}) for session in sessions)
    expected = max(abs(a[key] - b[key]) for a, b in zip(left, right, strict=True) for key in a)
    assert diff(classifier(), classifier(), DATA, batch_size=3).verdict == "equal"
    result = diff(classifier(), classifier(4.0), DATA, batch_size=3)
    assert result.verdict == "differs"
    row = result.outputs[1]
    assert row.entire.max_abs == pytest.approx(expected, rel=1e-5)
    baseline = snapshot(classifier(), DATA)
    assert check(classifier(), baseline, DATA).verdict == "equal"
    assert check(classifier(4.0), baseline, DATA).verdict == "differs"


def test_strings_are_compared_one_by_one():
    text = """
        <ir_version: 8, opset_import: ["": 15, "ai.onnx.ml": 3]>
        net (int64[N] x) => (string[N] y) {
            y = ai.onnx.ml.LabelEncoder<keys_int64s = [0, 1, 2], values_strings = ["cat", "dog", "OTHER"]>(x)
        }"""
    a, b = (onnx.parser.parse_model(text.replace("OTHER", word)) for word in ("owl", "fox"))
    x = np.array([0, 1, 0, 2, 1, 2])
    assert diff(a, a, x).verdict == "equal"
    result = diff(a, b, x)
    assert result.verdict == "differs"
    assert result.outputs[0].reason == "2 of 6 strings differ, the first: 'owl' became 'fox'"
    assert check(b, snapshot(a, x), x).findings[0].statistic == "content"
    assert diff(a, b, x[[0, 1, 0]]).verdict == "equal"


def test_an_output_that_one_model_alone_has_differs():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(TWO, **WEIGHTS)
    b.graph.output.add().name = "r"
    for pair in ((a, b), (b, a)):
        result = diff(*pair, X)
        assert result.verdict == "differs"
        assert [row.reason for row in result.outputs if row.differs] == ["only one of the models has this output"]


def test_a_branch_that_is_not_taken_is_decided_by_its_weights():
    text = """
        <ir_version: 8, opset_import: ["": 15]>
        net (float[N, 16] x, bool c) => (float[N, 16] y) {
            y = If(c) <then_branch = a () => (float[N, 16] u) { u = MatMul(x, w) },
                       else_branch = e () => (float[N, 16] v) { v = MatMul(x, z) }>
        }"""
    arrays = {"x": DATA, "c": np.array(True)}
    a, b = parsed(text, w=W, z=W.T.copy()), parsed(text, w=W, z=2 * W.T)
    assert diff(a, a, arrays).verdict == "equal"
    assert diff(a, b, arrays).verdict == "differs"


def test_real_models_are_equal_to_themselves():
    result = diff(DIGITS, DIGITS, INPUT)
    assert (result.verdict, result.undecided) == ("equal", ())
    assert {row.verdict for row in (*result.layers, *result.outputs)} == {"equal"}


def long_integers(dtype, base, opset=17, sequence=False):
    end = "s = SequenceConstruct(i) y = SequenceInsert(s, i)" if sequence else "y = Identity(i)"
    kind = f"seq({dtype}[N, 2])" if sequence else f"{dtype}[N, 2]"
    return parsed(
        f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        net (float[N, 2] x) => ({kind} y) {{ w = Cast<to = {13 - 6 * (dtype == "int64")}>(x) i = Add(w, c) {end} }}""",
        c=np.array([base, base], dtype),
    )


@pytest.mark.parametrize("opset", [17, 8])
@pytest.mark.parametrize("base", [7, 2**53, 2**62, 2**63 - 9])
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_long_integers_are_compared_exactly(dtype, base, opset):
    x = np.array([[1, 2], [3, 4]], np.float32)
    first, second = long_integers(dtype, base, opset), long_integers(dtype, base, opset)
    second.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array([base, base + 1], dtype), "c"))
    values = [
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0] for model in (first, second)
    ]
    assert np.abs((values[1] - values[0]).astype(np.int64)).max() == 1
    result = diff(first, second, x)
    assert result.verdict == "differs"
    assert result.outputs[0].entire.max_abs == 1
    assert diff(first, first, x).verdict == "equal"
    baseline = snapshot(first, x)
    assert check(first, baseline, x).ok
    assert check(second, baseline, x).verdict == "differs"


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_long_integers_in_a_sequence_are_compared_exactly(dtype):
    x = np.array([[1, 2]], np.float32)
    first, second = long_integers(dtype, 2**60, sequence=True), long_integers(dtype, 2**60 + 1, sequence=True)
    assert diff(first, second, x).verdict == "differs"
    assert diff(first, first, x).verdict == "equal"
    assert check(second, snapshot(first, x), x).verdict == "differs"


@pytest.mark.parametrize(("shape", "equal"), [([2, 3, 2], False), ([12], False), ([6, 2, 1], True)])
def test_an_output_with_other_axes_differs_though_its_numbers_are_the_same(shape, equal):
    def reshaped(sides):
        text = f"""
            <ir_version: 9, opset_import: ["": 18]>
            net (float[3, 4] x) => (float[{", ".join(map(str, sides))}] y) {{ a = Neg(x) y = Reshape(a, sides) }}"""
        return parsed(text, sides=np.array(sides))

    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    pair = reshaped([6, 2]), reshaped(shape)
    (row,) = diff(*pair, x).outputs
    assert row.entire.max_abs == 0
    assert diff(*pair, x).equal == equal
    assert row.reason == (None if equal else f"shape [6, 2] against {shape}")
