"""The selector grammar: one word that chooses taps or weights, the same in every command.

    features.0      a layer or a module, by its name
    conv1_relu      else a node or a value, by its name
    layer*.conv1    a glob over these (`*`, `?`, `[...]`; `*` crosses dots)
    op:Conv         nodes by operator (a glob)
    node:GLOB       nodes by name
    value:GLOB      node outputs and graph inputs by name, exactly as they are; an initializer by its exact name
    rank:4          values with four axes
    re:REGEX        a regular expression that must match a whole layer, module, node or value name
    !SELECTOR       leaves out what the selector matches: a module with all that it holds, a parameter without its layer

Layers and nodes are tapped after or before the activation function that follows them; modules and values are tapped
as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxscope.base.name_patterns import Matcher, matcher, nothing_matches, split_selectors
from onnxscope.base.text import printable
from onnxscope.errors import SelectorError
from onnxscope.model.activation_functions import activation_after, is_activation, own_output
from onnxscope.model.encodings import codes_scale
from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.loading import Model
from onnxscope.model.parameters import Parameter
from onnxscope.model.value_axes import ValueAxes, channel_axis_of
from onnxscope.selection.working_layers import working_layers

__all__ = ["At", "Choice", "Place", "Tap", "choose", "select_layers", "select_taps", "tap_values", "weighted_taps"]

At = Literal["post", "pre"]
Place = tuple[tuple[Step, ...], str]
"""The path of a value's graph, and its name there."""


@dataclass(frozen=True)
class Tap:
    """A value chosen for observation.

    Attributes:
        name: Unique within the model: the value's own name, led by the body's owner where that name is not unique.
        value: The value's name in its graph.
        path: The steps that lead to its graph, empty in the main graph.
        layer: The layer, as the source framework called it.
        op_type: The layer's operator, or that of the node that produces the value.
        at: `post` or `pre`, None where the value was chosen as it is.
        channel_axis: Where the operators tell it, else None; -1 stands for the last axis.
        order: Where the value is produced: sorts taps in execution order.
        holds_indices: Whether its numbers say places, so that there are no channels.
        scale: The values of scale and zero point, where its codes are observed as the real numbers that they stand for.
        axes: What operators tell of all its axes, None where they do not.
    """

    name: str
    value: str
    path: tuple[Step, ...]
    layer: str
    op_type: str
    at: At | None
    channel_axis: int | None
    order: tuple[int, ...]
    holds_indices: bool = False
    scale: tuple[str, str] | None = None
    axes: ValueAxes | None = None

    def axis_of(self, rank: int) -> int | None:
        """The channel axis of a value of `rank` axes (heads of scores), None where there is nothing to keep apart."""
        return None if self.holds_indices else channel_axis_of(rank, self.channel_axis, self.axes)


def select_taps(model: Model, selectors: Sequence[str], *, at: At = "post") -> list[Tap]:
    """Resolve selectors to taps, each value once, in execution order.

    Args:
        model: Its ranks are inferred where `rank:` is used and it does not declare every one.
        selectors: See the module's description. None at all choose the layers that do the work, see `working_layers`,
            and where there is none, every node output. Exclusions alone start from every convolution and every other
            layer that has weights.
        at: Where layers and nodes are tapped: after (`post`) or before (`pre`) their activation function.

    Raises:
        SelectorError: A selector is malformed or matches nothing; the message lists the closest names.
    """
    resolver = _Resolver(model, at)
    chosen, excluded = split_selectors(selectors)
    taps = (
        [tap for selector in chosen for tap in resolver.resolve(selector)]
        if chosen
        else resolver.default(everything=bool(excluded))
    )
    dropped = {tap.name for selector in excluded for tap in resolver.resolve_excluded(selector)}
    unique: dict[str, Tap] = {}
    for tap in sorted(taps, key=lambda tap: (tap.order, tap.at is None)):
        if tap.name not in dropped:
            unique.setdefault(tap.name, tap)
    if not unique:
        raise SelectorError(f"the exclusions leave nothing to tap: {model.name}")
    return list(unique.values())


