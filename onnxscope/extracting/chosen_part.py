"""Which nodes belong to a part of a model: a layer, everything between several, or a span between values.

A part lies in one graph; of nodes that lie deeper, in bodies, the part holds the nodes around these bodies. It is
closed: whatever lies on a way between two of its nodes belongs to it, so that what reaches it depends on none of its
values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxscope.base.name_patterns import matcher, split_selectors
from onnxscope.base.text import printable
from onnxscope.errors import SelectorError
from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.loading import Model
from onnxscope.selection.selectors import Place, Tap, choose

__all__ = ["Part", "choose_part", "part_before"]

_EXACT = ("op:", "node:", "value:", "rank:")
_OF_SHAPES = frozenset(
    {
        *("Add", "Ceil", "Div", "Equal", "Floor", "Greater", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Sub", "Where"),
        *("Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "GatherElements", "Identity", "Range", "Reshape"),
        *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Shape", "Size", "Slice", "Split", "Squeeze", "Tile"),
        *("Transpose", "Unsqueeze"),
    }
)
"""What exporters compute sizes with."""
_MOST_OF_SHAPES = 200  # nodes that compute one vector of sizes


@dataclass(frozen=True, eq=False)
class Part:
    """Some nodes of one graph.

    Attributes:
        path: The steps that lead to the graph, empty for the main graph.
        nodes: In execution order, without those that compute constants.
        inputs: Values that reach it, in the order in which they are read; no constants.
        outputs: Values that leave it, in execution order.
    """

    path: tuple[Step, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def choose_part(
    model: Model, selectors: Sequence[str] = (), starts: Sequence[str] = (), ends: Sequence[str] = ()
) -> Part:
    """Find the nodes of a part.

    Args:
        model: Whose part.
        selectors: Layers, modules, nodes or values; `!` excludes. A layer goes from the node that owns its weight up to
            what leaves its activation function and the quantization behind it; a value stands for its node.
        starts: What the part begins behind: values, or layers, which stand for what leaves them. By default it begins
            with what the selectors choose, or with the model's inputs.
        ends: What it ends with; by default with what the selectors choose, or with the model's outputs.

    Raises:
        SelectorError: One matches nothing, nothing is chosen, or no way leads from the starts to the ends.
    """
    if not (selectors or starts or ends):
        raise SelectorError(
            f"nothing is selected to be extracted: {model.name}",
            hint="name a layer with `--select`, or values with `--from` and `--to`",
        )
    chosen = _selected(model, selectors)
    begin, end = _places(model, starts), _places(model, ends)
    paths = {node.path for node in chosen} | {path for path, _ in (*begin, *end)}
    path = _common(paths)
    graph = model.graphs[path]
    core = _outside_bodies(graph, chosen)
    for place, value in (*begin, *end):
        if place != path:
            raise SelectorError(
                f"{printable(value)!r} lies in a body of {printable(model.graphs[place].owner)}, and the part does not:"
                f" {model.name}",
                hint="a span begins and ends in one graph; `--select` takes the node around a body as a whole",
            )
    nodes = _span(model, graph, core, [value for _, value in begin], [value for _, value in end])
    outputs = [value for _, value in end] or graph.leaving(nodes)
    outputs = outputs or [value for value in nodes[-1].outputs if value]
    known = frozenset(value for _, value in begin)
    every = _with_sizes(graph, _with_codes(graph, nodes, known), known)
    return Part(path, tuple(every), tuple(_reaching(graph, every)), tuple(dict.fromkeys(outputs)))


def part_before(model: Model, value: str, stops: Collection[str]) -> Part:
    """Return what computes a value of the main graph from others, or from the model's inputs where none is in between.

    Args:
        model: Whose value.
        value: Computed by a node, and no constant.
        stops: The other values.
    """
    graph = model.main
    every = {node for node in graph.nodes if not _is_constant(graph, node)}
    found = _between(graph, every, {graph.producers[value]}, frozenset(stops) - {value})
    nodes = sorted(found, key=graph.position)
    return Part((), tuple(nodes), tuple(_reaching(graph, nodes)), (value,))


def _selected(model: Model, selectors: Sequence[str]) -> set[Node]:
    chosen, excluded = split_selectors(selectors)
    nodes = {node for selector in chosen for node in _nodes_of(model, selector)}
    if excluded and not chosen:
        raise SelectorError(
            f"exclusions alone select no part: {model.name}", hint="name a layer or a module beside what it excludes"
        )
    nodes -= {node for selector in excluded for node in _nodes_of(model, selector)}
    computing = {node for node in nodes if not _is_constant(model.graphs[node.path], node)}
    if chosen and not computing:
        raise SelectorError(
            f"nothing that is computed from an input is selected: {model.name}", hint="name a layer, or use op:Conv"
        )
    return computing


def _nodes_of(model: Model, selector: str) -> Iterator[Node]:
    """The nodes that one selector means: those of modules and layers, else those of the values that it chooses."""
    names = model.names
    exact = selector.startswith(_EXACT)
    matches = matcher(selector)
    scopes = () if exact else tuple(scope for scope in names.modules if matches(scope))
    for scope in scopes:
        yield from names.modules[scope]
    for tap in choose(model, [selector]).taps or ():
        graph = model.graphs[tap.path]
        producer = graph.producers.get(tap.value)
        if tap.at is None:  # a value as it is, or what leaves a module
            if producer is not None:
                yield producer
            continue
        node = _tapped(model, graph, tap)
        yield from _layer(model, graph, node, tap.value)
        if tap.path and not exact and matches(tap.layer):
            yield from (inner for inner in graph.nodes if names.layers[inner] == tap.layer)


def _tapped(model: Model, graph: Graph, tap: Tap) -> Node:
    """The node that a layer's tap is about: the nearest one of its layer and operator before the value."""
    seen: set[Node] = set()
    waiting = [graph.producers[tap.value]]
    found = []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op_type == tap.op_type and model.names.layers[node] == tap.layer:
            found.append(node)
            continue
        waiting += _producers(graph, node)
    return max(found, key=graph.position, default=graph.producers[tap.value])


