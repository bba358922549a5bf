"""Activation functions in whatever spelling: told by what they give, and written out as another one.

GELU is exact, or approximated by tanh or by a sigmoid; exporters write each out in up to eight nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from onnxscope.errors import OnnxscopeError
from onnxscope.explaining.edits import Change, Edit
from onnxscope.extracting.chosen_part import Part
from onnxscope.extracting.standalone import standalone
from onnxscope.model.activation_functions import activation_group
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.runtime.session import open_session

__all__ = ["activation_edits", "form_of"]

_Step = tuple[str, tuple[str | float, ...], str]
_FORMS: Mapping[str, tuple[str, Sequence[_Step]]] = {
    "gelu": (
        "computes GELU exactly",
        (
            ("Mul", ("x", math.sqrt(0.5)), "a"),
            ("Erf", ("a",), "b"),
            ("Add", ("b", 1.0), "c"),
            ("Mul", ("x", "c"), "d"),
            ("Mul", ("d", 0.5), "y"),
        ),
    ),
    "gelu by tanh": (
        "approximates GELU by tanh",
        (
            ("Mul", ("x", "x"), "a"),
            ("Mul", ("a", "x"), "b"),
            ("Mul", ("b", 0.044715), "c"),
            ("Add", ("c", "x"), "d"),
            ("Mul", ("d", math.sqrt(2 / math.pi)), "e"),
            ("Tanh", ("e",), "f"),
            ("Add", ("f", 1.0), "g"),
            ("Mul", ("x", "g"), "h"),
            ("Mul", ("h", 0.5), "y"),
        ),
    ),
    "gelu by sigmoid": (
        "approximates GELU by a sigmoid",
        (("Mul", ("x", 1.702), "a"), ("Sigmoid", ("a",), "b"), ("Mul", ("x", "b"), "y")),
    ),
    "silu": ("computes SiLU", (("Sigmoid", ("x",), "a"), ("Mul", ("x", "a"), "y"))),
}
"""How each is said, and written out: operators, what they read, and what they give."""
_WANTED = {
    "gelu": "with the exact one (erf)",
    "gelu by tanh": "with the approximation by tanh",
    "gelu by sigmoid": "with the approximation by a sigmoid",
    "silu": "with SiLU",
}
_POINTS = np.linspace(-6, 6, 481)  # the first two are apart by up to 4.7e-4 in between
_CLOSE = 2e-5


def activation_edits(models: tuple[Model, Model], parts: tuple[Part, Part]) -> Iterator[Edit]:
    """Yield what gives the second part the function that the first one has, where both are known and are not the same.

    Args:
        models: Both.
        parts: Of their main graphs; their functions are paired in order.
    """
    found = [_groups(model, part) for model, part in zip(models, parts, strict=True)]
    if len(found[0]) != len(found[1]):
        return
    for (_, left), (value, right) in zip(*found, strict=True):
        if len(left) == len(right) == 1:
            continue  # an operator each, which the attributes of a pair tell
        kinds = form_of(models[0], left), form_of(models[1], right)
        if kinds[0] is None or kinds[1] is None or kinds[0] == kinds[1]:
            continue
        says, wanted = _FORMS[kinds[1]][0], _WANTED[kinds[0]]
        dtype = models[1].dtype_of(models[1].main, value) or "float32"
        yield Edit(
            right[-1],
            "operator",
            "function",
            kinds[1],
            wanted,
            _rewritten(kinds[0], value, right, dtype),
            says,
            "function",
        )


def form_of(model: Model, nodes: Sequence[Node]) -> str | None:
    """Return which function nodes compute of one value; None where it is none of those that are known.

    Args:
        model: Whose nodes.
        nodes: A closed group of the main graph, as `activation_group` gives it.
    """
    inside = {name for node in nodes for name in node.outputs}
    reached = {name for node in nodes for name in node.inputs if name} - inside - model.main.constants
    if len(reached) != 1:
        return None
    (source,) = reached
    part = Part((), tuple(nodes), (source,), (nodes[-1].outputs[0],))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    types = {source: helper.make_tensor_type_proto(kind, [None])}
    try:
        session = open_session(model, standalone(model, part, types), threads=1)
        given = session.run({source: _POINTS.astype(np.float32)})[part.outputs[0]]
    except OnnxscopeError:
        return None
    if not isinstance(given, np.ndarray) or given.shape != _POINTS.shape:
        return None
    return next((form for form, expected in _expected().items() if np.abs(given - expected).max() < _CLOSE), None)


def _expected() -> dict[str, np.ndarray]:
    x = _POINTS
    erf = np.array([math.erf(each / math.sqrt(2)) for each in x])
    return {
        "gelu": 0.5 * x * (1 + erf),
        "gelu by tanh": 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "gelu by sigmoid": x / (1 + np.exp(-1.702 * x)),
        "silu": x / (1 + np.exp(-x)),
    }


def _groups(model: Model, part: Part) -> list[tuple[str, list[Node]]]:
    """The activation functions of a part, each with the value that it reads, in execution order."""
    nodes = set(part.nodes)
    found: list[tuple[str, list[Node]]] = []
    taken: set[Node] = set()
    for value in (*part.inputs, *(name for node in part.nodes for name in node.outputs if name)):
        group = activation_group(model.main, value)
        if group is not None and nodes.issuperset(group) and taken.isdisjoint(group):
            found.append((value, group))
            taken.update(group)
    return sorted(found, key=lambda each: model.main.position(each[1][-1]))


def _rewritten(form: str, value: str, nodes: Sequence[Node], dtype: str) -> Change:
    """What puts one form in the place of nodes."""
    replaced = [name for node in nodes[:-1] for name in node.outputs if name]

    def change(node: NodeProto, graph: GraphProto) -> None:
        result = node.output[0]
        place = next(place for place, other in enumerate(graph.node) if result in other.output)
        names = {"x": value, "y": result}
        written = []
        for op_type, operands, given in _FORMS[form][1]:
            read = []
            for number, operand in enumerate(operands):
                name = names.get(operand, "") if isinstance(operand, str) else f"{result}.mended_{given}{number}"
                if not isinstance(operand, str):
                    graph.initializer.append(numpy_helper.from_array(np.array(operand, dtype), name))
                read.append(name)
            names.setdefault(given, f"{result}.mended_{given}")
            written.append(helper.make_node(op_type, read, [names[given]]))
        written[-1].name = node.name
        node.CopyFrom(written.pop())
        for number, added in enumerate(written):
            graph.node.insert(place + number, added)
        _remove_unread(graph, replaced)

    return change


def _remove_unread(graph: GraphProto, names: Sequence[str]) -> None:
    """Take away the nodes that gave these values, where nothing reads them any more, the last first."""
    kept = {value.name for value in graph.output}
    for name in reversed(names):
        read = {each for node in graph.node for each in node.input}
        for place, node in enumerate(graph.node):
            if name in node.output and not (read | kept).intersection(node.output):
                del graph.node[place]
                break