def select_layers(
    model: Model, selectors: Sequence[str], *, at: At = "post"
) -> list[tuple[Node | None, tuple[Tap, ...]]]:
    """Return what there is to say something about: the node of each layer, and its taps.

    Args:
        model: As for `select_taps`.
        selectors: None at all choose every layer that owns weights, in the order of the graphs and of the nodes in
            each; its taps are those before and after its activation function.
        at: As for `select_taps`.

    Returns:
        With selectors, a pair for each of `select_taps`: the layer's node, or the node that produces a value, None for
        a value that no node does.

    Raises:
        SelectorError: As `select_taps`.
    """
    pre, post = _Resolver(model, "pre"), _Resolver(model, "post")
    layers = {node: (*pre.node_taps(node), *post.node_taps(node)) for node in model.names.weighted}
    if not selectors:
        return list(layers.items())
    owners = {(tap.name, tap.layer): node for node, taps in layers.items() for tap in taps}
    return [
        (owners.get((tap.name, tap.layer)) or model.graphs[tap.path].producers.get(tap.value), (tap,))
        for tap in select_taps(model, selectors, at=at)
    ]


@dataclass(frozen=True)
class Choice:
    """What selectors choose of a whole model; a chosen parameter stands for the layers that use it.

    Attributes:
        taps: The values that were named, without those that are excluded; None where everything is meant.
        inside: These, and everything within the modules that were named.
        excluded: What is left out.
        parameters: Names of the parameters that are left out by their own name.
    """

    taps: tuple[Tap, ...] | None
    inside: frozenset[Place]
    excluded: frozenset[Place]
    parameters: frozenset[str]


def choose(model: Model, selectors: Sequence[str]) -> Choice:
    """Resolve selectors to whatever they mean, at the ends of layers and modules.

    Args:
        model: As for `select_taps`.
        selectors: None at all, or exclusions alone, mean everything.

    Raises:
        SelectorError: A selector is malformed or matches nothing.
    """
    resolver = _Resolver(model, "post")
    chosen, excluded = split_selectors(selectors)

    def places(taps: Iterable[Tap]) -> frozenset[Place]:
        return frozenset((tap.path, tap.value) for tap in taps)

    left_out = places(tap for selector in excluded for tap in resolver.resolve_excluded(selector))
    taps = [tap for selector in chosen for tap in resolver.resolve_weights(selector)]
    kept = {(tap.path, tap.value): tap for tap in sorted(taps, key=lambda tap: tap.order)}
    return Choice(
        taps=tuple(tap for place, tap in kept.items() if place not in left_out) if chosen else None,
        inside=places(tap for selector in chosen for tap in resolver.resolve_weights(selector, inside=True)),
        excluded=left_out,
        parameters=frozenset(part.name for selector in excluded for part in resolver.parameters(selector)),
    )


def weighted_taps(model: Model) -> dict[Node, list[Tap]]:
    """Return the taps of every node that owns weights, after its activation function, as a selector would."""
    resolver = _Resolver(model, "post")
    return {node: resolver.node_taps(node) for node in model.names.weighted}


def tap_values(model: Model, values: Iterable[Place]) -> dict[Place, Tap]:
    """Return taps of values that are known exactly, by path and name, in execution order.

    Codes are observed as the real numbers that they stand for, but for outputs of the model.

    Args:
        model: Whose values they are.
        values: The path of each value's graph, and its name there.
    """
    resolver = _Resolver(model, "post")
    taps = {}
    for path, value in values:
        graph = model.graphs[path]
        scale = None if value in graph.outputs else codes_scale(graph, value)
        taps[path, value] = replace(resolver.value_tap(graph, value), scale=scale)
    return dict(sorted(taps.items(), key=lambda item: item[1].order))


