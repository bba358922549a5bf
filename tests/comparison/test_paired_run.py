"""Two models fed the same: numbers of other evaluators, element types, layouts, and models that do not fit."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
import onnx.utils
import pytest
from compared_models import (
    CHANNELS_LAST,
    DIGITS,
    INPUT,
    KIND_INPUT,
    KINDS_OF_OUTPUT,
    LAYERS,
    QDQ,
    TWO,
    WEIGHTS,
    WITHOUT_NUMBERS,
    X,
    one_weight,
    parsed,
    planted,
    swapped,
    with_output,
)
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization.qdq_loss_debug import (
    collect_activations,
    compute_activation_error,
    create_activation_matching,
    modify_model_output_intermediate_tensors,
)
from planting import in_half, raw_values

from onnxscope import check, diff, snapshot
from onnxscope.base.run_options import RunOptions
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.errors import InputError, RunError
from onnxscope.model.loading import load_model

RNG = np.random.default_rng(7)


def submodel(model, reads, gives):
    return onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(reads, gives)


def test_the_numbers_are_those_of_the_reference_evaluator():
    a, b = parsed(TWO, **WEIGHTS), parsed(TWO, **WEIGHTS | {"w1": WEIGHTS["w1"] * np.float32(1.01)})
    b.graph.initializer[2].CopyFrom(numpy_helper.from_array(WEIGHTS["b2"] + np.float32(0.1), "b2"))
    result = diff(a, b, X, rtol=1e-3, atol=1e-3)
    (left, first), (right, second) = (
        ReferenceEvaluator(model).run(["r", "y"], {"x": X})
        for model in (submodel(m, ["x"], ["r", "y"]) for m in (a, b))
    )
    (alone,) = ReferenceEvaluator(submodel(b, ["r"], ["y"])).run(["y"], {"r": left})
    for row, reference, other, own in ((result[0], left, right, right), (result[1], first, second, alone)):
        x, y, z = (each.astype(np.float64) for each in (reference, other, own))
        assert row.entire.relative_l2 == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-4)
        assert row.own.relative_l2 == pytest.approx(np.linalg.norm(z - x) / np.linalg.norm(x), rel=1e-4)
        assert row.entire.max_abs == pytest.approx(np.abs(y - x).max(), rel=1e-4)
        cosine = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
        assert row.entire.cosine == pytest.approx(cosine, rel=1e-6)
        assert row.entire.sqnr_db == pytest.approx(20 * np.log10(np.linalg.norm(x) / np.linalg.norm(y - x)), abs=0.01)
        beyond = np.abs(y - x) > 1e-3 + 1e-3 * np.abs(x)
        assert row.entire.beyond_fraction == pytest.approx(beyond.mean(), abs=2 / x.size)


def test_two_sessions_give_the_same_numbers_as_one_graph():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(TWO, **WEIGHTS | {"w1": WEIGHTS["w1"] * np.float32(1.01)})
    older = parsed(TWO.replace("18]", "17]"), **WEIGHTS | {"w1": WEIGHTS["w1"] * np.float32(1.01)})
    merged, apart = diff(a, b, X), diff(a, older, X, memory_budget_bytes=1)
    assert merged.notes == ()
    assert apart.notes == ("compared in two sessions, not in one graph: two operator sets ai.onnx: 18 and 17",)
    for one, two in zip((*merged, *merged.outputs), (*apart, *apart.outputs), strict=True):
        for key, number in one.to_dict().items():
            if isinstance(number, float) and key not in ("own_relative_l2", "own_max_abs"):
                assert two.to_dict()[key] == pytest.approx(number, rel=1e-4, abs=1e-6), key
        assert two.own.relative_l2 == pytest.approx(one.own.relative_l2, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("kind", KINDS_OF_OUTPUT)
@pytest.mark.parametrize("options", [{}, {"rtol": 1e-3}])
def test_an_output_of_any_kind_is_compared(kind, opset, options):
    a, b = with_output(kind, opset=opset), with_output(kind, 2.0, opset=opset)
    (same,) = diff(a, a, KIND_INPUT, **options).outputs
    (row,) = diff(a, b, KIND_INPUT, **options).outputs
    assert not same.differs
    assert (same.verdict, row.verdict) == ("equal", "equal" if kind in WITHOUT_NUMBERS else "differs")
    if kind.startswith("string"):
        assert row.reason.startswith("1 of 1 strings differ, the first: ")
        return
    x, y = (
        np.concatenate([np.float64(array).reshape(-1) for array in (value if isinstance(value, list) else [value])])
        for value in (ReferenceEvaluator(model).run(None, {"x": KIND_INPUT})[0] for model in (a, b))
    )
    assert same.entire.count == row.entire.count == x.size
    assert row.differs == (kind not in WITHOUT_NUMBERS)
    if np.linalg.norm(x):
        assert row.entire.relative_l2 == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=2e-3)
    assert row.entire.max_abs == pytest.approx(np.abs(y - x).max(initial=0), rel=2e-3)


@pytest.mark.parametrize("kinds", [("float[] y", "float[1] y"), ("float[1] y", "float[1, 1] y")])
@pytest.mark.parametrize("turned", [False, True])
def test_a_single_number_is_compared_with_one_of_another_rank(kinds, turned):
    def model(kind, k):
        made = with_output(kind, k)
        if kind == "float[] y":
            made.graph.node[-1].op_type = "Identity"
        return made

    left, right = kinds[::-1] if turned else kinds
    assert diff(model(left, 1.0), model(right, 1.0), KIND_INPUT).equal
    for options in ({}, {"memory_budget_bytes": 1}):
        (row,) = diff(model(left, 1.0), model(right, 1.5), KIND_INPUT, **options).outputs
        assert row.entire.relative_l2 == pytest.approx(0.5, rel=1e-5)


def test_layers_that_hold_a_single_number_are_fed_and_compared():
    def model(**changed):
        weights = {"v": np.array([1, 2, 3], np.float32), "w": np.array([[2, 1]], np.float32)} | changed
        return parsed(
            """
            <ir_version: 9, opset_import: ["": 17]>
            net (float[3] x) => (float[2] y) { s = MatMul(x, v) r = Reshape(s, one) y = MatMul(r, w) }""",
            one=np.array([1]),
            **weights,
        )

    feeds = {"x": np.array([1, 1, 2], np.float32)}
    assert diff(model(), model(), feeds).equal
    result = diff(model(), model(v=np.array([2, 4, 6], np.float32)), feeds)
    assert [row.a.name for row in result.guilty] == ["s"]
    assert [row.entire.relative_l2 for row in result] == [1, 1]
    assert result[1].own.relative_l2 == 0


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("number", [1_000_000, 1 << 24])
def test_integers_that_are_one_apart_differ(dtype, shape, number):
    def model(number):
        return parsed(
            f"""
            <ir_version: 9, opset_import: ["": 17]>
            net (float[n, 4] x) => ({dtype}[] y, float[n, 3] h) {{
                h = MatMul(x, w)
                i = Size(h)
                k = Cast<to = {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}>(i)
                z = Sub(k, k)
                y = Add(z, c)
            }}""",
            w=np.ones((4, 3), np.float32),
            c=np.full(shape, number, dtype),
        )

    assert diff(model(number), model(number), KIND_INPUT).equal
    for options in ({}, {"atol": 0.5}):
        result = diff(model(number), model(number + 1), KIND_INPUT, **options)
        assert [row.differs for row in result.outputs] == [True, False]
        assert result.outputs[0].entire.max_abs == 1
        assert result.notes == ()  # in one graph
    assert diff(model(number), model(number + 1), KIND_INPUT, atol=1).equal


def test_batches_add_up():
    a, b = parsed(TWO, **WEIGHTS), parsed(TWO, **WEIGHTS | {"b2": WEIGHTS["b2"] * 2})
    whole, single = diff(a, b, X, batch_size=3), diff(a, b, X, batch_size=1)
    assert whole.samples == single.samples == 3
    assert single[1].entire.relative_l2 == pytest.approx(whole[1].entire.relative_l2, rel=1e-5)
    assert diff(a, b, X, limit=2).samples == 2


HALF = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[batch, 3] x) => (float[batch, 2] y) {
        h = Cast<to = 10>(x)
        g = MatMul(h, w1)
        k = MatMul(g, w2)
        y = Cast<to = 1>(k)
    }"""
