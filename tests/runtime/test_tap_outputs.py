"""expose(): taps become outputs, from any depth, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxscope
from onnxscope.errors import RunError
from onnxscope.model.loading import load_model
from onnxscope.runtime.session import Session
from onnxscope.runtime.tap_outputs import Unreachable, expose, was_not_executed
from onnxscope.selection.selectors import select_taps

X = np.array([1, -2, 3], np.float32)


X2 = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)


def parsed(text, *, opset=17, **initializers):
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> {text}')
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def tapped(proto, *selectors):
    model = load_model(proto)
    return expose(model, select_taps(model, selectors))


def run(proto, *selectors, **feeds):
    """By tap: the value that onnxruntime gives for it. Declared outputs stand under their own names."""
    result = tapped(proto, *selectors)
    assert result.unreachable == ()
    answers = Session(result.proto, folder=None, where="model").run(feeds)
    declared = {name: answers[name] for name in result.declared}
    return {**declared, **{name: answers[output] for name, output in result.outputs.items()}}


def reasons(proto, *selectors):
    return {each.name: each.reason for each in tapped(proto, *selectors).unreachable}


CHAIN = "g (float[3] x, float[3] z) => (float[3] y, float[3] h) { a = Neg(x) h = Relu(a) b = Add(h, w) y = Mul(b, z) }"
W = np.array([10, 20, 30], np.float32)


def test_the_models_own_outputs_stay_first_in_order_and_with_their_types():
    model = parsed(CHAIN, w=W)
    result = tapped(model, "value:b", "value:h", "value:a")
    assert [value.name for value in result.proto.graph.output] == ["y", "h", "a", "b"]
    assert list(result.proto.graph.output[:2]) == list(model.graph.output)
    assert result.declared == ("y", "h")
    assert result.outputs == {"a": "a", "h": "h", "b": "b"}
    assert result.unreachable == ()


def test_the_input_model_does_not_change():
    model = parsed(CHAIN, w=W)
    loaded = load_model(model)
    before = model.SerializeToString(deterministic=True), loaded.proto.SerializeToString(deterministic=True)
    expose(loaded, select_taps(loaded, ["value:*", "value:w"]))
    assert (model.SerializeToString(deterministic=True), loaded.proto.SerializeToString(deterministic=True)) == before


def test_a_conditional_model_does_not_change_either():
    model = load_model(BRANCHES)
    before = model.proto.SerializeToString(deterministic=True)
    expose(model, select_taps(model, ["value:*"]))
    assert model.proto.SerializeToString(deterministic=True) == before


def test_new_outputs_have_their_type_where_the_model_declares_it():
    model = parsed(CHAIN, w=W)
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N"]))
    outputs = tapped(model, "value:a", "value:b").proto.graph.output
    assert outputs[2] == helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N"])
    assert not outputs[3].HasField("type")


def test_every_value_of_a_chain_is_what_the_reference_evaluator_computes():
    model = parsed(CHAIN, w=W)
    feeds = {"x": X, "z": X + 1}
    answers = run(model, "value:*", "value:w", **feeds)
    known = ReferenceEvaluator(model).run(None, feeds, intermediate=True)
    assert set(answers) == {"x", "z", "a", "h", "b", "y", "w"}
    for name in ("a", "h", "b", "y"):
        np.testing.assert_array_equal(answers[name], known[name])


def test_graph_inputs_and_initializers_can_be_tapped():
    answers = run(parsed(CHAIN, w=W), "value:x", "value:w", x=X, z=X)
    np.testing.assert_array_equal(answers["x"], X)
    np.testing.assert_array_equal(answers["w"], W)


def test_a_model_that_uses_the_names_that_we_would_make_up_keeps_them():
    model = parsed(
        """g (bool c, float[3] x) => (float[3] onnxscope_tap_1) {
            onnxscope_tap_1 = If(c) <then_branch = t () => (float[3] p) { h = Neg(x) p = Relu(h) },
                                     else_branch = e () => (float[3] q) { q = Abs(x) }>
        }"""
    )
    answers = run(model, "value:h", c=np.array(True), x=X)
    np.testing.assert_array_equal(answers["h"], -X)
    np.testing.assert_array_equal(answers["onnxscope_tap_1"], np.maximum(-X, 0))


BRANCHES = parsed(
    """g (bool c, float[3] x) => (float[3] y) {
        y = If(c) <then_branch = t () => (float[3] p) { h = Neg(x)  p = Relu(h) },
                   else_branch = e () => (float[3] q) { h = Abs(x)  k = Cast<to=7>(h)  q = Sqrt(h) }>
    }"""
)


def test_values_inside_both_branches_of_an_if():
    owner = "If(y)"
    names = [f"{owner}/then_branch/h", f"{owner}/else_branch/h"]
    taken = run(BRANCHES, "value:h", "value:k", c=np.array(True), x=X)
    np.testing.assert_array_equal(taken["y"], np.maximum(-X, 0))
    np.testing.assert_array_equal(taken[names[0]], -X)
    assert was_not_executed(taken[names[1]].shape)
    assert was_not_executed(taken["k"].shape)
    other = run(BRANCHES, "value:h", "value:k", c=np.array(False), x=X)
    np.testing.assert_array_equal(other["y"], np.sqrt(np.abs(X)))
    np.testing.assert_array_equal(other[names[1]], np.abs(X))
    np.testing.assert_array_equal(other["k"], np.abs(X).astype(np.int64))
    assert was_not_executed(other[names[0]].shape)


def test_an_empty_value_of_an_executed_branch_is_no_mark():
    assert not was_not_executed((0, 3))
    assert not was_not_executed(())
    assert not was_not_executed((1,) * 8)
    assert was_not_executed((0,) * 8)
    assert was_not_executed((5, *(0,) * 8))


def test_types_are_inferred_for_undeclared_values_inside_bodies_alone(monkeypatch):
    model = load_model(BRANCHES)
    taps = select_taps(model, ["value:*"])
    monkeypatch.setattr("onnxscope.model.loading.infer_types", None)
    assert expose(model, [tap for tap in taps if not tap.path]).unreachable == ()
    monkeypatch.undo()
    assert expose(model, taps).unreachable == ()


def test_a_value_in_a_branch_whose_type_is_unknown_is_unreachable(monkeypatch):
    monkeypatch.setattr("onnxscope.model.loading.infer_types", lambda model: {})
    result = tapped(BRANCHES, "value:k")
    assert result.unreachable == (
        Unreachable("k", "its element type cannot be inferred, and the other branch has to match it"),
    )
    assert result.outputs == {}
    assert result.unreachable[0].to_dict() == {"name": "k", "reason": result.unreachable[0].reason}
    assert result.proto.graph.output == BRANCHES.graph.output


LOOP = parsed(
    """g (int64 m, float[3] x) => (float[3] y, float[K, 3] stacked) {
        go = Constant<value=bool {1}>()
        y, stacked = Loop(m, go, x) <body = b (int64 i, bool c, float[3] s) => (bool d, float[3] t, float[3] u) {
            d = Identity(c)  f = Cast<to=1>(i)  a = Add(s, f)  t = Mul(a, a)  u = Neg(a)
        }>
    }"""
)


def loop_by_hand(count, x):
    a_values, state = [], x
    for number in range(count):
        a_values.append(state + np.float32(number))
        state = a_values[-1] * a_values[-1]
    return np.stack(a_values) if a_values else np.zeros((0, 3), np.float32), state


def test_values_inside_a_loop_come_stacked():
    answers = run(LOOP, "value:a", "value:f", "value:t", m=np.int64(3), x=X)
    a, state = loop_by_hand(3, X)
    np.testing.assert_array_equal(answers["a"], a)
    np.testing.assert_array_equal(answers["t"], a * a)
    np.testing.assert_array_equal(answers["f"], [0, 1, 2])
    np.testing.assert_array_equal(answers["y"], state)
    np.testing.assert_array_equal(answers["stacked"], -a)


def test_a_loop_without_an_iteration_gives_an_empty_stack():
    answers = run(LOOP, "value:a", m=np.int64(0), x=X)
    assert answers["a"].shape[0] == 0
    assert not was_not_executed(answers["a"].shape)
    np.testing.assert_array_equal(answers["y"], X)


def test_a_loop_that_leaves_its_last_outputs_unnamed():
    model = onnx.ModelProto()
    model.CopyFrom(LOOP)
    del model.graph.node[1].output[1]
    del model.graph.output[1]
    answers = run(model, "value:a", m=np.int64(2), x=X)
    np.testing.assert_array_equal(answers["a"], loop_by_hand(2, X)[0])


def test_a_value_that_changes_its_shape_from_iteration_to_iteration_fails_the_run():
    model = parsed(
        """g (int64 m, float[N] x) => (float[M] y) {
            go = Constant<value=bool {1}>()
            y = Loop(m, go, x) <body = b (int64 i, bool c, float[A] s) => (bool d, float[B] t) {
                d = Identity(c)  t = Concat<axis=0>(s, s)
            }>
        }"""
    )
    assert len(run(model, "value:y", m=np.int64(2), x=X)["y"]) == 12
    with pytest.raises(RunError, match=r"^onnxruntime cannot run the model \(.*Inconsistent shape in loop output"):
        run(model, "value:t", m=np.int64(2), x=X)


SCAN = """g (float[3] start, float[4, 3] x) => (float[3] last, float[{shape}] sums) {{
    last, sums = Scan<num_scan_inputs=1{attributes}, body = b (float[3] s, float[3] e) => (float[3] t, float[3] u) {{
        d = Mul(e, e)  t = Add(s, d)  u = Identity(t)
    }}>(start, x)
}}"""


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ("", "4, 3"),
        (", scan_output_axes=[1]", "3, 4"),
        (", scan_output_directions=[1]", "4, 3"),
        (", scan_output_axes=[-1], scan_output_directions=[1]", "3, 4"),
    ],
)
def test_values_inside_a_scan_come_stacked_whatever_its_own_outputs_do(attributes, shape):
    model = parsed(SCAN.format(attributes=attributes, shape=shape))
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    answers = run(model, "value:d", "value:t", start=X, x=x)
    sums = X + np.cumsum(x * x, axis=0)
    np.testing.assert_array_equal(answers["d"], x * x)
    np.testing.assert_array_equal(answers["t"], sums)
    np.testing.assert_array_equal(answers["last"], sums[-1])
    own = sums[::-1] if "directions" in attributes else sums
    np.testing.assert_array_equal(answers["sums"], own.T if "axes" in attributes else own)


NESTED = """g (bool outer, bool inner, int64 m, float[3] x) => (float[3] y) {
    y = If(outer) <
        then_branch = t () => (float[3] p) {
            go = Constant<value=bool {1}>()
            p = Loop(m, go, x) <body = b (int64 i, bool c, float[3] s) => (bool d, float[3] n) {
                d = Identity(c)
                n = If(inner) <
                    then_branch = tt () => (float[3] pp) { deep = Neg(s)  pp = Mul(deep, deep) },
                    else_branch = ee () => (float[3] qq) { qq = Identity(s) }>
            }>
        },
        else_branch = e () => (float[3] q) { q = Abs(x) }>
}"""


def test_an_if_in_a_loop_in_an_if():
    model = parsed(NESTED)
    yes, no = np.array(True), np.array(False)
    answers = run(model, "value:deep", outer=yes, inner=yes, m=np.int64(3), x=X)
    np.testing.assert_array_equal(answers["deep"], [-X, -(X**2), -(X**4)])
    np.testing.assert_array_equal(answers["y"], X**8)
    inside = run(model, "value:deep", "value:qq", outer=yes, inner=no, m=np.int64(2), x=X)
    np.testing.assert_array_equal(inside["qq"], [X, X])
    assert was_not_executed(inside["deep"].shape)
    outside = run(model, "value:deep", "value:qq", outer=no, inner=yes, m=np.int64(2), x=X)
    assert was_not_executed(outside["deep"].shape)
    np.testing.assert_array_equal(outside["y"], np.abs(X))


def test_a_constant_inside_a_body_can_be_tapped():
    answers = run(parsed(NESTED), "value:go", outer=np.array(True), inner=np.array(True), m=np.int64(1), x=X)
    assert answers["go"] == np.array(True)


def test_sequences_optionals_and_strings_are_unreachable():
    model = parsed(
        """g (float[3] x, seq(float[3]) s, optional(float[3]) o, string[2] t)
            => (float[3] y, seq(float[3]) z, string[2] u) {
            z = SequenceInsert(s, x)  y = Neg(x)  u = Identity(t)
        }"""
    )
    assert reasons(model, "value:*") == {
        "s": "a sequence, not a tensor",
        "o": "an optional, not a tensor",
        "t": "strings have no statistics",
        "z": "a sequence, not a tensor",
        "u": "strings have no statistics",
    }


def test_a_sequence_inside_a_loop_is_recognised_by_inference():
    model = parsed(
        """g (int64 m, float[3] x) => (float[3] y) {
            go = Constant<value=bool {1}>()
            y = Loop(m, go, x) <body = b (int64 i, bool c, float[3] s) => (bool d, float[3] t) {
                d = Identity(c)  q = SequenceConstruct(s, s)  t = ConcatFromSequence<axis=0>(q)
            }>
        }"""
    )
    assert reasons(model, "value:q", "value:t") == {"q": "a sequence, not a tensor"}


def test_values_inside_a_sequence_map_cannot_be_handed_out():
    model = parsed(
        """g (seq(float[3]) s) => (seq(float[3]) y) {
            y = SequenceMap(s) <body = b (float[3] e) => (float[3] r) { h = Neg(e)  r = Relu(h) }>
        }"""
    )
    reason = "inside the body of SequenceMap, which cannot hand values out"
    assert reasons(model, "value:h", "value:r") == {"h": reason, "r": reason}


def test_an_operator_of_another_domain_is_not_taken_for_an_if():
    model = parsed(
        """g (bool c, float[3] x) => (float[3] y) {
            y = If(c) <then_branch = t () => (float[3] p) { p = Neg(x) },
                       else_branch = e () => (float[3] q) { q = Abs(x) }>
        }"""
    )
    model.graph.node[0].domain = "com.example"
    assert reasons(model, "value:p") == {"p": "inside the body of If, which cannot hand values out"}


def test_an_if_without_its_other_branch_is_unreachable():
    model = onnx.ModelProto()
    model.CopyFrom(BRANCHES)
    del model.graph.node[0].attribute[1]
    result = tapped(model, "value:p")
    assert [each.reason for each in result.unreachable] == ["If has no else_branch"]
    assert result.proto.graph == model.graph  # nothing half-done


@pytest.mark.parametrize(
    "elem_type", [TensorProto.BFLOAT16, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64]
)
def test_element_types_of_both_branches_agree(elem_type):
    model = parsed(
        f"""g (bool c, float[3] x) => (float[3] y) {{
            y = If(c) <then_branch = t () => (float[3] p) {{ h = Cast<to={elem_type}>(x)  p = Cast<to=1>(h) }},
                       else_branch = e () => (float[3] q) {{ q = Abs(x) }}>
        }}"""
    )
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    answers = run(model, "value:h", c=np.array(True), x=X)
    assert answers["h"].dtype == dtype
    np.testing.assert_array_equal(answers["h"].astype(np.float32), X)
    absent = run(model, "value:h", c=np.array(False), x=X)["h"]
    assert absent.dtype == dtype
    assert was_not_executed(absent.shape)


@pytest.mark.parametrize("opset", [6, 7, 8, 9, 10, 11, 13])
@pytest.mark.parametrize("condition", [True, False])
def test_branches_of_an_if_give_values_of_unequal_rank_in_every_operator_set(opset, condition):
    model = onnx.parser.parse_model(f"""
        <ir_version: 7, opset_import: ["": {opset}]>
        g (float[2, 3] x, bool c) => (float[3] y) {{
            y = If (c) <then_branch = a () => (float[3] p) {{ n = Neg(x)  p = ReduceMax<axes = [0], keepdims = 0>(n) }},
                        else_branch = b () => (float[3] q) {{ k = Abs(x)  q = ReduceMin<axes = [0], keepdims = 0>(k) }}>
        }}""")
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    maps = onnxscope.features(model, {"x": x, "c": np.array(condition)}, select="value:*")
    seen = {tap.tap.value: tap.data.tolist() for tap in maps if tap.tap.path}
    if condition:
        assert seen == {"n": (-x).tolist(), "p": (-x).max(axis=0).tolist()}
    else:
        assert seen == {"k": np.abs(x).tolist(), "q": np.abs(x).min(axis=0).tolist()}
    branch = "else_branch" if condition else "then_branch"
    reason = f"the {branch} that holds it was not executed on this input"
    assert {missed.reason for missed in maps.unreachable} == {reason}
    assert len(maps.unreachable) == 2


@pytest.mark.parametrize("opset", [1, 7, 8, 10, 11])
@pytest.mark.parametrize("condition", [True, False])
def test_every_command_observes_branches_of_unequal_shape(opset, condition):
    model, other = (
        parsed(
            f"""
            g (float[2, 3] x, bool c) => (float[3, 3] y) {{
                z = If (c) <then_branch = a () => (float[3, 3] p)
                                <float[2, 3] w = {{ {first}, 1, -1, 0, 2, -2 }}> {{
                                    t = Transpose(x)  p = MatMul(t, w) }},
                            else_branch = b () => (float[3, 3] q)
                                <float[3, 1] v = {{ {first}, 1, -1 }}, float[1, 3] u = {{ 1, 2, 3 }}> {{
                                    m = MatMul(x, v)  t2 = Transpose(x)  s = MatMul(t2, m)  q = MatMul(s, u) }}>
                y = Softmax(z) }}""",
            opset=opset,
        )
        for first in (1, 3)
    )
    data = {"x": X2, "c": np.array(condition)}
    inside = ["t", "p"] if condition else ["m", "t2", "s", "q"]
    maps = onnxscope.features(model, data, select="value:*")
    seen = {tap.tap.value: tap.data for tap in maps if tap.tap.path}
    assert list(seen) == inside
    if condition:
        np.testing.assert_allclose(seen["p"], X2.T @ np.array([[1, 1, -1], [0, 2, -2]]), rtol=1e-5)
    else:
        np.testing.assert_allclose(seen["m"], X2 @ np.array([[1], [1], [-1]]), rtol=1e-5)
    assert {tap.name for tap in onnxscope.stats(model, data, select="value:*")} >= set(inside)
    result = onnxscope.diff(model, other, data)
    assert result.first_divergence.a.name == inside[1 if condition else 0]
    assert onnxscope.diff(model, model, data).equal
    baseline = onnxscope.snapshot(model, data)
    assert onnxscope.check(model, baseline, data).ok
    assert not onnxscope.check(other, baseline, data).ok
    assert onnxscope.report(model, data, select="value:*").content.statistics is not None
