"""What may be wrong about a part of the second model: edits of its nodes, the likeliest and simplest first.

Where the first model has a node of the same operator in the same place, nothing but what the two do not share is a
hypothesis: to edit what they share would mend it by chance. The table of choices is for nodes without such a partner.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.explaining.choices import BEFORE_THERE_WAS, EXCHANGED, as_called, choices_of
from onnxscope.explaining.code_edits import code_edits
from onnxscope.explaining.edits import Edit, become, exchange, hand_on, set_attribute, set_operands, soften_whole
from onnxscope.explaining.folded_norms import fold_edits
from onnxscope.explaining.parameters import Parameter, is_same, parameters_of, plain, schema_for
from onnxscope.explaining.rewirings import layout_edits, widening_edits
from onnxscope.explaining.weight_edits import weight_edits
from onnxscope.explaining.written_forms import activation_edits
from onnxscope.extracting.chosen_part import Part
from onnxscope.model.graphs import Node, Step
from onnxscope.model.loading import Model
from onnxscope.structure.attributes import default_of

__all__ = ["Hypothesis", "hypotheses", "other_values", "pair_nodes"]

_SOFTENING = ("Softmax", "LogSoftmax", "Hardmax")
_ALONG_ONE_AXIS = 13  # the operator set from which on a Softmax is along one axis
_MOST_ORDERS = 6
_ROUNDING = frozenset(
    {"Cast", "Round", "Floor", "Ceil", "Identity", "Clip", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Transpose"}
)


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """Something that may be wrong.

    Attributes:
        edits: Which together mend it.
        is_of_a: Whether they give the second model's node what the first one's has.
        parameter: What is edited, of one edit of a parameter.
        leaves: The type of codes to which the second model rounds, so that an edit leaves the rounding; else empty.
    """

    edits: tuple[Edit, ...]
    is_of_a: bool
    parameter: Parameter | None = None
    leaves: str = ""


def hypotheses(models: tuple[Model, Model], parts: tuple[Part, Part]) -> Iterator[Hypothesis]:
    """Yield what may be wrong about the second part.

    Args:
        models: Both.
        parts: Of both, of the main graph, which should compute the same; bodies of their nodes belong to them.
    """
    pairs = _with_bodies(models, pair_nodes(parts[0].nodes, parts[1].nodes))
    pairs += _of_constants(models, pairs)
    every = _nodes_of(models[1], parts[1].nodes)
    partners = {right: left for left, right in pairs}
    differing: list[Hypothesis] = []
    for left, right in pairs:
        if left.op_type == right.op_type:
            differing += _differing(models, left, right)
    yield from differing
    if len(differing) > 1:
        yield _together(differing)
    widening = widening_edits(models, parts, pairs)
    if widening:
        yield Hypothesis(widening, is_of_a=True)
    for edit in chain(activation_edits(models, parts), fold_edits(models, parts, pairs)):
        yield Hypothesis((edit,), is_of_a=True)
    for edit, kind in code_edits(models, pairs):
        yield Hypothesis((edit,), is_of_a=True, leaves=kind)
    others = [each for left, right in pairs for each in _of_pair(models, left, right)]
    yield from others
    if others and len(differing) + len(others) > 1:
        yield _together([*differing, *others])
    for right in every:
        yield from _exchanged(right)
    layouts = [Hypothesis((edit,), is_of_a) for edit, is_of_a in layout_edits(models, parts)]
    yield from (each for each in layouts if each.is_of_a)
    for right in every:
        if right not in partners:
            yield from _of_table(models[1], right)
        partner = partners.get(right)
        if partner is None or partner.op_type != right.op_type:
            yield from _left_out(right)
    yield from (each for each in layouts if not each.is_of_a)


def _together(hypotheses: Sequence[Hypothesis]) -> Hypothesis:
    """Several faults in one part, each of which the first model has otherwise."""
    return Hypothesis(tuple(edit for each in hypotheses for edit in each.edits), is_of_a=True)


def pair_nodes(first: Sequence[Node], second: Sequence[Node]) -> list[tuple[Node, Node]]:
    """Return nodes that stand in the same place of two parts: by name, by their operators in order, then by order."""
    names = [{node.name: node for node in nodes if node.name} for nodes in (first, second)]
    pairs = [
        (node, names[1][name])
        for name, node in names[0].items()
        if name in names[1] and names[1][name].op_type == node.op_type
    ]
    rest = [
        [node for node in nodes if node not in {pair[side] for pair in pairs}]
        for side, nodes in enumerate((first, second))
    ]
    kinds = [[node.op_type for node in nodes] for nodes in rest]
    matcher = difflib.SequenceMatcher(None, kinds[0], kinds[1], autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag == "equal" or (tag == "replace" and end - start == other_end - other_start):
            pairs += zip(rest[0][start:end], rest[1][other_start:other_end], strict=True)
    return pairs


def _with_bodies(models: tuple[Model, Model], pairs: list[tuple[Node, Node]]) -> list[tuple[Node, Node]]:
    """The pairs, and those of the bodies that their nodes hold under one name."""
    found = list(pairs)
    for left, right in pairs:
        bodies = [_bodies(model, node) for model, node in zip(models, (left, right), strict=True)]
        for name, nodes in bodies[0].items():
            found += _with_bodies(models, pair_nodes(nodes, bodies[1].get(name, ())))
    return found


def _of_constants(models: tuple[Model, Model], pairs: Sequence[tuple[Node, Node]]) -> list[tuple[Node, Node]]:
    """Nodes that compute the same constant of two nodes, such as what makes real numbers of codes."""
    found: list[tuple[Node, Node]] = []
    for left, right in pairs:
        for names in zip(left.inputs, right.inputs, strict=False):
            graphs = [model.graphs[node.path] for model, node in zip(models, (left, right), strict=True)]
            makers = [
                graph.producers.get(name) if name in graph.constants else None
                for graph, name in zip(graphs, names, strict=True)
            ]
            if makers[0] is None or makers[1] is None or makers[0].op_type != makers[1].op_type:
                continue
            if makers[0].inputs and (makers[0], makers[1]) not in found:
                found.append((makers[0], makers[1]))
    return found + (_of_constants(models, found) if found else [])


def _nodes_of(model: Model, nodes: Sequence[Node]) -> list[Node]:
    """The nodes, and those of their bodies."""
    return [each for node in nodes for each in (node, *(_nodes_of(model, [*chain(*_bodies(model, node).values())])))]


def _bodies(model: Model, node: Node) -> dict[str, Sequence[Node]]:
    """What a node's bodies compute of what changes, by the attribute that holds each."""
    found: dict[str, Sequence[Node]] = {}
    for stored in node.proto.attribute:
        graph = model.graphs.get((*node.path, Step(node.index, stored.name))) if stored.HasField("g") else None
        if graph is not None:
            found[stored.name] = [inner for inner in graph.nodes if inner.op_type != "Constant"]
    return found


