"""Which of two compared models do not give the same for the same input, and where they are not alike in that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from onnxscope.comparison.floors import discrepancy_of, larger_noise
from onnxscope.comparison.merged_graph import own_model
from onnxscope.comparison.structure_changes import StructureChange
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.numerics.distances import Discrepancy
from onnxscope.pairing.match_values import Counterpart
from onnxscope.runtime.narrow_sums import remarks_on_bias_scales, remarks_on_narrow_sums
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.session import open_session
from onnxscope.runtime.unstable_nodes import UnstableNode, find_unstable, remarks_on_unstable

__all__ = [
    "WhenFed",
    "mode_changes",
    "noise_when_fed",
    "notes_on_narrow_sums",
    "notes_on_unstable",
    "random_values",
]

_Key = Callable[[UnstableNode], tuple[str, ...]]


def notes_on_unstable(first: Model, second: Model) -> tuple[str, ...]:
    """Return a remark for each of the first random or stateful nodes of either model."""
    return _by_sides(remarks_on_unstable(first), remarks_on_unstable(second))


def notes_on_narrow_sums(first: Model, second: Model) -> tuple[str, ...]:
    """Return remarks on the layers of either model whose numbers depend on the processor, or on the optimizer."""
    sums = _by_sides(remarks_on_narrow_sums(first), remarks_on_narrow_sums(second))
    return sums + _by_sides(remarks_on_bias_scales(first), remarks_on_bias_scales(second))


def _by_sides(*remarks: tuple[str, ...]) -> tuple[str, ...]:
    if remarks[0] == remarks[1]:
        return tuple(f"both models: {remark}" for remark in remarks[0])
    sides = zip(("first", "second"), remarks, strict=True)
    return tuple(f"the {side} model: {remark}" for side, of_side in sides for remark in of_side)


def mode_changes(first: Model, second: Model) -> tuple[tuple[StructureChange, Node], ...]:
    """Return the random or stateful nodes that one of the models has alone, and what is to be said of each.

    A node of one is that of the other where both have the layer's name, else in the order of nodes with one operator.
    """
    models = {"first": first, "second": second}
    _, alone = _paired(first, second)
    return tuple(
        (
            StructureChange(node.layer, f"{node.subject} {node.reason}; in the {side} model alone", counts=True),
            next(other for other in models[side].graphs[node.path].nodes if other.label == node.name),
        )
        for side, nodes in zip(models, alone, strict=True)
        for node in nodes
    )


def random_values(first: Model, second: Model) -> list[tuple[str, str]]:
    """Return the values of both main graphs that nodes draw which belong together, as `mode_changes` pairs them.

    What the second model draws says nothing about it: fed with what the first one has drawn, the rest can be judged.
    """
    pairs, _ = _paired(first, second)
    return [
        (left, right)
        for x, y in pairs
        if x.kind == "random" and not (x.path or y.path) and x.condition is None and y.condition is None
        for left, right in zip(x.gives, y.gives, strict=False)
        if left in first.main.readers and right in second.main.readers
    ]


class WhenFed:
    """Values of a second model where its layers are fed with what the first one's read.

    Attributes:
        read: The values of the first model that it is fed with.
    """

    def __init__(self, pilot: Pilot, counterparts: Iterable[Counterpart], wanted: Iterable[Counterpart]) -> None:
        """Open a session.

        Args:
            pilot: Of the second model.
            counterparts: Those that are `replaced` are fed.
            wanted: Those of the values to compute.

        Raises:
            RunError: onnxruntime fails.
        """
        proto, self._fed = own_model(pilot.model, pilot.tapped.proto, list(counterparts), list(wanted))
        self._session = open_session(pilot.model, proto)
        self.read = [pair.a for pair in self._fed.values()]

    def run(self, feeds: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
        """The values by the second model's names, fed with what the first one holds at `read`.

        Raises:
            RunError: onnxruntime fails.
        """
        answers = self._session.run({**feeds, **{name: pair.to_b(held[pair.a]) for name, pair in self._fed.items()}})
        return {name.removeprefix("o:"): value for name, value in answers.items()}


def noise_when_fed(
    pilot: Pilot, counterparts: Iterable[Counterpart], wanted: Iterable[Counterpart]
) -> dict[str, Discrepancy]:
    """Measure how far values of a model are from themselves where its layers are fed with what they read at first.

    Args:
        pilot: Of the first model; its first run is made.
        counterparts: Those that are `replaced` are fed.
        wanted: Those of the values to measure.

    Returns:
        By output of the tapped copy: a value behind a random node is near itself, where what computes it is not random.

    Raises:
        RunError: onnxruntime fails.
    """
    wanted = [_with_itself(pair) for pair in wanted]
    proto, used = own_model(pilot.model, pilot.tapped.proto, [_with_itself(pair) for pair in counterparts], wanted)
    held = pilot.values([*(pair.a for pair in wanted), *(pair.a for pair in used.values())])
    feeds = {**pilot.feeds, **{name: held[pair.a] for name, pair in used.items()}}
    noise: dict[str, Discrepancy] = {}
    # As in `own_noise`: without optimization too, and once more in the session that has drawn already.
    for runs, session in ((2, open_session(pilot.model, proto)), (1, open_session(pilot.model, proto, optimize=False))):
        for answers in (session.run(feeds) for _ in range(runs)):
            for name, value in answers.items():
                output = name.removeprefix("o:")
                axis = next(pair.channel_axis for pair in wanted if pair.a == output)
                found = discrepancy_of(held[output], value, axis, None)
                noise[output] = larger_noise(found, noise.get(output, found))
    return noise


def _layer(node: UnstableNode) -> tuple[str, ...]:
    return node.operator, node.kind, node.layer


def _operator(node: UnstableNode) -> tuple[str, ...]:
    return node.operator, node.kind


def _with_itself(pair: Counterpart) -> Counterpart:
    """The value of the first model as its own counterpart."""
    return replace(pair, b=pair.a, shape_b=pair.shape_a, dtype_b=pair.dtype_a, permutation=(), reshaped=False)


def _paired(
    first: Model, second: Model
) -> tuple[list[tuple[UnstableNode, UnstableNode]], tuple[list[UnstableNode], list[UnstableNode]]]:
    """The nodes of both models that belong together, and those of either that are left over."""
    pairs: list[tuple[UnstableNode, UnstableNode]] = []
    left, right = list(find_unstable(first)), list(find_unstable(second))
    for alike in (_layer, _operator):
        waiting: dict[tuple[str, ...], list[UnstableNode]] = {}
        for node in right:
            waiting.setdefault(alike(node), []).append(node)
        taken = [(node, waiting[alike(node)].pop(0)) for node in left if waiting.get(alike(node))]
        pairs += taken
        left = [node for node in left if all(node is not x for x, _ in taken)]
        right = [node for node in right if all(node is not y for _, y in taken)]
    return pairs, (left, right)