class _Resolver:
    def __init__(self, model: Model, at: At) -> None:
        self._names = model.names
        self._model = model
        self._at = at
        self._owners = {(node.path, node.index): node for node in self._nodes()}

    def default(self, *, everything: bool) -> list[Tap]:
        """The taps where nothing is chosen: layers that do the work, unless `everything` that has weights is meant."""
        layers = [node for node in self._nodes() if node.operator.is_convolution or self._names.owns_weights(node)]
        nodes = layers if everything else working_layers(self._model)
        nodes = nodes or self._model.main.nodes
        return [tap for node in nodes for tap in self.node_taps(node)]

    def resolve_weights(self, selector: str, *, inside: bool = False) -> list[Tap]:
        """As `resolve`; a parameter, by its own name or that of what stores it, stands for the layers that use it."""
        stored = {(part.graph.path, part.initializer) for part in self.parameters(selector)}
        taps = [
            tap
            for node in (self._nodes() if stored else ())
            for operand in self._names.operands(node)
            if operand.origin is not None
            and (self._model.graphs[node.path].scope_of(operand.origin.value).path, operand.origin.value) in stored
            for tap in self.node_taps(node)
        ]
        return [*taps, *self.resolve(selector, inside=inside, may_be_none=bool(taps))]

    def resolve_excluded(self, selector: str) -> list[Tap]:
        """What leaving out a selector leaves out of the taps: of a parameter by its name, nothing but its own."""
        return self.resolve(selector, inside=True, may_be_none=bool(self.parameters(selector)))

    def parameters(self, selector: str) -> list[Parameter]:
        """The parameters of that name, or stored under it."""
        matches = matcher(selector.removeprefix("value:"))
        return [part for part in self._model.parameters if matches(part.name) or matches(part.initializer)]

    def resolve(self, selector: str, *, inside: bool = False, may_be_none: bool = False) -> list[Tap]:
        """The taps that a selector chooses; `inside` adds everything within the modules that it names."""
        kind, _, pattern = selector.partition(":")
        if kind == "op":
            taps = self._by_node(pattern, lambda node: node.op_type)
        elif kind == "node":
            taps = self._by_node(pattern, lambda node: node.name)
        elif kind == "value":
            taps = self._by_value(matcher(pattern), initializer=pattern)
        elif kind == "rank":
            taps = self._by_rank(pattern)
        else:
            matches = matcher(selector)
            taps = (
                self._by_scope(matches, inside=inside)
                or self._by_node(selector, lambda node: node.name)
                or self._by_value(matches, initializer=selector)
            )
        if not taps and not may_be_none:
            raise nothing_matches(selector, self._known_names(kind), self._model.name)
        return taps

    def _fed(self) -> list[str]:
        """Inputs of the main graph; one that is stored too is an initializer with a name in two places."""
        return [value for value in self._model.main.inputs if value not in self._model.main.initializers]

    def _nodes(self) -> Iterator[Node]:
        for graph in self._model.graphs.values():
            yield from graph.nodes

    def _by_node(self, pattern: str, name_of: Callable[[Node], str]) -> list[Tap]:
        matches = matcher(pattern)
        return [tap for node in self._nodes() if matches(name_of(node)) for tap in self.node_taps(node)]

    def _by_scope(self, matches: Matcher, *, inside: bool) -> list[Tap]:
        taps = []
        for scope in self._names.modules:
            if matches(scope):
                taps += self._scope_taps(scope)
                if inside and self._names.is_module(scope):
                    taps += [tap for node in self._names.modules[scope] for tap in self._within(node)]
        for graph in self._model.graphs.values():
            if graph.path:
                layers: dict[str, list[Node]] = {}
                for node in graph.nodes:
                    layers.setdefault(self._names.layers[node], []).append(node)
                for layer in filter(matches, layers):
                    taps += self._layer_taps(graph, layer, layers[layer])
        return taps

    def _within(self, node: Node) -> list[Tap]:
        """Everything that a node of an excluded module could be tapped as."""
        values = [self.value_tap(self._model.main, output) for output in node.outputs if output]
        return [*values, *(self.node_taps(node) if self._names.owns_weights(node) else ())]

    def _scope_taps(self, scope: str) -> list[Tap]:
        main = self._model.main
        if not self._names.is_module(scope):
            return self._layer_taps(main, scope, self._names.modules[scope])
        return [
            self._tap(main, value, scope, main.producers[value].op_type, None) for value in self._names.leaving(scope)
        ]

    def _layer_taps(self, graph: Graph, layer: str, nodes: Sequence[Node]) -> list[Tap]:
        """The taps of the nodes that own the layer's weights; where none does, of the values that leave the layer."""
        weighted = [node for node in nodes if self._names.owns_weights(node)]
        if weighted:
            return [tap for node in weighted for tap in self.node_taps(node)]
        taps = []
        for value in graph.leaving(nodes):
            node = graph.producers[value]
            taps.append(self._tap(graph, self._reached(graph, node, value), layer, node.op_type, self._at))
        return taps

    def _by_value(self, matches: Matcher, *, initializer: str) -> list[Tap]:
        taps = []
        for graph in self._model.graphs.values():
            values = [output for node in graph.nodes for output in node.outputs if output]
            values = [*(() if graph.path else self._fed()), *values]
            for value in values:
                if matches(value) or (graph.path and matches(self._names.value(graph, value))):
                    taps.append(self.value_tap(graph, value))
        if not taps and initializer in self._model.main.initializers:
            taps.append(self.value_tap(self._model.main, initializer))
        return taps

    def _by_rank(self, text: str) -> list[Tap]:
        if not text.isdecimal():
            raise SelectorError(f"rank is not a number: '{printable('rank:' + text)}'")
        known: dict[str, int] = {}
        main = self._model.main
        values = [*self._fed(), *(output for node in main.nodes for output in node.outputs if output)]
        for value in values:
            declared = main.types.get(value)
            if declared is not None and declared.shape is not None:
                known[value] = len(declared.shape)
        if len(known) < len(values):
            known = {**self._model.ranks, **known}
        return [self.value_tap(main, value) for value in values if known.get(value) == int(text)]

    def node_taps(self, node: Node) -> list[Tap]:
        graph = self._model.graphs[node.path]
        layer = self._names.layers[node]
        outputs = [output for output in node.outputs if output]
        if self._names.owns_weights(node) or node.operator.is_convolution:
            outputs = outputs[:1]
        return [
            self._tap(graph, self._reached(graph, node, output), layer, node.op_type, self._at) for output in outputs
        ]

    def _reached(self, graph: Graph, node: Node, value: str) -> str:
        """The value to tap for a node's output, before or after the activation that follows."""
        own = own_output(graph, node) if value == node.outputs[0] and self._names.owns_weights(node) else value
        if self._at == "pre" or is_activation(node):
            return own
        return activation_after(graph, value) or own

    def value_tap(self, graph: Graph, value: str) -> Tap:
        node = graph.producers.get(value)
        if node is None:
            return self._tap(graph, value, value, "Initializer" if value in graph.initializers else "Input", None)
        return self._tap(graph, value, self._names.layers[node], node.op_type, None)

    def _tap(self, graph: Graph, value: str, layer: str, op_type: str, at: At | None) -> Tap:
        node = graph.producers.get(value)
        owners = [
            (graph.path[:depth], self._owners[graph.path[:depth], step.node_index])
            for depth, step in enumerate(graph.path)
        ]
        order = (
            *(self._model.graphs[path].position(owner) for path, owner in owners),
            graph.position(node) if node else -1,
        )
        axis = self._model.channel_axes(graph.path).get(value)
        return Tap(
            name=self._names.value(graph, value),
            value=value,
            path=graph.path,
            layer=layer,
            op_type=op_type,
            at=at,
            channel_axis=axis,
            order=order,
            holds_indices=value in graph.index_values,
            scale=None if at is None and value in graph.outputs else codes_scale(graph, value),
            axes=self._model.value_axes(graph.path).get(value),
        )

    def _known_names(self, kind: str) -> dict[str, None]:
        if kind == "op":
            return dict.fromkeys(f"op:{node.op_type}" for node in self._nodes())
        if kind == "node":
            return dict.fromkeys(f"node:{node.name}" for node in self._nodes() if node.name)
        if kind == "value":
            computed = (value for node in self._nodes() for value in node.outputs if value)
            return dict.fromkeys(f"value:{value}" for value in (*self._fed(), *computed))
        nodes = (node.name for node in self._nodes())
        values = (*self._fed(), *(value for node in self._nodes() for value in node.outputs))
        parameters = (part.name for part in self._model.parameters)
        return dict.fromkeys(name for name in (*self._names.modules, *parameters, *nodes, *values) if name)
