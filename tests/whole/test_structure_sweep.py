"""Every standard operator with one attribute or one constant changed: `diff` and `check` say so without data.

Where they do not, onnx's reference evaluator has to give the same outputs. The plain suite runs a sample of the
operators; `make acceptance` runs all of them, and prints the counts.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import AttributeProto, defs, helper, numpy_helper
from onnx_cases import Case, difference, node_cases, with_stored_inputs

from onnxscope import check, diff, snapshot, weights
from onnxscope.errors import OnnxscopeError


@dataclass
class Sweep:
    """What became of the changes."""

    operators: set[str] = field(default_factory=set)
    told: int = 0
    same: list[str] = field(default_factory=list)  # changes that the reference evaluator shows to mean the same
    refused: list[str] = field(default_factory=list)  # changes that make a model that contradicts itself
    silent: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)  # defaults written out that were told
    unread: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.operators)} operators: {self.told} changes told, {len(self.same)} mean the same, "
            f"{len(self.refused)} contradict themselves, {len(self.silent)} silent; "
            f"{len(self.alarms)} alarms for defaults written out; {len(self.unread)} models cannot be read"
        )

    @property
    def faults(self) -> list[str]:
        """What is wrong; QLinearConv's case is of opset 10, whose DequantizeLinear has no axis."""
        return [*self.silent, *self.alarms, *(text for text in self.unread if not text.startswith("QLinearConv:"))]


def first_of_each(cases: list[Case]) -> dict[str, Case]:
    """The first case of one node for every operator."""
    first: dict[str, Case] = {}
    for case in cases:
        if len(case.model.graph.node) == 1 and not case.model.functions:
            first.setdefault(case.model.graph.node[0].op_type, case)
    return first


def changed_constants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    for place, tensor in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(tensor).copy()
        if not values.size or values.dtype.kind not in "biuf":
            continue
        last = values.reshape(-1)[-1:]
        last[:] = ~last if values.dtype.kind == "b" else last + values.dtype.type(1)  # the largest integer wraps round
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        copy.graph.initializer[place].CopyFrom(numpy_helper.from_array(values, tensor.name))
        yield f"input {tensor.name}", copy


def another(attribute: AttributeProto) -> AttributeProto | None:
    """The attribute with another value."""
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return helper.make_attribute(attribute.name, value + b"_other")
    if isinstance(value, int):
        return helper.make_attribute(attribute.name, value + 1)
    if isinstance(value, float):
        return helper.make_attribute(attribute.name, value * 2 + 0.5)
    if isinstance(value, list) and value and isinstance(value[0], (int, float)):
        return helper.make_attribute(attribute.name, [*value[:-1], value[-1] + 1])
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return helper.make_attribute(attribute.name, [*value[:-1], value[-1] + b"_other"])
    if isinstance(value, onnx.TensorProto) and value.data_type == onnx.TensorProto.FLOAT:
        return helper.make_attribute(attribute.name, numpy_helper.from_array(numpy_helper.to_array(value) + 1))
    return None


def with_attribute(model: onnx.ModelProto, attribute: AttributeProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = copy.graph.node[0]
    kept = [stored for stored in node.attribute if stored.name != attribute.name]
    del node.attribute[:]
    node.attribute.extend([*kept, attribute])
    return copy


def defaults_left_out(model: onnx.ModelProto) -> list[AttributeProto]:
    node = model.graph.node[0]
    versions = {entry.domain: entry.version for entry in model.opset_import}
    schema = defs.get_schema(node.op_type, versions[node.domain], node.domain)
    written = {stored.name for stored in node.attribute}
    defaults = [(name, stored.default_value) for name, stored in schema.attributes.items() if name not in written]
    return [default for _, default in defaults if default.type != AttributeProto.UNDEFINED]


def changes(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    yield from changed_constants(model)
    for attribute in (*model.graph.node[0].attribute, *defaults_left_out(model)):
        other = another(attribute)
        if other is not None:
            yield f"attribute {attribute.name}", with_attribute(model, other)


def is_refused(case: Case, model: onnx.ModelProto) -> bool:
    """Whether nothing runs a model."""
    from onnxscope.runtime.session import Session

    names = {value.name for value in model.graph.input}
    try:
        session = Session(model, folder=None, where=case.name, threads=1)
        session.run({name: array for name, array in case.feeds.items() if name in names})
    except OnnxscopeError:
        return True
    return False


def means_the_same(case: Case, model: onnx.ModelProto, changed: onnx.ModelProto) -> bool:
    """Whether the reference evaluator gives the same outputs for both."""
    from onnx.reference import ReferenceEvaluator

    names = {value.name for value in model.graph.input}
    feeds = {name: array for name, array in case.feeds.items() if name in names}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            answers = [ReferenceEvaluator(proto).run(None, feeds) for proto in (model, changed)]
    except Exception:
        return False
    return not difference(answers[1], answers[0], 0, 0)


def sweep(cases: dict[str, Case]) -> Sweep:
    found = Sweep()
    for op_type, case in cases.items():
        model = with_stored_inputs(case)
        try:
            baseline = snapshot(model)
        except OnnxscopeError as error:
            found.unread.append(f"{op_type}: {error}")
            continue
        found.operators.add(op_type)
        for default in defaults_left_out(model):
            written = with_attribute(model, default)
            if not (diff(model, written).equal and check(written, baseline).ok):
                found.alarms.append(f"{op_type} {default.name}")
        for name, changed in changes(model):
            if not diff(model, changed).equal and not check(changed, baseline).ok:
                found.told += 1
            elif means_the_same(case, model, changed):
                found.same.append(f"{op_type} {name}")
            elif is_refused(case, changed) and not is_refused(case, model):
                found.refused.append(f"{op_type} {name}")
            else:
                found.silent.append(f"{op_type} {name}")
    return found


def test_a_change_of_a_sample_of_the_operators_is_told_without_data():
    cases = first_of_each(node_cases())
    found = sweep(dict(list(cases.items())[::8]))
    print(found)
    assert found.faults == []
    assert len(found.operators) > 20
    assert found.told > 40


@pytest.mark.acceptance
def test_a_change_of_any_operator_is_told_without_data():
    found = sweep(first_of_each(node_cases()))
    print(found)
    print("means the same:", ", ".join(found.same))
    assert found.faults == []
    assert len(found.operators) > 150
    assert found.told > 300


def test_a_group_that_does_not_divide_the_channels_is_no_traceback():
    text = """
        <ir_version: 9, opset_import: ["": 18]>
        g (float[1, 1, 4, 4] x) => (y) { y = ConvTranspose<group = 2>(x, w) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3), "w"))
    (row,) = weights(model)
    assert row.summary.overall.max == 17
