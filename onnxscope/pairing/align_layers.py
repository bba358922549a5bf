"""Which layer of one model is which layer of another.

By name, where the frameworks' own names agree; by content, where the weights are the same numbers in any order; by
structure, where what lies before a layer or behind it has the same kinds and shapes; in order, for what is left
between two pairs; by values, where what is still left gives nearly the same numbers. Evidence that is ambiguous is not
used.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.model.layer_names import is_anonymous, own_name
from onnxscope.model.layers import Layer, signatures
from onnxscope.numerics.sketches import are_near

__all__ = ["Align", "Alignment", "LayerKey", "align_layers", "layer_keys", "pair_by_values"]

Align = Literal["auto", "name", "structure", "content"]


@dataclass(frozen=True)
class LayerKey:
    """What a layer is recognized by.

    Attributes:
        name: As the source framework called it, None where the name only counts operators.
        kind: Its operator.
        shape: The weight's, outputs first.
        before: A digest of everything before it, itself included.
        behind: A digest of everything behind it.
        content: Returns a digest of the numbers in its weight, whatever their order; None where it has none.
        body: The attributes that lead to its graph, outermost first.
        place: Returns digests of everything before it and behind it, node by node; None where they are not known.
        sketch: Returns what tells whether its weight is nearly that of another, None where it has none.
    """

    name: str | None
    kind: str
    shape: tuple[int, ...]
    before: str
    behind: str
    content: Callable[[], str | None]
    body: tuple[str, ...] = ()
    place: Callable[[], tuple[str, str] | None] = lambda: None
    sketch: Callable[[], NDArray[np.float64] | None] = lambda: None


@dataclass(frozen=True)
class Alignment:
    """Pairs of layers, and those without a partner.

    Attributes:
        pairs: Indices in the first and the second model, in the order of the first.
        only_a: Indices of the first model's other layers, ascending.
        only_b: The second's.
    """

    pairs: tuple[tuple[int, int], ...]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]


def layer_keys(
    layers: Sequence[Layer],
    content: Callable[[Layer], str | None],
    place: Callable[[Layer], tuple[str, str] | None] = lambda layer: None,
    sketch: Callable[[Layer], NDArray[np.float64] | None] = lambda layer: None,
) -> list[LayerKey]:
    """Return what the layers of a model are recognized by; no weight is read before it is needed."""
    return [
        LayerKey(
            _name_of(layer),
            layer.kind,
            layer.shape,
            before,
            behind,
            partial(content, layer),
            tuple(step.attribute for step in layer.path),
            partial(place, layer),
            partial(sketch, layer),
        )
        for layer, (before, behind) in zip(layers, signatures(layers), strict=True)
    ]


def align_layers(a: Sequence[LayerKey], b: Sequence[LayerKey], by: Align = "auto") -> Alignment:
    """Pair the layers of two models.

    Args:
        a: The first model's layers, in execution order.
        b: The second's.
        by: Which evidence is used; `auto` uses all of it.
    """
    pairing = _Pairing(a, b)
    if by == "auto":
        pairing.by_place()
    if by in ("auto", "name"):
        pairing.by_name(agreeing=by == "auto")
    if by in ("auto", "content"):
        pairing.by_content()
    if by == "auto":
        pairing.by_name(agreeing=False)
        pairing.by_near_content()
    if by in ("auto", "structure"):
        pairing.by_structure()
        pairing.in_order()
    return pairing.result()


def pair_by_values(alignment: Alignment, near: Iterable[tuple[int, int]]) -> Alignment:
    """Pair layers that other evidence has left over, by what leaves them.

    Args:
        alignment: Of all layers.
        near: Layers left over of the first and the second model that give nearly the same numbers. One that is near two
            others is paired with none.

    Returns:
        A new alignment, which has the pairs of the old one.
    """
    candidates = set(near)
    counts = [Counter(pair[side] for pair in candidates) for side in (0, 1)]
    alone = sorted(pair for pair in candidates if counts[0][pair[0]] == counts[1][pair[1]] == 1)
    pairs = (*alignment.pairs, *_mostly_in_order(alignment.pairs, alone))
    paired = [{pair[side] for pair in pairs} for side in (0, 1)]
    return Alignment(
        tuple(sorted(pairs)),
        tuple(index for index in alignment.only_a if index not in paired[0]),
        tuple(index for index in alignment.only_b if index not in paired[1]),
    )


_Key = Callable[[LayerKey], Hashable | None]


class _Pairing:
    def __init__(self, a: Sequence[LayerKey], b: Sequence[LayerKey]) -> None:
        self._a, self._b = a, b
        self._of_a: dict[int, int] = {}
        self._of_b: dict[int, int] = {}

    def result(self) -> Alignment:
        return Alignment(
            tuple(sorted(self._of_a.items())),
            tuple(index for index in range(len(self._a)) if index not in self._of_a),
            tuple(index for index in range(len(self._b)) if index not in self._of_b),
        )

    def by_place(self) -> None:
        """Pair layers that everything before and behind tells from all others, or from all others of other weights.

        Weights are read of layers that look alike alone. Where these are told apart, the last of them is too.
        """
        self._pair_all(self._unique(_place_key))
        groups = self._places(_place_key, self._a, self._of_a), self._places(_place_key, self._b, self._of_b)
        for evidence, places in groups[0].items():
            if evidence in groups[1]:
                self._pair_all(self._unique(_content_key, places, groups[1][evidence]))
        self._pair_all(self._unique(_place_key))

    def by_name(self, *, agreeing: bool) -> None:
        """Pair layers of one name and kind; `agreeing` asks that structure or content agree too."""
        for left, right in self._told_apart(_name_key):
            if not agreeing or self._agree(self._a[left], self._b[right]):
                self._pair(left, right)

    def by_content(self) -> None:
        """Pair layers whose weights are the same numbers; one that crosses most others is left to other evidence."""
        self._pair_all(_mostly_in_order(self._of_a.items(), self._told_apart(_content_key)))

    def by_near_content(self) -> None:
        """Pair layers that look alike, several of them, whose weights are the same but for rounding."""
        groups = self._places(_kind_key, self._a, self._of_a), self._places(_kind_key, self._b, self._of_b)
        candidates: list[tuple[int, int]] = []
        for evidence, places in groups[0].items():
            others = groups[1].get(evidence, [])
            if len(places) == len(others) == 1:
                continue  # nothing else is there to take one for
            left, right = (
                [(place, key[place].sketch()) for place in group]
                for key, group in ((self._a, places), (self._b, others))
            )
            near = [(x, y) for x, a in left for y, b in right if a is not None and b is not None and are_near(a, b)]
            counts = [Counter(pair[side] for pair in near) for side in (0, 1)]
            candidates += [(x, y) for x, y in near if counts[0][x] == counts[1][y] == 1]
        self._pair_all(_mostly_in_order(self._of_a.items(), sorted(candidates)))

    def by_structure(self) -> None:
        """Pair layers with the same surroundings: on both sides, then before them, then behind them."""
        keys: Sequence[_Key] = (lambda key: (key.before, key.behind), lambda key: key.before, lambda key: key.behind)
        for key in keys:
            for left, right in self._alike(key):
                self._pair(left, right)

    def in_order(self) -> None:
        """Pair what is left between two pairs, in order, where kind and shape agree."""
        left = [index for index in range(len(self._a)) if index not in self._of_a]
        right = [index for index in range(len(self._b)) if index not in self._of_b]
        # What is left is matched within its gap only, so a token says between how many pairs a layer stands.
        paired_a, paired_b = sorted(self._of_a), sorted(self._of_b)
        tokens_a = [(*_kind_key(self._a[index]), bisect_left(paired_a, index)) for index in left]
        tokens_b = [(*_kind_key(self._b[index]), bisect_left(paired_b, index)) for index in right]
        matcher = difflib.SequenceMatcher(None, tokens_a, tokens_b, autojunk=False)
        for start_a, start_b, size in matcher.get_matching_blocks():
            for step in range(size):
                self._pair(left[start_a + step], right[start_b + step])

    @staticmethod
    def _agree(left: LayerKey, right: LayerKey) -> bool:
        before, behind = left.before == right.before, left.behind == right.behind
        if before and behind and left.shape:
            return True
        if not (before or behind or left.shape == right.shape):
            return False
        content = left.content()
        return content is not None and content == right.content()

    def _unique(
        self, key: _Key, among_a: Iterable[int] | None = None, among_b: Iterable[int] | None = None
    ) -> list[tuple[int, int]]:
        """Unpaired layers with a key that one layer of each model has."""
        places_a = self._places(key, self._a, self._of_a, among_a)
        places_b = self._places(key, self._b, self._of_b, among_b)
        return [
            (places[0], places_b[evidence][0])
            for evidence, places in places_a.items()
            if len(places) == 1 and len(places_b.get(evidence, ())) == 1
        ]

    def _told_apart(self, key: _Key) -> list[tuple[int, int]]:
        """Unpaired layers of one key; where several have it, those that belong together by further evidence."""
        places_a, places_b = self._places(key, self._a, self._of_a), self._places(key, self._b, self._of_b)
        return [
            pair
            for evidence, places in places_a.items()
            if evidence in places_b
            for pair in self._matched(places, places_b[evidence])
        ]

    def _alike(self, key: _Key) -> list[tuple[int, int]]:
        """Unpaired layers with a key that as many layers of each model have."""
        places_a, places_b = self._places(key, self._a, self._of_a), self._places(key, self._b, self._of_b)
        return [
            pair
            for evidence, places in places_a.items()
            if len(places) == len(places_b.get(evidence, ()))
            for pair in self._matched(places, places_b[evidence])
        ]

    def _matched(self, left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int]]:
        """Pair layers that one key does not tell apart: by where they stand and what they hold, at last in order."""
        if len(left) == len(right) == 1:
            return [(left[0], right[0])]
        pairs: list[tuple[int, int]] = []
        done: tuple[dict[int, int], dict[int, int]] = {}, {}
        for key in _FURTHER:
            groups = [
                self._places(key, layers, paired, places)
                for layers, paired, places in ((self._a, done[0], left), (self._b, done[1], right))
            ]
            for evidence, places in groups[0].items():
                if len(places) == len(groups[1].get(evidence, ())):
                    more = list(zip(places, groups[1][evidence], strict=True))
                    pairs += more
                    done[0].update(more)
                    done[1].update((y, x) for x, y in more)
        return pairs

    @staticmethod
    def _places(
        key: _Key, layers: Sequence[LayerKey], paired: dict[int, int], among: Iterable[int] | None = None
    ) -> dict[Hashable, list[int]]:
        places: dict[Hashable, list[int]] = {}
        for index in range(len(layers)) if among is None else among:
            evidence = None if index in paired else key(layers[index])
            if evidence is not None:
                places.setdefault(evidence, []).append(index)
        return places

    def _pair_all(self, pairs: Iterable[tuple[int, int]]) -> None:
        for left, right in pairs:
            self._pair(left, right)

    def _pair(self, left: int, right: int) -> None:
        if not _may_be_one(self._a[left].body, self._b[right].body):
            return
        if left not in self._of_a and right not in self._of_b:
            self._of_a[left] = right
            self._of_b[right] = left


def _mostly_in_order(paired: Iterable[tuple[int, int]], candidates: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the candidates that cross fewer than half of all pairs, those among the candidates included."""
    pairs = sorted([*paired, *candidates])
    wanted = set(candidates)
    in_order = []
    before: list[int] = []  # the second model's places of the pairs before this one in the first model
    behind = sorted(right for _, right in pairs)
    for left, right in pairs:
        del behind[bisect_left(behind, right)]
        crossing = len(before) - bisect_left(before, right) + bisect_left(behind, right)
        insort(before, right)
        if (left, right) in wanted and 2 * crossing < len(pairs):
            in_order.append((left, right))
    return in_order


