"""The onnx wheel's own test cases, run untapped and with everything tapped; used by test_onnx_cases.py."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper

from onnxscope.errors import OnnxscopeError, RunError
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model, load_model
from onnxscope.runtime.session import Session
from onnxscope.runtime.tap_outputs import was_not_executed
from onnxscope.runtime.tapped_runs import run_tapped
from onnxscope.selection.selectors import Tap, select_taps

DATA = Path(onnx.backend.test.__file__).parent / "data"
LIGHT = {  # tolerances as onnx/backend/test/case/model/__init__.py gives them
    "bvlc_alexnet": 1e-3,
    "densenet121": 2e-3,
    "inception_v1": 1e-3,
    "inception_v2": 1e-3,
    "resnet50": 1e-3,
    "shufflenet": 1e-3,
    "squeezenet": 1e-3,
    "vgg19": 1e-3,
    "zfnet512": 1e-3,
}
# Tapping keeps onnxruntime from fusing some float16 operators, which moves two numbers of one case by two units in the
# last place; the wheel's relative tolerance of 1e-3 is one unit. (Its runner allows two to bfloat16 in the same way.)
WIDER_RTOL = {"test_attention_4d_causal_fp16_expanded": 2**-9}


@dataclass(frozen=True)
class Case:
    """A model with inputs and the outputs that the wheel expects."""

    name: str
    model: onnx.ModelProto
    inputs: Sequence[Any]
    expected: Sequence[Any]
    rtol: float
    atol: float

    @property
    def feeds(self) -> dict[str, Any]:
        stored = {tensor.name for tensor in self.model.graph.initializer}
        names = [value.name for value in self.model.graph.input if value.name not in stored]
        return dict(zip(names, map(_plain, self.inputs), strict=False))

    @property
    def has_bodies(self) -> bool:
        return any(attribute.HasField("g") for node in self.model.graph.node for attribute in node.attribute)


@dataclass
class Outcome:
    """What became of one case."""

    name: str
    excluded: str = ""  # why it says nothing about tapping
    tapped: int = 0
    bodies: int = 0  # taps inside bodies among them
    compared: int = 0  # taps equal to the reference evaluator's value
    unreachable: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def node_cases() -> list[Case]:
    """The generated cases, one per operator and variant."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators overflow on purpose
        stored = collect_testcases(None)
    return [
        Case(case.name, case.model, inputs, expected, case.rtol, case.atol)
        for case in stored
        for inputs, expected in case.data_sets
    ]


