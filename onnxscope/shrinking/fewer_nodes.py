"""Fewer nodes: what comes behind the fault, what comes before it, and what it does not need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper

from onnxscope.shrinking.case import Case, bodies, changed, copied, read_by, renamed, with_nodes, with_outputs
from onnxscope.shrinking.search import Search

__all__ = ["cut_nodes", "open_bodies", "simplify_nodes"]


def cut_nodes(search: Search) -> None:
    """Cut off what comes behind the fault and what comes before it, then every node that it does not need."""
    _cut_behind(search)
    _fewer_outputs(search)
    _cut_before(search)
    _cut_each(search)
    _fewer_outputs(search)


def _cut_behind(search: Search) -> None:
    """By bisection: the fewest first nodes that show the fault."""
    whole = search.case
    low, high = 0, len(whole.proto.graph.node)
    while high - low > 1 and not search.is_over:
        middle = (low + high) // 2
        if search.keeps(_first_nodes(whole, middle)):
            high = middle
        else:
            low = middle
    if high < len(whole.proto.graph.node):
        last = whole.proto.graph.node[high - 1]
        search.keeps(with_outputs(search.case, [value for value in last.output if value]))
    elif whole.proto.graph.node:
        last = whole.proto.graph.node[-1]
        named = [value for value in last.output if value]
        if set(named) != set(whole.outputs):
            search.keeps(with_outputs(whole, named))


def _first_nodes(case: Case, count: int) -> Case:
    nodes = case.proto.graph.node[:count]
    read = {value for node in nodes for value in read_by(node)}
    given = [value for node in nodes for value in node.output if value]
    outputs = set(case.outputs)
    return with_outputs(case, [value for value in given if value not in read or value in outputs])


def _fewer_outputs(search: Search) -> None:
    outputs = search.case.outputs
    if len(outputs) > 1 and not search.first(with_outputs(search.case, [name]) for name in outputs):
        for name in outputs:
            rest = [other for other in search.case.outputs if other != name]
            if rest:
                search.keeps(with_outputs(search.case, rest))


def _cut_before(search: Search) -> None:
    """By bisection: the fewest last nodes that show the fault."""
    whole = search.case
    low, high = 0, len(whole.proto.graph.node)
    while high - low > 1 and not search.is_over:
        middle = (low + high) // 2
        search.case, kept = whole, search.case
        case = _without(search, range(middle))
        search.case = kept
        if case is not None and search.keeps(case):
            low = middle
        else:
            high = middle


def _cut_each(search: Search) -> None:
    """Cut off single nodes, larger groups first, until every one is needed."""
    size = max(1, len(search.case.proto.graph.node) // 2)
    while not search.is_over:
        start, found = 0, False
        while start < len(search.case.proto.graph.node):
            count = len(search.case.proto.graph.node)
            case = _without(search, range(start, min(start + size, count))) if count > size else None
            if (case is not None and search.keeps(case)) or (size == 1 and search.first(_bypassed(search, start))):
                found = True
            else:
                start += size
        if size == 1 and not found:
            return
        size = max(1, size // 2)


def _without(search: Search, places: range) -> Case | None:
    """The case without some nodes, whose values become inputs; None where they cannot."""
    nodes = search.case.proto.graph.node
    rest = [node for place, node in enumerate(nodes) if place not in places]
    gone = {value for place in places for value in nodes[place].output if value}
    outputs = set(search.case.outputs)
    needed = {value for node in rest for value in read_by(node)} & gone
    if gone & outputs or not rest:
        return None
    values = search.values(sorted(needed))
    try:
        return None if values is None else with_nodes(search.case, rest, values)
    except TypeError:
        return None


def _bypassed(search: Search, place: int) -> Iterator[Case]:
    """Cases in which an input of a node takes the place of its first output."""
    case = search.case
    nodes = list(case.proto.graph.node)
    node = nodes[place]
    outputs = [value for value in node.output if value]
    if len(outputs) != 1 or outputs[0] in case.outputs:
        return
    for value in dict.fromkeys(filter(None, node.input)):
        names = {outputs[0]: value}
        yield with_nodes(case, [renamed(other, names) for other in nodes if other is not node])


def simplify_nodes(search: Search) -> None:
    """Drop attributes, optional inputs and outputs that the fault does not need."""
    for place in range(len(search.case.proto.graph.node)):
        for attribute in [each.name for each in search.case.proto.graph.node[place].attribute]:
            proto = copied(search.case.proto)
            kept = [each for each in proto.graph.node[place].attribute if each.name != attribute]
            del proto.graph.node[place].attribute[:]
            proto.graph.node[place].attribute.extend(kept)
            search.keeps(changed(search.case, proto))
        for index in reversed(range(len(search.case.proto.graph.node[place].input))):
            node = search.case.proto.graph.node[place]
            if index < len(node.input) and node.input[index] and not _is_required(search.case, node, index):
                proto = copied(search.case.proto)
                _drop(proto.graph.node[place].input, index)
                search.keeps(changed(search.case, proto))
        for index in reversed(range(len(search.case.proto.graph.node[place].output))):
            node = search.case.proto.graph.node[place]
            named = [value for value in node.output if value]
            given = node.output[index] if index < len(node.output) else ""
            if given in named[1:] and given not in search.case.outputs:
                proto = copied(search.case.proto)
                _drop(proto.graph.node[place].output, index)
                search.keeps(changed(search.case, proto))


def _is_required(case: Case, node: NodeProto, index: int) -> bool:
    """Whether an operator needs an input: without it the model is another, broken one, or a loop without an end."""
    if any(True for _ in bodies(node)):
        return True
    versions = {each.domain or "ai.onnx": each.version for each in case.proto.opset_import}
    domain = node.domain or "ai.onnx"
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return False
    known = list(schema.inputs)
    formal = known[min(index, len(known) - 1)]
    if formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
        return len(node.input) <= max(schema.min_input, 1)
    return bool(formal.option == onnx.defs.OpSchema.FormalParameterOption.Single)


def _drop(names: Any, index: int) -> None:
    """Leave a name out; empty ones at the end go with it."""
    kept = list(names)
    kept[index] = ""
    while kept and not kept[-1]:
        kept.pop()
    names[:] = kept


def open_bodies(search: Search) -> bool:
    """Put the nodes of a body in the place of the node that holds it: a branch, or one round."""
    found = False
    for place, node in enumerate(search.case.proto.graph.node):
        cases = (_opened(search, place, body) for body in bodies(node))
        if search.first(case for case in cases if case is not None):
            found = True
            break
    return found


def _opened(search: Search, place: int, body: GraphProto) -> Case | None:
    case = search.case
    nodes = list(case.proto.graph.node)
    node = nodes[place]
    fed = _fed_to_body(search, node, body)
    if fed is None:
        return None
    names, values = fed
    taken = {value for other in nodes for value in (*other.output, *read_by(other))}
    taken.update(tensor.name for tensor in case.proto.graph.initializer)
    own = [value for inner in body.node for value in inner.output if value]
    own += [tensor.name for tensor in body.initializer]
    fresh = {value: _fresh(value, taken) for value in own if value in taken}
    names = {**fresh, **names}
    ends = list(body.output)[1:] if node.op_type == "Loop" else list(body.output)
    passed = [
        helper.make_node("Identity", [names.get(end.name, end.name)], [given])
        for end, given in zip(ends, node.output, strict=False)
        if given
    ]
    proto = copied(case.proto)
    for tensor in body.initializer:
        stored = proto.graph.initializer.add()
        stored.CopyFrom(tensor)
        stored.name = names.get(tensor.name, tensor.name)
    inlined = [renamed(inner, names) for inner in body.node]
    try:
        opened = with_nodes(
            Case(proto, case.feeds, case.original), [*nodes[:place], *inlined, *passed, *nodes[place + 1 :]], values
        )
    except TypeError:
        return None
    return opened


def _fed_to_body(search: Search, node: NodeProto, body: GraphProto) -> tuple[dict[str, str], dict[str, Any]] | None:
    """What the inputs of a body are called outside, and values of those that are nothing there, in the first round."""
    inputs = [value.name for value in body.input]
    if node.op_type == "If":
        return {}, {}
    if node.op_type == "Loop":
        names = dict(zip(inputs[2:], node.input[2:], strict=False))
        return names, {inputs[0]: np.array(0), inputs[1]: np.array(True)}
    if node.op_type != "Scan":
        return None
    scanned = next(attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs")
    states = len(inputs) - scanned
    names = dict(zip(inputs[:states], node.input[:states], strict=False))
    initializers = {tensor.name: tensor for tensor in search.case.proto.graph.initializer}
    outer = list(node.input[states:])
    values = search.values([value for value in outer if value not in initializers])
    if values is None:
        return None
    values |= {value: search.array(initializers[value]) for value in outer if value in initializers}
    return names, {name: np.asarray(values[value])[0] for name, value in zip(inputs[states:], outer, strict=True)}


def _fresh(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    taken.add(f"{name}_{number}")
    return f"{name}_{number}"