SINGLE = HALF.replace("<to = 10>", "<to = 1>")


def test_an_overflow_in_half_precision_is_named():
    w1, w2 = np.full((3, 4), 300.0, np.float32), np.full((4, 2), 300.0, np.float32)
    feeds = np.ones((2, 3), np.float32)
    a, b = parsed(SINGLE, w1=w1, w2=w2), parsed(HALF, w1=w1.astype(np.float16), w2=w2.astype(np.float16))
    result = diff(a, b, feeds)
    assert [row.b.name for row in result.guilty] == ["k"]
    assert result[1].entire.mismatched == 4
    assert not result[0].differs
    assert {change.change for change in result.weights} <= {"rounded"}


def test_half_precision_alone_is_no_difference():
    half = in_half(DIGITS)
    for pair in ((DIGITS, half), (half, DIGITS), (half, half)):
        result = diff(*pair, INPUT)
        assert result.equal, repr(result)
        assert result.guilty == ()
        assert all(row.floor == 2**-10 for row in (*result, *result.outputs))
        assert result.notes == ("compared in two sessions, not in one graph: values in half precision",)
    result = diff(DIGITS, half, INPUT)
    assert {change.change for change in result.weights} == {"rounded"}
    assert all(1e-5 < row.own.relative_l2 < 2**-10 for row in result)
    assert not diff(DIGITS, half).equal  # nothing has acquitted the weights