def _layer(model: Model, graph: Graph, node: Node, value: str) -> set[Node]:
    """The nodes of a layer: from the one that does its work up to what leaves it."""
    layer = next((layer for layer in model.layers if layer.node is node), None)
    end = value if layer is None else layer.value
    parts = set() if layer is None else set(layer.parts)
    return _between(graph, {node, *parts}, {node, *parts, graph.producers[end]})


def _places(model: Model, values: Sequence[str]) -> list[Place]:
    places = [(tap.path, tap.value) for value in values for tap in choose(model, [value]).taps or ()]
    return list(dict.fromkeys(places))


def _common(paths: Collection[tuple[Step, ...]]) -> tuple[Step, ...]:
    first = min(paths, key=len)
    for length in range(len(first), -1, -1):
        if all(path[:length] == first[:length] for path in paths):
            return first[:length]
    return ()


def _outside_bodies(graph: Graph, nodes: Iterable[Node]) -> set[Node]:
    """The nodes of a graph that are meant by some of it and of its bodies."""
    owners = {node.index: node for node in graph.nodes}
    depth = len(graph.path)
    return {node if node.path == graph.path else owners[node.path[depth].node_index] for node in nodes}


def _span(model: Model, graph: Graph, core: set[Node], begin: list[str], end: list[str]) -> list[Node]:
    """The nodes of a part in execution order."""
    for value in end:
        if value not in graph.producers or value in graph.constants:
            raise SelectorError(
                f"{printable(value)!r} is not computed from any input, so no part ends with it: {model.name}",
                hint="`--to` names what a node computes",
            )
    named = {graph.producers[value] for value in end} | core
    last = named or {graph.producers[value] for value in graph.outputs if value in graph.producers}
    if begin:
        first = {reader for value in begin for reader in graph.readers.get(value, ())}
    else:
        first = core or {node for node in graph.nodes if not _is_constant(graph, node)}
    nodes = _between(graph, first, last, frozenset(begin))
    read = {value for node in nodes for value in _read(node)}
    unread = [value for value in begin if value not in read]
    missing = sorted(named - nodes, key=graph.position)
    if unread or missing or not nodes:
        origin = ", ".join(map(printable, unread or begin)) or "what is selected"
        to = printable(missing[0].label) if missing else ", ".join(map(printable, end)) or "what the part ends with"
        raise SelectorError(f"no way leads from {origin} to {to}: {model.name}", hint="name values that lie behind")
    return sorted(nodes, key=graph.position)