def _name_of(layer: Layer) -> str | None:
    is_counted = is_anonymous(layer.name) or layer.name.rpartition("_")[0] == layer.node.op_type
    return None if is_counted else own_name(layer.name).replace("/", ".")


def _name_key(key: LayerKey) -> Hashable | None:
    return None if key.name is None else (key.name, key.kind)


def _content_key(key: LayerKey) -> Hashable | None:
    return key.content()


def _kind_key(key: LayerKey) -> tuple[Hashable, ...]:
    return key.body, key.kind, key.shape


def _place_key(key: LayerKey) -> Hashable | None:
    place = key.place()
    return None if place is None else (place, key.body)


def _place_and_content(key: LayerKey) -> Hashable | None:
    place = key.place()
    content = None if place is None else key.content()
    return None if content is None else (place, key.body, content)


def _side_and_content(side: int, key: LayerKey) -> Hashable | None:
    place, content = key.place(), key.content()
    return None if place is None or content is None else (place[side], key.body, content)


def _side_key(side: int, key: LayerKey) -> Hashable | None:
    place = key.place()
    return None if place is None else (place[side], key.body)


# Of layers that look alike, the strongest first; 0 is before a layer, and 1 behind it.
_FURTHER: Sequence[_Key] = (
    _place_and_content,
    _place_key,
    partial(_side_and_content, 1),
    partial(_side_and_content, 0),
    lambda key: (key.body, key.content(), key.before, key.behind),
    lambda key: (key.body, key.content()),
    partial(_side_key, 1),
    partial(_side_key, 0),
    _kind_key,
    lambda key: key.kind,
)


def _may_be_one(x: Sequence[str], y: Sequence[str]) -> bool:
    """Whether two layers may be one though their bodies are not the same: an optimizer may have inlined some."""
    few, many = sorted((x, y), key=len)
    rest = iter(many)
    return all(step in rest for step in few)