def with_stored_inputs(case: Case) -> onnx.ModelProto:
    """A copy in which every tensor but the first is stored; what it computes is what the case expects."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    feeds = case.feeds
    for value in list(model.graph.input)[1:]:
        array = feeds.get(value.name)
        if isinstance(array, np.ndarray) and array.dtype.kind in "biufOU":
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
            model.graph.input.remove(value)
    return model


def folder_cases(folder: str) -> list[Case]:
    """The cases stored in a folder of the wheel."""
    cases = []
    for path in sorted((DATA / folder).iterdir()):
        model = onnx.load(path / "model.onnx")
        for data in sorted(path.glob("test_data_set_*")):
            inputs = _stored(data, "input", model.graph.input)
            cases.append(Case(path.name, model, inputs, _stored(data, "output", model.graph.output), 1e-3, 1e-7))
    return cases


def light_case(name: str) -> Case:
    """One of the real topologies; its input is the ramp that made the stored output."""
    model = onnx.load(DATA / "light" / f"light_{name}.onnx")
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name not in stored:
            shape = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in value.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
    expected = numpy_helper.to_array(onnx.load_tensor(DATA / "light" / f"light_{name}_output_0.pb"))
    return Case(name, model, inputs, [expected], LIGHT[name], 1e-7)


def run_case(case: Case, *, node_by_node: bool = False) -> Outcome:
    """Tap everything in a case and compare what it then gives with what the wheel expects.

    Args:
        case: What to run.
        node_by_node: Compare each tap with what its node alone gives on the tapped inputs, instead of with what the
            reference evaluator gives from the model's inputs on: in a deep network its errors would add up.
    """
    outcome = Outcome(case.name)
    problem = _untapped(case)
    if problem:
        outcome.excluded = problem
        return outcome
    try:
        model = load_model(case.model)
        taps = _all_taps(model)
        answers, tapped = run_tapped(model, taps, lambda session: session.run(case.feeds), threads=1)
    except OnnxscopeError as error:
        outcome.faults.append(f"{type(error).__name__}: {error}")
        return outcome
    outcome.unreachable = [each.reason for each in tapped.unreachable]
    rtol = max(case.rtol, WIDER_RTOL.get(case.name, 0))
    fault = difference([answers[name] for name in tapped.declared], case.expected, rtol, case.atol)
    if fault:
        outcome.faults.append(f"tapped: {fault}")
    if node_by_node:
        known = _recomputed(model, {tap.value: answers[tapped.outputs[tap.name]] for tap in taps})
    else:
        known = _reference(case, model)
    for tap in taps:
        if tap.name not in tapped.outputs:
            continue
        value = answers[tapped.outputs[tap.name]]
        if tap.path and was_not_executed(value.shape):
            outcome.unreachable.append("in a branch that was not executed")
            continue
        outcome.tapped += 1
        outcome.bodies += bool(tap.path)
        if not tap.path and known.get(tap.value) is not None:
            # The evaluator adds float16 up in float16: four units in the last place.
            rtol = max(case.rtol, 2**-8) if getattr(value, "dtype", None) == np.float16 else case.rtol
            largest = float(np.max(np.abs(known[tap.value]), initial=1.0)) if node_by_node else 1.0
            fault = difference([value], [known[tap.value]], rtol, max(case.atol, 1e-6 * largest))
            outcome.compared += not fault
            if fault:
                outcome.faults.append(f"{tap.name}: {fault}")
    return outcome


def difference(found: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float) -> str:
    """How two lists of answers differ, by the rules of the wheel's own runner; empty where they do not."""
    if len(found) != len(expected):
        return f"{len(found)} answers, {len(expected)} expected"
    for number, (left, right) in enumerate(zip(found, map(_plain, expected), strict=True)):
        if left is None or right is None:
            fault = "" if left is right else "one is absent"
        elif isinstance(right, list) or isinstance(left, list):
            both = isinstance(right, list) and isinstance(left, list)
            fault = difference(left, right, rtol, atol) if both else "only one is a sequence"
        else:
            fault = _array_difference(np.asarray(left), np.asarray(right), rtol, atol)
        if fault:
            return f"output {number}: {fault}"
    return ""


def summary(outcomes: Iterable[Outcome]) -> str:
    """The counts, in a few lines."""
    outcomes = list(outcomes)
    ran = [outcome for outcome in outcomes if not outcome.excluded]
    excluded = Counter(outcome.excluded.partition(":")[0] for outcome in outcomes if outcome.excluded)
    reasons = Counter(reason for outcome in ran for reason in outcome.unreachable)
    lines = [
        f"{len(outcomes)} cases: {len(ran)} run untapped as expected and were tapped",
        f"{sum(outcome.tapped for outcome in ran)} values tapped, "
        f"{sum(outcome.bodies for outcome in ran)} of them inside bodies; "
        f"{sum(outcome.compared for outcome in ran)} equal to the reference evaluator's",
        *(f"  excluded, {reason}: {count}" for reason, count in excluded.most_common()),
        *(f"  unreachable, {reason}: {count}" for reason, count in reasons.most_common()),
    ]
    return "\n".join(lines)


def _all_taps(model: Model) -> list[Tap]:
    selectors = ["value:*"] if model.main.nodes or model.main.inputs else []
    return select_taps(model, [*selectors, *(f"value:{name}" for name in model.main.initializers)])


def _untapped(case: Case) -> str:
    """Why the case proves nothing: onnxruntime refuses it, or does not give what the wheel expects."""
    try:
        session = Session(case.model, folder=None, where=case.name, threads=1)
    except RunError as error:
        return f"onnxruntime cannot load it: {error}"
    try:
        found = session.run(case.feeds)
    except OnnxscopeError as error:
        return f"onnxruntime cannot run it: {error}"
    fault = difference(list(found.values()), case.expected, case.rtol, case.atol)
    return fault and f"onnxruntime gives something else: {fault}"