INTO_HALF = """
    <ir_version: 9, opset_import: ["": 18]>
    net ({0}[batch, 3] x) => (float[batch, 2] y) {{
        s = Mul(x, x)
        f = Cast<to = 1>(s)
        y = MatMul(f, w)
    }}"""


def test_an_input_is_rounded_for_the_second_model_as_it_takes_it():
    weights = RNG.normal(size=(3, 2)).astype(np.float32)
    a, b = (parsed(INTO_HALF.format(kind), w=weights) for kind in ("float", "float16"))
    feeds = RNG.normal(size=(5, 3)).astype(np.float32)
    result = diff(a, b, feeds)
    assert result.notes == ("input x: float16 instead of float32",)  # in one graph
    left, right = (raw_values(model, "y", {"x": x})[0] for model, x in ((a, feeds), (b, feeds.astype(np.float16))))
    expected = np.linalg.norm(right - left) / np.linalg.norm(left)
    assert expected > 1e-5
    assert result.outputs[0].entire.relative_l2 == pytest.approx(expected, rel=1e-3)


def test_a_layer_in_single_precision_behind_others_in_half_is_innocent():
    mixed = in_half(DIGITS, single={onnx.load(DIGITS).graph.node[-1].output[0]})
    result = diff(DIGITS, mixed, INPUT)
    assert result.equal, repr(result)
    assert [row.floor for row in result] == [2**-10] * 4


@pytest.mark.parametrize("layer", LAYERS)
def test_a_fault_in_half_precision_is_named(layer, tmp_path):
    half = in_half(DIGITS)
    onnx.save(half, tmp_path / "half.onnx")
    result = diff(DIGITS, planted(f"{layer}.weight", one_weight, tmp_path / "half.onnx"), INPUT)
    assert not result.equal
    assert [row.a.layer for row in result.guilty] == [layer]
    assert {change.layer for change in result.weights if change.counts} == {layer}
    assert [change.a for change in result.weights if change.change == "changed"] == [f"{layer}.weight"]


def test_weights_rounded_to_half_precision_count_where_values_are_not():
    a = parsed(SINGLE, w1=WEIGHTS["w1"][:, :, 0, 0].T.copy(), w2=WEIGHTS["w2"][:2].T.copy())
    text = SINGLE.replace("MatMul(h, w1)", "MatMul(h, s)").replace("h = Cast", "s = Cast<to = 1>(w1) h = Cast")
    b = parsed(text, w1=WEIGHTS["w1"][:, :, 0, 0].T.astype(np.float16), w2=WEIGHTS["w2"][:2].T.copy())
    result = diff(a, b, X[:, :, 0, 0].copy())
    assert [row.a.name for row in result.guilty] == ["g"]
    assert [(change.change, change.counts) for change in result.weights] == [("rounded", True)]


def test_another_layout_is_matched_and_said():
    b = parsed(
        CHANNELS_LAST,
        kernel=np.ascontiguousarray(WEIGHTS["w1"].transpose(2, 3, 1, 0)),
        dense=np.ascontiguousarray(WEIGHTS["w2"].T),
        bias=WEIGHTS["b2"],
        axes=np.array([1, 2]),
    )
    a = parsed(TWO, **WEIGHTS)
    result = diff(a, b, X)
    assert result.equal
    assert len(result) == 2
    assert result.notes == ("input x: called image in the second model, its axes in the order [0, 2, 3, 1]",)
    assert {change.change for change in result.weights} == {"renamed"}
    assert diff(b, a, X.transpose(0, 2, 3, 1)).equal
    b.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ascontiguousarray(swapped(WEIGHTS["w1"].copy()).transpose(2, 3, 1, 0)), "kernel")
    )
    assert [row.a.name for row in diff(a, b, X).guilty] == ["r"]


