"""Which layers carry the difference of the outputs: planted faults, and what they carry by running the others alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from planted_layers import NETWORKS, carried, with_fault

import onnxscope
from onnxscope.cli.main import run

ENOUGH = 0.95
SMALLEST = {"conv": 8, "res": 9, "dense": 12, "lstm": 8}
PLANTS = [(kind, depth, seed, 2 if kind == "lstm" else 1) for seed, (kind, depth) in enumerate(SMALLEST.items())]


def smallest(known):
    """The smallest of some sets that carries enough."""
    return min((chosen for chosen in known if known[chosen] >= ENOUGH), key=len)


def drawn(seed):
    """A network of 8 to 30 layers, and in how many of them there are faults."""
    rng = np.random.default_rng(seed)
    kind = list(NETWORKS)[seed % len(NETWORKS)]
    depths = {"conv": rng.integers(8, 31), "res": 2 * rng.integers(4, 15) + 1, "dense": 6 * rng.integers(2, 6)}
    return kind, int(depths.get(kind, rng.integers(8, 13))), seed, 1 + seed % 3


@pytest.mark.parametrize(
    ("kind", "depth", "seed", "count"),
    [*PLANTS, *(pytest.param(*drawn(seed), marks=pytest.mark.acceptance) for seed in range(30))],
)
def test_the_smallest_set_is_the_planted_one(kind, depth, seed, count):
    model, feeds = NETWORKS[kind](depth, seed)
    rng = np.random.default_rng(seed + 100)
    places, known = (), {frozenset(): 1.0}
    while smallest(known) != frozenset(places) or not places:  # a fault may be so small that the others carry enough
        places = tuple(int(place) for place in sorted(rng.choice(depth, count, replace=False)))
        known = carried(model, places, seed, feeds)
    names = {place: f"{'conv' if kind == 'res' else kind}{place}" for place in places}
    faulty = model
    for place in places:
        faulty = with_fault(faulty, place, seed)
    causes = onnxscope.explain(model, faulty, feeds).causes
    assert {cause.row.a.layer for cause in causes.layers} == set(names.values())
    assert causes.is_smallest
    assert causes.share == pytest.approx(1, abs=1e-3)
    assert sum(cause.share for cause in causes.layers) == pytest.approx(causes.share)
    if len(places) == 2:  # the mean over both orders
        first, second = (known[frozenset([place])] for place in places)
        shares = {cause.row.a.layer: cause.share for cause in causes.layers}
        assert shares[names[places[0]]] == pytest.approx((first + 1 - second) / 2, abs=2e-3)


def test_layers_that_are_off_a_little_are_left_out():
    model, feeds = NETWORKS["conv"](9, 4)
    faulty = with_fault(with_fault(model, 2, 4), 6, 4)
    rng = np.random.default_rng(0)
    for tensor in faulty.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        noisy = weight * (1 + 1e-3 * rng.standard_normal(weight.shape)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(noisy, tensor.name))
    causes = onnxscope.explain(model, faulty, feeds).causes
    assert {cause.row.a.layer for cause in causes.layers} == {"conv2", "conv6"}
    assert ENOUGH <= causes.share < 1
    assert causes.tried == 9
    assert causes.text.startswith("2 of 9 layers carry ")


def two(first, second, x, opsets=(17, 17), **stored):
    """Compare two bodies of one network."""
    rng = np.random.default_rng(1)
    models = []
    weights = {"w": rng.standard_normal((4, 4)), "v": rng.standard_normal((4, 4)), **stored}
    for body, opset in ((first, opsets[0]), (second, opsets[1])):
        model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": {opset}]>
            g (float[N, 4] x) => (float[N, K] y) {{ {body} }}""")
        read = {name for node in model.graph.node for name in node.input}
        for name, values in weights.items():
            if name not in read:
                continue
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        models.append(model)
    return onnxscope.explain(*models, x)


X = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)


def test_an_activation_function_that_one_model_alone_has_is_carried_by_the_layer_behind_it():
    causes = two(
        "[a] h = MatMul(x, w) [b] y = MatMul(h, v)", "[a] g = MatMul(x, w) h = Relu(g) [b] y = MatMul(h, v)", X
    ).causes
    assert [cause.row.a.layer for cause in causes.layers] == ["b"]
    assert causes.share == pytest.approx(1, abs=1e-5)


def test_the_end_of_an_output_may_carry_it():
    body = "[a] h = MatMul(x, w) n = Constant <value = int64 {1}> () y = CumSum {}(h, n)"
    causes = two(body.replace("{}", ""), body.replace("{}", "<reverse = 1> "), X).causes
    assert causes.text == "1 of 2 layers and outputs carries all of the difference: output y"


def test_models_of_two_operator_sets_are_exchanged_where_their_operators_are_the_same():
    same = "[a] h = MatMul(x, w) k = {}(h) [b] y = MatMul(k, v)"
    causes = two(same.format("Relu"), same.format("LeakyRelu <alpha = 0.1>"), X, (17, 18)).causes
    assert causes.share == pytest.approx(1, abs=1e-5)
    assert not causes.others


def test_layers_that_cannot_be_exchanged_are_named_with_the_reason():
    body = "[a] h = MatMul(x, {}) y = ReduceMean <axes = [1], keepdims = 1> (h)"
    wide = np.random.default_rng(3).standard_normal((4, 6))
    causes = two(body.format("w"), body.format("u"), X, u=wide).causes
    assert causes.text == (
        "no layer that can be exchanged carries any of the outputs' difference; "
        "not to be exchanged: a (shape [5, 4] against [5, 6]), "
        "y (the first model's is computed from a, which has another shape)"
    )
    assert [other.layer for other in causes.others] == ["a", "y"]


def test_equal_outputs_have_no_causes():
    assert two("[a] y = MatMul(x, w)", "[a] y = MatMul(x, w)", X).causes is None


def test_numbers_that_are_not_finite_are_carried():
    causes = two(
        "[a] h = MatMul(x, w) [b] y = MatMul(h, v)", "[a] g = MatMul(x, w) h = Log(g) [b] y = MatMul(h, v)", X
    ).causes
    assert causes.share == pytest.approx(1, abs=1e-5)


def test_command_and_record_say_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, feeds = NETWORKS["conv"](8, 0)
    onnx.save(model, "a.onnx")
    onnx.save(with_fault(model, 5, 0), "b.onnx")
    np.save("x.npy", feeds["x"])
    assert run(["diff", "a.onnx", "b.onnx", "-i", "x.npy", "--explain"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 8 layers carries all of the difference: conv5"
    result = onnxscope.explain("a.onnx", "b.onnx", "x.npy", select="conv5")
    assert result.causes is None