def _reference(case: Case, model: Model) -> dict[str, Any]:
    """Every value of the main graph by onnx's reference evaluator; none where it cannot run the case as expected."""
    from onnx.reference import ReferenceEvaluator

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            known = ReferenceEvaluator(model.proto).run(None, case.feeds, intermediate=True)
    except Exception:
        return {}
    declared = [known.get(name) for name in model.main.outputs]
    return {} if difference(declared, case.expected, case.rtol, case.atol) else known


def _recomputed(model: Model, values: dict[str, Any]) -> dict[str, Any]:
    """What each node of the main graph gives on tapped inputs, by the reference evaluator or by hand."""
    from onnx.reference import ReferenceEvaluator

    known = {}
    for node in model.main.nodes:
        inputs = {name: values[name] for name in node.inputs if name}
        by_hand = _BY_HAND.get(node.op_type)
        if by_hand:
            known[node.outputs[0]] = by_hand(node, *inputs.values()).astype(np.float32)
            continue
        declared = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ]
        output = onnx.ValueInfoProto(name=node.outputs[0])  # further ones are Dropout's masks: bool for the evaluator
        graph = onnx.helper.make_graph([node.proto], "node", declared, [output])
        alone = onnx.helper.make_model(graph, opset_imports=model.proto.opset_import)
        known[node.outputs[0]] = ReferenceEvaluator(alone).run(None, inputs)[0]
    return known


def _batch_norm(node: Node, x: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
    scale, bias, mean, var = (each.astype(np.float64).reshape(-1, 1, 1) for each in parameters)
    return (x - mean) / np.sqrt(var + (node.attribute("epsilon") or 1e-5)) * scale + bias


def _local_response_norm(node: Node, x: np.ndarray) -> np.ndarray:
    size, alpha, beta = node.attribute("size"), node.attribute("alpha"), node.attribute("beta")
    bias = 1.0 if node.attribute("bias") is None else node.attribute("bias")
    before, after = math.floor((size - 1) / 2), math.ceil((size - 1) / 2)
    squares = x.astype(np.float64) ** 2
    windows = [squares[:, max(0, channel - before) : channel + after + 1].sum(axis=1) for channel in range(x.shape[1])]
    return x / (bias + alpha / size * np.stack(windows, axis=1)) ** beta


def _flat_softmax(node: Node, x: np.ndarray) -> np.ndarray:
    """Before opset 13 Softmax took everything from its axis on as one."""
    flat = x.reshape(x.shape[0], -1).astype(np.float64)
    exponents = np.exp(flat - flat.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).reshape(x.shape)


# The reference evaluator is wrong on these, as of opset 9: it normalizes with the batch's own statistics, looks at as
# many channels as there are samples, and takes a later opset's axis.
_BY_HAND: dict[str, Callable[..., np.ndarray]] = {
    "BatchNormalization": _batch_norm,
    "LRN": _local_response_norm,
    "Softmax": _flat_softmax,
}


def _array_difference(found: np.ndarray, expected: np.ndarray, rtol: float, atol: float) -> str:
    if found.shape != expected.shape:
        return f"shape {found.shape}, expected {expected.shape}"
    if found.dtype.kind in "OU" or expected.dtype.kind in "OU":
        return "" if np.array_equal(found.astype(object), expected.astype(object)) else "strings differ"
    if found.dtype != expected.dtype:
        return f"type {found.dtype}, expected {expected.dtype}"
    if found.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)  # two units in the last place
    if found.dtype.kind not in "fiubc":
        found, expected = found.astype(np.float32), expected.astype(np.float32)
    with np.errstate(all="ignore"):
        same = np.isclose(found, expected, rtol=rtol, atol=atol, equal_nan=True)
    return "" if same.all() else f"{np.count_nonzero(~same)} of {same.size} numbers differ"


def _stored(folder: Path, kind: str, declared: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    values = []
    for number in range(len(list(folder.glob(f"{kind}_*.pb")))):
        content = (folder / f"{kind}_{number}.pb").read_bytes()
        if declared[number].type.HasField("sequence_type"):
            values.append(numpy_helper.to_list(onnx.SequenceProto.FromString(content)))
        elif declared[number].type.HasField("optional_type"):
            values.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(content)))
        else:
            values.append(numpy_helper.to_array(onnx.TensorProto.FromString(content)))
    return values


def _plain(value: Any) -> Any:
    """Test cases hold TensorProtos and numpy scalars among their arrays."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value