def test_models_that_take_different_things_cannot_be_run():
    a = parsed(TWO, **WEIGHTS)
    b = parsed(TWO.replace("[batch, 3, 6, 6] x", "[batch, 3, 8, 8] x"), **WEIGHTS)
    with pytest.raises(
        InputError, match=r"input 'x' float32 \(batch, 3, 6, 6\) cannot become 'x' float32 \(batch, 3, 8"
    ):
        diff(a, b, X)
    two = parsed('<ir_version: 9, opset_import: ["": 18]> g (float[2] x, float[2] y) => (float[2] z) { z = Add(x, y) }')
    with pytest.raises(InputError, match="1 input against 2: "):
        diff(a, two, X)


def test_layers_inside_a_body_are_compared_too():
    text = """
        <ir_version: 10, opset_import: ["": 21]>
        net (float[batch, 3] x, bool c) => (float[batch, 3] y) {
            y = If(c) <then_branch = t () => (float[batch, 3] u) { d = MatMul(x, w) u = Neg(d) },
                       else_branch = e () => (float[batch, 3] v) { v = Abs(x) }>
        }"""
    w = RNG.standard_normal((3, 3), np.float32)
    a, b = parsed(text, w=w), parsed(text, w=one_weight(w.copy()))
    feeds = {"x": X[:, :, 0, 0].copy(), "c": np.array(True)}
    assert diff(a, a, feeds).equal
    assert diff(a, b, feeds).first_divergence.a.name == "d"
    idle = diff(a, a, feeds | {"c": np.array(False)})
    assert "not executed" in idle[0].reason


def test_signal_to_noise_of_a_quantized_model_is_what_onnxruntime_reports(tmp_path):
    images = np.load(INPUT)["image"] if "image" in np.load(INPUT) else next(iter(np.load(INPUT).values()))
    feeds = {onnx.load(DIGITS).graph.input[0].name: images}
    collected = []
    for path in (DIGITS, QDQ):
        changed = str(tmp_path / f"debug_{Path(path).name}")
        modify_model_output_intermediate_tensors(path, changed)
        collected.append(collect_activations(changed, iter_reader(feeds)))
    errors = compute_activation_error(create_activation_matching(collected[1], collected[0]))
    result = diff(DIGITS, QDQ, images, batch_size=len(images))
    checked = 0
    for row in (*result.layers, *result.outputs):
        reported = errors.get(row.a.name, {}).get("xmodel_err")
        if reported is not None:
            checked += 1
            assert row.entire.sqnr_db == pytest.approx(float(reported), abs=0.1), row.a.name
    assert checked >= 3


def iter_reader(*feeds):
    class Reader:
        def __init__(self):
            self._left = list(feeds)

        def get_next(self):
            return self._left.pop(0) if self._left else None

        def __iter__(self):
            return self

        def __next__(self):
            found = self.get_next()
            if found is None:
                raise StopIteration
            return found

    return Reader()


def test_a_model_that_onnxruntime_refuses_is_an_error():
    a = parsed(TWO, **WEIGHTS)
    b = copy.deepcopy(a)
    b.graph.node.insert(1, helper.make_node("Relu6", ["c"], ["q"]))
    b.graph.node[2].input[0] = "q"
    with pytest.raises(RunError, match="onnxruntime cannot load the model"):
        diff(a, b, X)


@pytest.mark.parametrize("turned", [False, True])
def test_a_batch_is_fixed_by_the_partner_of_an_input_not_by_its_place(turned):
    text = (
        "{head} g ({inputs}) => (float[{batch}, 3] y) {{ h = Relu(left)  s = Neg(right)  y = Concat<axis = 1>(h, s) }}"
    )
    head = '<ir_version: 9, opset_import: ["": 17]>'
    free = parsed(text.format(head=head, inputs="float[N, 1] left, float[M, 2] right", batch="N"))
    fixed = "float[M, 2] right, float[2, 1] left" if turned else "float[2, 1] left, float[M, 2] right"
    other = parsed(text.format(head=head, inputs=fixed, batch="2"))
    arrays = {
        "left": np.arange(6, dtype=np.float32).reshape(6, 1),
        "right": np.arange(12, dtype=np.float32).reshape(6, 2),
    }
    feed = open_common_feed((load_model(free), load_model(other)), arrays, RunOptions())
    assert [spec["shape"] for spec in feed.record["inputs"]] == [[2, 1], ["M", 2]]
    assert [batch.positions for batch in feed.batches()] == [(0, 1), (2, 3), (4, 5)]
    assert diff(free, other, arrays).equal