def other_values(model: Model, hypothesis: Hypothesis) -> Iterator[Hypothesis]:
    """Yield other values of the same parameter, of which it may be that they mend it as well."""
    if hypothesis.parameter is None or len(hypothesis.edits) != 1:
        return
    (edit,) = hypothesis.edits
    for value in choices_of(edit.node.op_type, edit.what):
        if not is_same(value, edit.wanted) and not is_same(value, edit.found):
            yield from _with_value(model, edit.node, hypothesis.parameter, value, is_of_a=False)


def _differing(models: tuple[Model, Model], left: Node, right: Node) -> Iterator[Hypothesis]:
    """What two nodes of one operator do not share, defaults included."""
    wanted, found = parameters_of(models[0], left), parameters_of(models[1], right)
    schema = schema_for(models[1], right)
    for name in dict.fromkeys((*wanted, *found)):
        value = wanted[name].value if name in wanted else BEFORE_THERE_WAS.get((left.op_type, name))
        if name not in wanted and value is None and is_same(found[name].value, plain(default_of(schema, name))):
            continue  # a later operator set's way to say what was always so
        has = found.get(name) or _absent(models[1], right, wanted[name])
        if has is not None and not is_same(*(as_called(left.op_type, each) for each in (value, has.value))):
            yield from _with_value(models[1], right, has, value, is_of_a=True)


def _absent(model: Model, node: Node, parameter: Parameter) -> Parameter | None:
    """Where a node takes what it does not have: its operator set may take an operand for an attribute."""
    schema = schema_for(model, node)
    if schema is None:
        return Parameter(parameter.name, None, None, parameter.kind) if parameter.kind else None
    for position, operand in enumerate(schema.inputs):
        if operand.name == parameter.name:
            computed = position < len(node.inputs) and node.inputs[position]
            return None if computed else Parameter(parameter.name, None, position, 0)
    return None


