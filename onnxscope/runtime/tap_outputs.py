"""The graph rewriter: taps become extra graph outputs.

    x -> Conv -> Relu -> Gemm -> y          expose(h)         x -> Conv -> Relu -> Gemm -> y
                    h                                                         h ----------> h

The model's own outputs stay, in order, with their types. A value inside the body of an If, a Loop or a Scan is lifted
out one level at a time: the body gives it as one more output, and so does the node that owns the body.

    If    the other branch gives an empty constant of the same element type in its place; its rank of eight is the
          mark of a branch that was not executed
    Loop  the value becomes a scan output: one entry per iteration, stacked along a new axis 0
    Scan  the same
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxscope.base.text import printable
from onnxscope.model.graphs import Step, ValueType
from onnxscope.model.loading import Model
from onnxscope.runtime.custom_operators import cut_off, reason_cut_off
from onnxscope.runtime.nodes import opset_of
from onnxscope.selection.selectors import Tap

__all__ = [
    "TappedModel",
    "Unreachable",
    "body_at",
    "expose",
    "lift",
    "unused_prefix",
    "was_not_executed",
]

_NOT_EXECUTED_RANK = 8
_RANKS_APART_SINCE = 11
_LIFTING = {"If", "Loop", "Scan"}


@dataclass(frozen=True)
class Unreachable:
    """A tap that cannot be observed.

    Attributes:
        name: The tap's name.
        reason: Why, in a few words.
    """

    name: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """The record that results carry."""
        return {"name": self.name, "reason": self.reason}


@dataclass(frozen=True)
class TappedModel:
    """A copy of the model in which every tap is also a graph output.

    Attributes:
        proto: The copy; weights that were references still are.
        outputs: For each reachable tap the graph output that carries it, by the tap's name.
        unreachable: The other taps.
        declared: Names of the model's own outputs, which come first.
    """

    proto: ModelProto
    outputs: Mapping[str, str]
    unreachable: tuple[Unreachable, ...]
    declared: tuple[str, ...]


def expose(model: Model, taps: Iterable[Tap]) -> TappedModel:
    """Make every tap a graph output of a copy of the model.

    Args:
        model: It is not changed. Types are inferred where the element type of a value inside a body is not declared.
        taps: What to expose; a value that is an output already is not repeated.

    Returns:
        The tapped model. Types of new outputs are given where the model declares them, else left to onnxruntime.
    """
    copy = ModelProto()
    copy.CopyFrom(model.proto)
    rewriter = _Rewriter(model, copy)
    outputs: dict[str, str] = {}
    unreachable = []
    for tap in taps:
        try:
            outputs[tap.name] = rewriter.expose(tap)
        except _UnreachableError as error:
            unreachable.append(Unreachable(tap.name, str(error)))
    return TappedModel(copy, outputs, tuple(unreachable), model.main.outputs)


def _real_value(graph: GraphProto, tap: Tap, name: str) -> str:
    """Append what makes real numbers of a tap's codes to its graph, and return the name of their value."""
    assert tap.scale is not None
    graph.node.append(onnx.helper.make_node("DequantizeLinear", [tap.value, *tap.scale], [name]))
    return name


def lift(
    model: Model, copy: ModelProto, values: Iterable[tuple[tuple[Step, ...], str, int]], prefix: str
) -> dict[tuple[tuple[Step, ...], str], str]:
    """Make values that were added to bodies of a copy outputs of it.

    Args:
        model: What the copy was made from.
        copy: It is changed.
        values: The path of each one's graph, its name and its element type.
        prefix: That no name of the copy starts with.

    Returns:
        The outputs by path and name, of those that can be observed.
    """
    rewriter = _Rewriter(model, copy, prefix)
    outputs = {}
    for path, name, elem_type in values:
        with contextlib.suppress(_UnreachableError):
            outputs[path, name] = rewriter.lift(path, name, elem_type)
    return outputs


def was_not_executed(shape: tuple[int, ...]) -> bool:
    """Whether a lifted value's shape is the mark of a branch that was not executed."""
    return len(shape) >= _NOT_EXECUTED_RANK and 0 in shape


