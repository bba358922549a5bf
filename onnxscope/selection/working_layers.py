"""Which layers do the work of a model: what is looked at where nothing was selected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from onnxscope.base.text import counted, printable
from onnxscope.model.encodings import encoding_of
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.model.value_axes import SCORES
from onnxscope.selection.costs import Costs

__all__ = ["note_on_default", "working_layers"]

_MOST_OF_IT = 0.95  # of a model's multiply-adds
_CLASSIFIER_SHARE = 0.5  # of them, above which linear layers behind convolutions are no mere classifier
_MOST_SCORES = 1 << 22  # of all heads of a sample: 8 heads over 724 tokens
_USUAL_SIZE = 64  # of a dimension without one: only shares are asked for


def working_layers(model: Model) -> tuple[Node, ...]:
    """Return the layers that do the work, in the order of the graphs and of the nodes in each.

    Convolutions, and the other kinds of layers that it takes beside them for 95 % of all multiply-adds. Linear layers
    that use each weight once for a sample are a classifier, which is left out, unless convolutions do less than half of
    the work. In a model without convolutions all layers. The scores of an attention that is written out are among them,
    unless they are more than a map can show.
    """
    layers, scores = _layers(model), _scores(model)
    chosen = {*_chosen(model, layers), *scores}
    if not scores:
        return tuple(node for node in layers if node in chosen)
    return tuple(node for graph in model.graphs.values() for node in graph.nodes if node in chosen)


def _chosen(model: Model, layers: Sequence[Node]) -> Iterable[Node]:
    """Those of the layers that do the work."""
    convolutions = [node for node in layers if node.operator.is_convolution]
    others = [node for node in layers if not node.operator.is_convolution and _works(node)]
    if not convolutions or not others:
        return convolutions or layers
    open_dims = Costs(model).open_dims
    costs = Costs(model, dict.fromkeys(open_dims, _USUAL_SIZE))
    work = {node: _work(model, costs, node) for node in (*convolutions, *others)}
    sliding, heads = sum(work[node] for node in convolutions), [node for node in others if _is_head(model, work, node)]
    if sliding >= _CLASSIFIER_SHARE * (sliding + sum(work[node] for node in heads)):
        others = [node for node in others if node not in heads]
    by_kind: Counter[str] = Counter()
    for node in others:
        by_kind[node.operator.kind] += work[node]
    done, whole = sliding, sliding + by_kind.total()
    chosen = set(convolutions)
    for kind, share in by_kind.most_common():
        if done >= _MOST_OF_IT * whole:
            break
        chosen.update(node for node in others if node.operator.kind == kind)
        done += share
    return chosen


def _scores(model: Model) -> list[Node]:
    """The nodes that give the shares of an attention, query by key for each head, of a size that can be looked at."""
    found = []
    for path, graph in model.graphs.items():
        nodes = [node for node in graph.nodes if node.operator.gives_shares and node.outputs[0]]
        known = model.value_axes(path) if nodes else {}
        for node in nodes:
            axes = known.get(node.outputs[0])
            sides = [side if isinstance(side, int) else 1 for side in model.shape_of(graph, node.outputs[0]) or ()]
            if axes is not None and axes.names == SCORES and axes.are_shares and math.prod(sides[-3:]) <= _MOST_SCORES:
                found.append(node)
    return found


def note_on_default(model: Model, selectors: Sequence[str], looked_at: Iterable[str]) -> tuple[str, ...]:
    """Say how many layers that multiply are left out where nothing is selected, and how to see them.

    Args:
        model: The model.
        selectors: What was selected; there is nothing to say then.
        looked_at: The names of the layers that are looked at.
    """
    chosen = set(looked_at)
    left = [node for node in _layers(model) if _works(node) and model.names.layers[node] not in chosen]
    if selectors or not left:
        return ()
    kind = " with weights" if all(map(model.names.owns_weights, left)) else ""
    count = counted(len(left), f"layer{kind} is", f"layers{kind} are")
    name = printable(model.names.layers[left[-1]])
    return (
        f"{count} left out, since those that do most of the multiply-adds are looked at unless `--select` says "
        f"otherwise: `-s {name}`",
    )


def _layers(model: Model) -> list[Node]:
    """The nodes that own weights or trees, those of attention, and convolutions with a weight that is computed."""
    nodes = (node for graph in model.graphs.values() for node in graph.nodes)
    weighted = set(model.names.weighted)
    return [node for node in nodes if node in weighted or node.operator.attends or node.operator.is_convolution]


def _works(node: Node) -> bool:
    return node.operator.cost is not None or node.operator.attends is not None


def _stored_numbers(model: Model, node: Node) -> int:
    graph = model.graphs[node.path]
    operands = model.names.operands(node)
    total = 0
    for operand in operands:
        tensor = graph.stored(operand.origin.value) if operand.origin and operand.role.startswith("weight") else None
        encoding = encoding_of(graph, operand)
        if tensor is not None:
            total += math.prod(tensor.dims if encoding is None else encoding.shape)
    return total


def _work(model: Model, costs: Costs, node: Node) -> int:
    """Multiply-adds of a sample, or one for each weight where a size is not known."""
    known = costs.of(node)
    return _stored_numbers(model, node) if known is None else known


def _is_head(model: Model, work: dict[Node, int], node: Node) -> bool:
    return node.operator.kind == "Linear" and work[node] <= _stored_numbers(model, node)