def _between(graph: Graph, first: set[Node], last: set[Node], stops: Collection[str] = ()) -> set[Node]:
    """The nodes on any way from `first` to `last`, these included; no way goes on behind one of the values `stops`."""
    if not first or not last:
        return set()
    start = min(map(graph.position, first))
    behind: set[Node] = set()
    waiting = [*last]
    while waiting:
        node = waiting.pop()
        if node not in behind and graph.position(node) >= start:
            behind.add(node)
            waiting += _producers(graph, node, stops)
    nodes: set[Node] = set()
    values: set[str] = set()
    for node in sorted(behind, key=graph.position):
        if (node in first or any(value in values for value in _read(node))) and not _is_constant(graph, node):
            nodes.add(node)
            values.update(value for value in node.outputs if value and value not in stops)
    return nodes


def _with_codes(graph: Graph, nodes: list[Node], known: Collection[str]) -> list[Node]:
    """The nodes, with those that make real numbers of the codes which they are fed: engines compute both in one."""
    constants = graph.constants
    added = [
        node
        for node in (graph.producers.get(value) for value in _reaching(graph, nodes) if value not in known)
        if node is not None and node.op_type == "DequantizeLinear" and all(map(constants.__contains__, node.inputs[1:]))
    ]
    return sorted({*nodes, *added}, key=graph.position)


def _with_sizes(graph: Graph, nodes: list[Node], known: Collection[str]) -> list[Node]:
    """The nodes, with those that compute sizes from the shapes of what reaches them or of what they compute."""
    reaching = _reaching(graph, nodes)
    added: set[Node] = set()
    for value in reaching:
        others = {other for other in reaching if other != value}
        others.update(output for node in nodes for output in node.outputs if output)
        if value not in known:
            added.update(_sizes(graph, value, others))
    return sorted({*nodes, *added}, key=graph.position)


def _sizes(graph: Graph, value: str, others: Collection[str]) -> set[Node]:
    """The nodes that compute a value from nothing but shapes of `others` and constants; none where it takes more."""
    nodes: set[Node] = set()
    waiting, has_shape = [value], False
    while waiting:
        node = graph.producers.get(waiting.pop())
        if node is None or not node.is_standard or node.op_type not in _OF_SHAPES or len(nodes) > _MOST_OF_SHAPES:
            return set()
        nodes.add(node)
        if node.operator.reads_shape:
            has_shape = True
            if node.inputs[0] not in others:
                return set()
        else:
            waiting += [name for name in _read(node) if name not in graph.constants]
    return nodes if has_shape else set()


def _reaching(graph: Graph, nodes: Sequence[Node]) -> list[str]:
    """What the nodes read that none of them computes, without constants."""
    inside = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in _read(node))
    return [value for value in read if value not in inside and value not in graph.constants]


def _producers(graph: Graph, node: Node, stops: Collection[str] = ()) -> list[Node]:
    read = (value for value in _read(node) if value not in stops)
    return [graph.producers[value] for value in read if value in graph.producers]


def _read(node: Node) -> Iterator[str]:
    yield from filter(None, node.inputs)
    yield from node.captured


def _is_constant(graph: Graph, node: Node) -> bool:
    return all(value in graph.constants for value in node.outputs if value)