def unused_prefix(model: Model) -> str:
    """Return what no name of a value in the model starts with."""
    prefix = "onnxscope_"
    used = {name for graph in model.graphs.values() for name in (*graph.producers, *graph.inputs, *graph.initializers)}
    while any(name.startswith(prefix) for name in used):
        prefix += "_"
    return prefix


class _UnreachableError(Exception):
    pass


class _Rewriter:
    def __init__(self, model: Model, copy: ModelProto, prefix: str = "") -> None:
        self._model = model
        self._copy = copy
        self._outputs = {value.name for value in copy.graph.output}
        self._fresh = 0
        # Before operator set 11 both branches of an If have to give values of one rank, as far as it can be told.
        self._joins_ranks = opset_of(copy) < _RANKS_APART_SINCE
        self._prefix = prefix or unused_prefix(model)

    def expose(self, tap: Tap) -> str:
        graph = self._model.graphs[tap.path]
        declared = graph.types.get(tap.value)
        _refuse_non_tensors(declared)
        if tap.value in graph.blocked:
            raise _UnreachableError("its channels lie in blocks, a layout of onnxruntime's optimizer (NCHWc)")
        if not tap.path:
            self._refuse_cut_off((), tap.value)
            if tap.scale is not None:
                value = _real_value(self._copy.graph, tap, self._fresh_name("real"))
                self._copy.graph.output.add().name = value
                return value
            self._add_output(tap.value, declared)
            return tap.value
        if tap.scale is not None:
            value = _real_value(body_at(self._copy, tap.path), tap, self._fresh_name("real"))
            return self.lift(tap.path, value, TensorProto.FLOAT)
        return self.lift(tap.path, tap.value, declared.elem_type if declared else 0)

    def _refuse_cut_off(self, path: tuple[Step, ...], value: str) -> None:
        """Refuse what depends on an operator that onnxruntime does not know, also through the node around its body."""
        lost = cut_off(self._model)
        outside = self._copy.graph.node[path[0].node_index].output if path else (value,)
        operator = next((lost[name] for name in outside if name in lost), None)
        if operator is not None:
            raise _UnreachableError(reason_cut_off(operator))

    def _add_output(self, name: str, declared: ValueType | None) -> None:
        if name in self._outputs:
            return
        self._outputs.add(name)
        output = self._copy.graph.output.add()
        output.name = name
        if declared is not None and declared.elem_type and name in self._model.main.producers:
            output.CopyFrom(onnx.helper.make_tensor_value_info(name, declared.elem_type, declared.shape))

    def lift(self, path: tuple[Step, ...], value: str, elem_type: int) -> str:
        """Hand a value out of its body; the element type is 0 where it has to be inferred."""
        owners = self._owners(path)
        for owner in owners:
            if owner.op_type not in _LIFTING or owner.domain not in ("", "ai.onnx"):
                raise _UnreachableError(f"inside the body of {printable(owner.op_type)}, which cannot hand values out")
            if owner.op_type == "If":
                for branch in ("then_branch", "else_branch"):
                    _body(owner, branch)  # raises before anything is changed
        self._refuse_cut_off(path, value)
        if not elem_type:
            elem_type = self._inferred_type(path, value, needed=any(owner.op_type == "If" for owner in owners))
        for step, owner in zip(reversed(path), reversed(owners), strict=True):
            lifted = self._fresh_name("tap")
            if owner.op_type == "If" and self._joins_ranks:
                value = self._without_rank(_body(owner, step.attribute), value, elem_type)
            self._add_body_output(_body(owner, step.attribute), value, lifted + "_body")
            if owner.op_type == "If":
                other = "else_branch" if step.attribute == "then_branch" else "then_branch"
                _add_empty_output(_body(owner, other), lifted + "_absent", elem_type)
                if self._joins_ranks:
                    body = _body(owner, other)
                    body.output[-1].name = self._without_rank(body, lifted + "_absent", elem_type)
                _body(owner, step.attribute).output[-1].type.tensor_type.elem_type = elem_type
            else:
                self._pad_outputs(owner, _body(owner, step.attribute))
            owner.output.append(lifted)
            value = lifted
        self._copy.graph.output.add().name = value
        return value

    def _owners(self, path: tuple[Step, ...]) -> list[NodeProto]:
        owners = []
        graph = self._copy.graph
        for step in path:
            owner = graph.node[step.node_index]
            owners.append(owner)
            graph = _body(owner, step.attribute)
        return owners

    def _inferred_type(self, path: tuple[Step, ...], value: str, *, needed: bool) -> int:
        inferred = self._model.types.get(path, {}).get(value)
        _refuse_non_tensors(inferred)
        elem_type = inferred.elem_type if inferred else 0
        if needed and not elem_type:
            raise _UnreachableError("its element type cannot be inferred, and the other branch has to match it")
        return elem_type

    def _fresh_name(self, stem: str) -> str:
        """A name that the model does not use: none of its names starts with the prefix."""
        self._fresh += 1
        return f"{self._prefix}{stem}_{self._fresh}"

    @staticmethod
    def _add_body_output(body: GraphProto, value: str, name: str) -> None:
        body.node.append(onnx.helper.make_node("Identity", [value], [name]))
        body.output.add().name = name

    def _without_rank(self, body: GraphProto, value: str, elem_type: int) -> str:
        """The same value, of a rank that onnxruntime cannot tell before it runs, and the name of it.

        It goes once through a Loop: what a Loop carries may change its shape from run to run of the body.
        """
        once, count, condition, inside, goes_on, outside, result = (self._fresh_name("rank") for _ in range(7))
        make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
        bodies = [
            info(count, TensorProto.INT64, []), info(condition, TensorProto.BOOL, []), info(inside, elem_type, None)
        ], [info(goes_on, TensorProto.BOOL, []), info(outside, elem_type, None)]  # fmt: skip
        steps = [make("Identity", [condition], [goes_on]), make("Identity", [inside], [outside])]
        handed_on = onnx.helper.make_graph(steps, once, *bodies)
        body.node.extend(
            [
                make("Constant", [], [once], value=onnx.helper.make_tensor("", TensorProto.INT64, [], [1])),
                make("Loop", [once, "", value], [result], body=handed_on),
            ]
        )
        return result

    def _pad_outputs(self, owner: NodeProto, body: GraphProto) -> None:
        """Name the trailing outputs that the owner leaves out, so that a new one comes to stand behind them."""
        own_outputs = len(body.output) - (1 if owner.op_type == "Loop" else 0) - 1
        while len(owner.output) < own_outputs:
            owner.output.append(self._fresh_name("unused"))
        for attribute in owner.attribute:
            if attribute.name in ("scan_output_axes", "scan_output_directions"):
                attribute.ints.append(0)