def _with_value(model: Model, node: Node, parameter: Parameter, value: Any, *, is_of_a: bool) -> Iterator[Hypothesis]:
    if parameter.position is None:
        if parameter.kind == 4 and value is not None:
            return  # a tensor is no choice
        wanted = plain(value)
        if isinstance(wanted, str):
            wanted = as_called(node.op_type, wanted, model.opsets.get("ai.onnx", 1))
        if isinstance(wanted, list) and parameter.kind in (1, 2, 3):
            wanted = wanted[0] if len(wanted) == 1 else None
        if isinstance(wanted, int | float) and parameter.kind in (6, 7):
            wanted = [wanted]
        if wanted is not None and parameter.kind == 1:
            wanted = float(wanted)
        change = set_attribute(parameter.name, wanted, parameter.kind)
        edit = Edit(node, "attribute", parameter.name, plain(parameter.value), wanted, change)
    else:
        held = None if value is None else _as_operand(model, node, parameter, value)
        edit = Edit(
            node,
            "operand",
            parameter.name,
            plain(parameter.value),
            None if held is None else plain(held),
            set_operands({parameter.position: held}),
        )
    yield Hypothesis((edit,), is_of_a, parameter)


def _as_operand(model: Model, node: Node, parameter: Parameter, value: Any) -> NDArray[Any]:
    """A value as the operand of a node, which has an element type of its own."""
    array = np.asarray(value)
    if isinstance(parameter.value, np.ndarray):
        array = array.astype(parameter.value.dtype)
        return array.reshape(parameter.value.shape) if array.size == parameter.value.size else array
    if array.dtype.kind in "iu" and parameter.name not in ("min", "max", "constant_value"):
        return np.atleast_1d(array.astype(np.int64)) if not isinstance(value, np.ndarray) else array
    if not isinstance(value, np.ndarray):
        dtype = model.dtype_of(model.graphs[node.path], node.inputs[0])
        array = array.astype(dtype if dtype in ("float16", "float64", "int32", "int64", "int8", "uint8") else "float32")
    return array


def _of_pair(models: tuple[Model, Model], left: Node, right: Node) -> Iterator[Hypothesis]:
    """What nodes in the same place may have but parameters: their operators, weights, and meaning by operator set."""
    sets = [model.opsets.get("ai.onnx", 1) for model in models]
    if left.op_type != right.op_type:
        if len(left.inputs) == len(right.inputs) and not any(stored.HasField("g") for stored in left.proto.attribute):
            change = become(left.op_type, left.domain, left.proto.attribute)
            says = f"stands where A has {_article(left.op_type)}"
            edit = Edit(right, "operator", right.op_type, right.op_type, f"with `{left.op_type}`", change, says)
            yield Hypothesis((edit,), is_of_a=True)
        return
    if right.op_type in _SOFTENING and right.is_standard and sets[0] < _ALONG_ONE_AXIS <= sets[1]:
        axis = left.attribute("axis")
        edit = Edit(
            right,
            "operator",
            "axis",
            None,
            f"with all from axis {1 if axis is None else axis} on as one, as before operator set 13, ",
            soften_whole(1 if axis is None else int(axis)),
            "is along one axis",
        )
        yield Hypothesis((edit,), is_of_a=True)
    for edits in weight_edits(models, left, right):
        yield Hypothesis(edits, is_of_a=True)


def _exchanged(node: Node) -> Iterator[Hypothesis]:
    if not node.is_standard:
        return
    orders = [order for order in EXCHANGED.get(node.op_type, ()) if len(order) == len(node.inputs)]
    for order in orders[:_MOST_ORDERS]:
        says = f"takes its inputs in another order than A's: {[place + 1 for place in order]}"
        wanted = "with them exchanged" if len(order) == 2 else f"with them in the order {[one + 1 for one in order]}"
        edit = Edit(node, "inputs", "inputs", list(range(len(order))), wanted, exchange(order), says)
        yield Hypothesis((edit,), is_of_a=False)


def _of_table(model: Model, node: Node) -> Iterator[Hypothesis]:
    """The usual values of a node that the first model has no partner of."""
    for parameter in parameters_of(model, node).values():
        for value in choices_of(node.op_type, parameter.name):
            if not is_same(value, parameter.value):
                yield from _with_value(model, node, parameter, value, is_of_a=False)


def _left_out(node: Node) -> Iterator[Hypothesis]:
    """A node of the second model alone that does nothing but round, or bend, one value."""
    if node.op_type in _ROUNDING and node.is_standard:
        edit = Edit(node, "operator", "node", node.op_type, "without it", hand_on, "is one that A has not")
        yield Hypothesis((edit,), is_of_a=False)


def _article(op_type: str) -> str:
    return f"{'an' if op_type[:1] in 'AEIO' else 'a'} `{op_type}`"