_ROUNDED = {
    "one": "q = QuantizeLinear(v, s, z) d = DequantizeLinear(q, s, z) e = Identity(d)",
    "two of one": "q = QuantizeLinear(v, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear(q, s, z)",
    "two chains": """q = QuantizeLinear(v, s, z) d = DequantizeLinear(q, s, z)
        o = QuantizeLinear(v, t, z) e = DequantizeLinear(o, t, z)""",
    "one read as codes too": """q = QuantizeLinear(v, s, z) d = DequantizeLinear(q, s, z)
        k = Cast<to = 1>(q) e = Mul(k, s)""",
    "other scale": "q = QuantizeLinear(v, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear(q, u, z)",
}
_ROUNDED_INPUT = np.random.default_rng(6).standard_normal((4, 3, 9), np.float32)


def rounded(how, activation="v = Relu(c)", **changes):
    """A convolution whose quantized value two branches read."""
    rng = np.random.default_rng(5)
    stored = {name: rng.standard_normal((4, sides, 1), np.float32) for name, sides in (("w", 3), ("g", 4), ("h", 4))}
    stored |= {"s": np.float32(0.1), "t": np.float32(0.1), "u": np.float32(0.2), "z": np.uint8(0)}
    return parsed(
        f"""<ir_version: 9, opset_import: ["": 19]>
        net (float[n, 3, 9] x) => (float[n, 4, 9] y) {{
            c = Conv(x, w) {activation} {_ROUNDED[how]} a = Conv(d, g) b = Conv(e, h) y = Add(a, b) }}""",
        **stored | changes,
    )


@pytest.mark.parametrize("activation", ["v = Relu(c)", "v = Identity(c)"])
@pytest.mark.parametrize("how", ["one", "two of one", "two chains", "one read as codes too"])
def test_a_quantized_value_is_compared_at_one_place_however_it_is_read(how, activation):
    for first, second in (("one", how), (how, "one")):
        models = rounded(first, activation), rounded(second, activation)
        compared = diff(*models, _ROUNDED_INPUT)
        assert compared.equal, compared.summary()
        assert [row.entire.max_abs for row in compared.layers] == [0.0, 0.0, 0.0]
        if "codes" not in how:
            assert diff(*models).equal
            for inputs in (None, _ROUNDED_INPUT):
                assert check(models[1], snapshot(models[0], inputs), inputs).ok


@pytest.mark.parametrize("how", ["two of one", "two chains"])
def test_a_change_beside_a_quantized_value_is_blamed_on_its_own_layer(how):
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in rounded("one").graph.initializer}
    for name, layer in (("w", "Conv_0"), ("g", "Conv_1"), ("h", "Conv_2")):
        compared = diff(rounded("one"), rounded(how, **{name: weights[name] * np.float32(1.5)}), _ROUNDED_INPUT)
        assert [row.a.layer for row in compared.guilty] == [layer]
    other = diff(rounded("one"), rounded("other scale"), _ROUNDED_INPUT)
    assert [row.a.layer for row in other.guilty] == ["Conv_2"]
    assert not diff(rounded("one"), rounded("other scale")).equal
    assert not check(rounded("other scale"), snapshot(rounded("one"))).ok


def test_a_function_or_a_layer_that_is_computed_again_is_one():
    text = """<ir_version: 9, opset_import: ["": 18]> net (float[n, 4] x) => (float[n, 4] y) {
        a = MatMul(x, w) r = Relu(a) %s b = MatMul(r, w) t = Tanh(%s) y = Add(b, t) }"""
    weight = np.random.default_rng(8).standard_normal((4, 4), np.float32)
    once = parsed(text % ("", "r"), w=weight)
    for again in ("r2 = Relu(a)", "a2 = MatMul(x, w) r2 = Relu(a2)"):
        for inputs in (None, np.ones((2, 4), np.float32)):
            twice = parsed(text % (again, "r2"), w=weight)
            assert diff(once, twice, inputs).equal
            assert check(twice, snapshot(once, inputs), inputs).ok
            assert not diff(once, parsed(text % (again.replace("Relu", "Sigmoid"), "r2"), w=weight), inputs).equal