def _refuse_non_tensors(declared: ValueType | None) -> None:
    if declared is not None and declared.kind != "tensor":
        article = "an" if declared.kind == "optional" else "a"
        raise _UnreachableError(f"{article} {declared.kind.replace('_', ' ')}, not a tensor")
    if declared is not None and declared.dtype == "str":
        raise _UnreachableError("strings have no statistics")


def body_at(copy: ModelProto, path: tuple[Step, ...]) -> GraphProto:
    """Return the graph of a copy that a path leads to."""
    graph = copy.graph
    for step in path:
        graph = _body(graph.node[step.node_index], step.attribute)
    return graph


def _body(owner: NodeProto, name: str) -> GraphProto:
    for attribute in owner.attribute:
        if attribute.name == name and attribute.type == AttributeProto.GRAPH:
            body: GraphProto = attribute.g
            return body
    raise _UnreachableError(f"{printable(owner.op_type)} has no {printable(name)}")


def _add_empty_output(body: GraphProto, name: str, elem_type: int) -> None:
    empty = TensorProto(data_type=elem_type, dims=[0] * _NOT_EXECUTED_RANK)
    body.node.append(onnx.helper.make_node("Constant", [], [name], value=empty))
    body.output.append(onnx.helper.make_tensor_value_info(name, elem_type, None))
