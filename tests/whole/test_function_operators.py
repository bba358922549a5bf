"""Operators that onnxruntime computes by the function that onnx defines them by: a model is the copy that it saves.

The plain suite takes a case of each operator; `make acceptance` takes all of them, and prints the counts.
"""

from __future__ import annotations

from pathlib import Path

import model_changes as changes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx_cases import Case, difference, node_cases, with_stored_inputs

from onnxscope import check, diff, snapshot
from onnxscope.runtime.session import Session

OPERATORS = (
    "Attention",
    "CastLike",
    "CausalConvWithState",
    "CenterCropPad",
    "LinearAttention",
    "NegativeLogLikelihoodLoss",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "SoftmaxCrossEntropyLoss",
    "SequenceMap",
    "Swish",
)


IN_FLOAT32 = {
    "test_attention_local_window_ext_cache_float16_mask",
    "test_causal_conv_with_state_fp16",
    "test_causal_conv_with_state_silu_fp16",
}
"""Cases in half precision whose functions have no such kernels: the copy that is saved computes them between casts."""


def cases() -> list[tuple[Case, onnx.ModelProto]]:
    """Each with every tensor fed, and with every tensor but the first stored."""
    chosen = [
        case
        for case in node_cases()
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in OPERATORS
    ]
    return [(case, model) for case in chosen for model in (case.model, with_stored_inputs(case))]


def first_of_each() -> list[tuple[Case, onnx.ModelProto]]:
    first: dict[tuple[str, int], tuple[Case, onnx.ModelProto]] = {}
    for case, model in cases():
        first.setdefault((model.graph.node[0].op_type, len(model.graph.initializer)), (case, model))
    return list(first.values())


def outputs(model: onnx.ModelProto, case: Case) -> list[object]:
    session = Session(model, folder=None, where=case.name, threads=1)
    names = {value.name for value in model.graph.input}
    return list(session.run({name: array for name, array in case.feeds.items() if name in names}).values())


def faults_of(pairs: list[tuple[Case, onnx.ModelProto]], folder: Path) -> tuple[list[str], int]:
    """Pairs of model and copy that are not equal, and how many pairs there are."""
    faults, count = [], 0
    for case, model in pairs:
        try:
            copy = changes.optimized(model, "BASIC", folder)
            answers = outputs(model, case), outputs(copy, case)
        except Exception:  # onnxruntime cannot run the type
            continue
        assert not difference(answers[1], answers[0], 1e-5, 1e-6), case.name
        count += 1
        if not diff(model, copy).equal:
            faults.append(f"{case.name}: diff")
        if not check(copy, snapshot(model)).ok:
            faults.append(f"{case.name}: check")
    return faults, count


def test_a_case_of_each_operator_is_the_copy_that_onnxruntime_saves(tmp_path):
    faults, count = faults_of(first_of_each(), tmp_path)
    assert faults == []
    assert count >= 9


@pytest.mark.acceptance
def test_every_case_is_the_copy_that_onnxruntime_saves(tmp_path, capsys):
    faults, count = faults_of(cases(), tmp_path)
    with capsys.disabled():
        print(f"\n{count} models with functions of onnx, {len(faults)} taken for others than their copies")
    assert {fault.partition(":")[0] for fault in faults} == IN_FLOAT32
    assert count > 60


CHANGED = {
    "a type": ("v = CastLike(x, h)", "v = CastLike(x, d)"),
    "a shape": ("CenterCropPad(w, small)", "CenterCropPad(w, large)"),
    "an attribute": ('reduction = "none"', 'reduction = "sum"'),
    "a number in the body of a SequenceMap": ("Add(e, one)", "Add(e, two)"),
}
MODEL = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[3, 4] x, int64[3] t) => (float[2, 2] crop, float[c, d] part, float[3] loss)
    <int64[2] small = {2, 2}, int64[2] large = {3, 2}, float16 h = {1}, double d = {1}, float one = {1},
     float two = {2}, int64 zero = {0}, int64 most = {2}>
    {
        v = CastLike(x, h)
        w = CastLike(v, one)
        crop = CenterCropPad(w, small)
        pieces = SplitToSequence<axis = 0>(x, most)
        moved = SequenceMap<body = b (float[k, l] e) => (float[k, l] o) { o = Add(e, one) }>(pieces)
        part = SequenceAt(moved, zero)
        loss = SoftmaxCrossEntropyLoss<reduction = "none">(x, t)
    }"""


def test_a_model_with_all_of_them_is_its_copy_with_data_too(tmp_path):
    model = onnx.parser.parse_model(MODEL)
    copy = changes.optimized(model, "BASIC", tmp_path)
    assert "CenterCropPad" not in {node.op_type for node in copy.graph.node}
    feeds = {"x": np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32), "t": np.array([0, 3, 1])}
    assert diff(model, copy).equal
    assert diff(model, copy, feeds).equal
    assert check(copy, snapshot(model)).ok
    assert check(copy, snapshot(model, feeds), feeds).ok


@pytest.mark.parametrize("change", CHANGED)
def test_a_change_of_what_a_function_does_is_told(change):
    model, changed = onnx.parser.parse_model(MODEL), onnx.parser.parse_model(MODEL.replace(*CHANGED[change]))
    assert diff(model, changed).verdict == "differs"
    assert check(changed, snapshot(model)).verdict == "differs"


def test_a_sequence_that_depends_on_nothing_is_told_by_the_node_that_makes_it():
    text = """
        <ir_version: 9, opset_import: ["": 18]>
        net (float[2] x) => (float[2] y, seq(float[n]) s) { y = Neg(x) s = SequenceEmpty<dtype = 1>() }"""
    other = text.replace("seq(float[n])", "seq(int64[n])").replace("dtype = 1", "dtype = 7")
    model, changed = onnx.parser.parse_model(text), onnx.parser.parse_model(other)
    assert diff(model, model).equal
    assert diff(model, changed).verdict == "differs"


def test_a_shape_that_the_model_fixes_is_the_constant_that_an_optimizer_stores(tmp_path):
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float[3, 4, 5] x, float[n, 4] z) => (int64[2] y, int64[2] s) { y = Shape<start = 1>(x) s = Shape(z) }""")
    copy = changes.optimized(model, "BASIC", tmp_path)
    assert len(copy.graph.node) == 1
    assert diff(model, copy).equal
    assert check(copy, snapshot(model)).ok
    copy.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array([4, 6]), copy.graph.initializer[0].name))
    assert diff(model, copy).verdict == "differs"


def test_a_function_that_reads_an_operand_which_is_left_out_ends_no_comparison():
    case = next(case for case in node_cases() if case.name == "test_linear_attention_linear")
    changed = onnx.ModelProto()
    changed.CopyFrom(case.model)
    for attribute in changed.graph.node[0].attribute:
        if attribute.name == "update_rule":
            attribute.s = b"gated"  # by a decay, which is not there
    assert diff(changed, changed).equal
    for first, second in ((case.model, changed), (changed, case.model)):
        assert diff(first, second).verdict == "differs"
        assert not check(second, snapshot(first)).ok
