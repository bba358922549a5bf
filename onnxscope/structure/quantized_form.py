"""In which form of few bits a model is, and which changes of its structure are nothing but that form."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import onnx

from onnxscope.model.encodings import encoding_of
from onnxscope.model.loading import Model
from onnxscope.operators.table import operator_of
from onnxscope.structure.compare_records import NodeChange

__all__ = ["Form", "Partner", "form_of", "partner_of"]

_HALF = ("float16", "bfloat16")
_ABSORBED = ("Relu", "Clip")  # what limits a value is done by the limits of its codes
_SCALING = re.compile(r"(scale|zero_point)\Z|(?:\A|\.)\d+\Z")  # operands of what knows no names for them are numbered
_ONLY = re.compile(r"(?:[\d,]+ more of )?(\S+)(?: (.*))? (?:is|are) only in the")


@dataclass(frozen=True)
class Form:
    """How a model holds its numbers, where that is not full precision.

    Attributes:
        text: In words: `dynamic int8`, `int4 weights`, `float16`.
        layers: How many layers have a weight in that form.
        total: How many there are.
        is_quantized: Whether weights are codes; else they are floating-point numbers of half precision.
    """

    text: str
    layers: int
    total: int
    is_quantized: bool


def form_of(model: Model) -> Form | None:
    """Return the form that a model is in, None where it is in full precision."""
    types: Counter[str] = Counter()
    halves: Counter[str] = Counter()
    for layer in model.layers:
        kinds = set()
        for operand in (one for node in layer.parts for one in model.names.operands(node)):
            if not operand.role.startswith("weight"):
                continue
            graph = model.graphs[operand.node.path]
            encoding = encoding_of(graph, operand)
            tensor = None if operand.origin is None else graph.stored(operand.origin.value)
            if encoding is not None and tensor is not None:
                name = _type_name(tensor.data_type)
                kinds.add(f"int{encoding.bits}" if encoding.packing else name)
            elif tensor is not None and _type_name(tensor.data_type) in _HALF:
                halves[_type_name(tensor.data_type)] += 1
                break
        types.update(sorted(kinds)[:1])
    total = len(model.layers)
    if types:
        name = types.most_common(1)[0][0]
        return Form(_words(model, name), sum(types.values()), total, is_quantized=True)
    if halves:
        return Form(halves.most_common(1)[0][0], sum(halves.values()), total, is_quantized=False)
    return None


@dataclass(frozen=True)
class Partner:
    """The one of two models that is in a form of few bits.

    Attributes:
        model: That model.
        is_second: Whether it is the second.
        form: Its form.
    """

    model: Model
    is_second: bool
    form: Form

    @property
    def text(self) -> str:
        """The form in words, with how many layers are in it."""
        form = self.form
        what = "quantized" if form.is_quantized else "half precision"
        where = "" if self.is_second else " (the first model)"
        return f"{what}{where}: {form.text}, {form.layers:,} of {form.total:,} layers"

    def explains(self, change: NodeChange) -> bool:
        """Whether a change is nothing but the form: nodes and operands that turn numbers into codes and back.

        So are the scales and zero points of an operator of integers, the operator itself in place of that of real
        numbers, and a Relu or Clip that the limits of codes stand for.
        """
        old, new = (change.expected, change.found) if self.is_second else (change.found, change.expected)
        if not self.form.is_quantized:
            return change.what == "node" and "Cast" in change.message.split(" is only")[0].split()
        if change.what == "op_type":
            return self._turns(new) and (old in _ABSORBED or self._turns(new, old) or self._is_done_in_codes(old))
        if change.what == "node":
            found = _ONLY.match(change.message)
            return found is not None and self._has_node(found[1], found[2] or "", alone=old is None)
        if "nowhere" in (old, new):
            return bool(old != new)  # operands of the two operators have other names
        return old is None and new is not None and _SCALING.search(change.what) is not None

    def _has_node(self, op_type: str, label: str, *, alone: bool) -> bool:
        if alone:
            return self._turns(op_type) or (op_type, label) in self._steering or (not label and op_type in self._kinds)
        return op_type in _ABSORBED or self._is_done_in_codes(op_type)

    def _is_done_in_codes(self, op_type: str) -> bool:
        """Whether another operator does the same on codes somewhere in the model."""
        kind = operator_of(op_type.removeprefix("com.microsoft."), "com.microsoft" if "." in op_type else "").kind
        return any(operator_of(one).kind == kind for one in self._codes)

    @staticmethod
    def _turns(op_type: str, instead_of: str = "") -> bool:
        """Whether an operator makes codes, or real numbers of them, or works on them (in place of another one)."""
        operator = operator_of(op_type.removeprefix("com.microsoft."), "com.microsoft" if "." in op_type else "")
        if instead_of:
            return operator.kind == operator_of(instead_of).kind
        works = operator.quantizes or operator.integers or operator.gives_codes is not None
        return works or operator.passes_on == "dequantized"

    @cached_property
    def _codes(self) -> frozenset[str]:
        """The operators that work on codes."""
        nodes = [node for graph in self.model.graphs.values() for node in graph.nodes]
        return frozenset(node.op_type for node in nodes if node.operator.gives_codes is not None)

    @cached_property
    def _steering(self) -> frozenset[tuple[str, str]]:
        """Operator and name of the nodes that compute scales alone, or make real numbers of sums of codes."""
        named = []
        for graph in self.model.graphs.values():
            scales: set[str] = set()
            for node in graph.nodes:
                if node.op_type == "DynamicQuantizeLinear":
                    scales.update(node.outputs[1:])
                    continue
                read = [name for name in node.inputs if name and name not in graph.constants]
                if read and scales.issuperset(read):
                    scales.update(node.outputs)
                    named.append((node.op_type, node.name))
                producer = graph.producers.get(node.inputs[0]) if node.inputs else None
                if node.operator.passes_on == "cast" and producer is not None and producer.operator.integers:
                    named.append((node.op_type, node.name))
        return frozenset(named)

    @cached_property
    def _kinds(self) -> frozenset[str]:
        return frozenset(op_type for op_type, _ in self._steering)


def partner_of(a: Model, b: Model) -> Partner | None:
    """Return which of two models is in a form of few bits that the other is not in; None where neither is."""
    forms = form_of(a), form_of(b)
    if forms[1] is not None and (forms[0] is None or forms[0].text != forms[1].text):
        return Partner(b, True, forms[1])
    if forms[0] is not None and forms[1] is None:
        return Partner(a, False, forms[0])
    return None


def _words(model: Model, name: str) -> str:
    """The kind of quantization, by what makes codes of activations."""
    nodes = [node for graph in model.graphs.values() for node in graph.nodes]
    kind: Literal["QOperator", "QDQ", "dynamic", ""] = ""
    if any(node.operator.gives_codes is not None for node in nodes):
        kind = "QOperator"
    elif any(node.op_type == "QuantizeLinear" for node in nodes):
        kind = "QDQ"
    elif any(node.operator.quantizes for node in nodes):
        kind = "dynamic"
    return {"QOperator": f"static {name} (QOperator)", "QDQ": f"static {name} (QDQ)", "dynamic": f"dynamic {name}"}.get(
        kind, f"{name} weights"
    )


def _type_name(data_type: int) -> str:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type)).name
