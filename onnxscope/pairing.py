"""Which layer of one model is which layer of another.

By name, where the frameworks' own names agree; by content, where the weights are the same numbers in any order; by
structure, where what lies before a layer or behind it has the same kinds and shapes; in order, for what is left
between two pairs. Evidence that is ambiguous is not used.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxscope.layer_graph import Layer, signatures
from onnxscope.names import is_anonymous

__all__ = ["Align", "Alignment", "align_layers"]

Align = Literal["auto", "name", "structure", "content"]
_Key = Callable[[int], Hashable | None]


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


def align_layers(
    a: Sequence[Layer],
    b: Sequence[Layer],
    content_a: Callable[[Layer], int | None],
    content_b: Callable[[Layer], int | None],
    by: Align = "auto",
) -> Alignment:
    """Pair the layers of two models.

    Args:
        a: The first model's layers, in execution order.
        b: The second's.
        content_a: A digest of a layer's weight that does not depend on the order of its numbers.
        content_b: The same for the second model's layers.
        by: Which evidence is used; `auto` uses all of it.
    """
    pairing = _Pairing(a, b)
    if by in ("auto", "name"):
        pairing.by_name(agreeing=by == "auto", contents=(content_a, content_b) if by == "auto" else None)
    if by in ("auto", "content"):
        pairing.by_content(content_a, content_b)
    if by == "auto":
        pairing.by_name(agreeing=False, contents=None)
    if by in ("auto", "structure"):
        pairing.by_structure()
    if by in ("auto", "structure"):
        pairing.in_order()
    return pairing.result()


class _Pairing:
    def __init__(self, a: Sequence[Layer], b: Sequence[Layer]) -> None:
        self._a, self._b = a, b
        self._of_a: dict[int, int] = {}
        self._of_b: dict[int, int] = {}
        self._signed_a, self._signed_b = signatures(a), signatures(b)

    def result(self) -> Alignment:
        return Alignment(
            tuple(sorted(self._of_a.items())),
            tuple(index for index in range(len(self._a)) if index not in self._of_a),
            tuple(index for index in range(len(self._b)) if index not in self._of_b),
        )

    def by_name(
        self,
        *,
        agreeing: bool,
        contents: tuple[Callable[[Layer], int | None], Callable[[Layer], int | None]] | None,
    ) -> None:
        """Pair layers of one name and kind; `agreeing` asks that structure or content agree too."""
        for left, right in self._unique(lambda i: _name_key(self._a[i]), lambda i: _name_key(self._b[i])):
            if not agreeing or self._agree(left, right, contents):
                self._pair(left, right)

    def by_content(self, content_a: Callable[[Layer], int | None], content_b: Callable[[Layer], int | None]) -> None:
        """Pair layers whose weights are the same numbers; a pair that would cross others is left to other evidence."""

        def key(layers: Sequence[Layer], content: Callable[[Layer], int | None]) -> _Key:
            def of(index: int) -> Hashable | None:
                digest = content(layers[index])
                return None if digest is None else (layers[index].call, digest)

            return of

        found = self._unique(key(self._a, content_a), key(self._b, content_b))
        for left, right in found:
            crossing = sum((other - left) * (self._of_a[other] - right) < 0 for other in self._of_a)
            if crossing <= len(self._of_a) // 2:
                self._pair(left, right)

    def by_structure(self) -> None:
        """Pair layers with the same surroundings: on both sides, then before them, then behind them."""
        keys: Sequence[tuple[_Key, _Key]] = (
            (lambda i: self._signed_a[i], lambda i: self._signed_b[i]),
            (lambda i: self._signed_a[i][0], lambda i: self._signed_b[i][0]),
            (lambda i: self._signed_a[i][1], lambda i: self._signed_b[i][1]),
        )
        for key_a, key_b in keys:
            for left, right in self._alike(key_a, key_b):
                self._pair(left, right)

    def in_order(self) -> None:
        """Pair what is left between two pairs, in order, where kind and shape agree."""
        left = [index for index in range(len(self._a)) if index not in self._of_a]
        right = [index for index in range(len(self._b)) if index not in self._of_b]
        tokens_a = [(self._a[index].kind, self._a[index].shape, self._rank(self._a, index)) for index in left]
        tokens_b = [(self._b[index].kind, self._b[index].shape, self._rank(self._b, index)) for index in right]
        matcher = difflib.SequenceMatcher(None, tokens_a, tokens_b, autojunk=False)
        for start_a, start_b, size in matcher.get_matching_blocks():
            for step in range(size):
                self._pair(left[start_a + step], right[start_b + step])

    def _rank(self, layers: Sequence[Layer], index: int) -> int:
        """Between how many pairs a layer stands: what is left is matched within its gap only."""
        paired = self._of_a if layers is self._a else self._of_b
        return sum(other < index for other in paired)

    def _agree(
        self,
        left: int,
        right: int,
        contents: tuple[Callable[[Layer], int | None], Callable[[Layer], int | None]] | None,
    ) -> bool:
        before, behind = (x == y for x, y in zip(self._signed_a[left], self._signed_b[right], strict=True))
        if before and behind and self._a[left].shape:
            return True
        if contents is None or not (before or behind or self._a[left].shape == self._b[right].shape):
            return False
        content = contents[0](self._a[left])
        return content is not None and content == contents[1](self._b[right])

    def _unique(self, key_a: _Key, key_b: _Key) -> list[tuple[int, int]]:
        """Unpaired layers with a key that one layer of each model has."""
        places_a, places_b = self._places(key_a, self._a, self._of_a), self._places(key_b, self._b, self._of_b)
        return [
            (places[0], places_b[key][0])
            for key, places in places_a.items()
            if len(places) == 1 and len(places_b.get(key, ())) == 1
        ]

    def _alike(self, key_a: _Key, key_b: _Key) -> list[tuple[int, int]]:
        """Unpaired layers with a key that as many layers of each model have, in order."""
        places_a, places_b = self._places(key_a, self._a, self._of_a), self._places(key_b, self._b, self._of_b)
        return [
            pair
            for key, places in places_a.items()
            if len(places) == len(places_b.get(key, ()))
            for pair in zip(places, places_b[key], strict=True)
        ]

    @staticmethod
    def _places(key: _Key, layers: Sequence[Layer], paired: dict[int, int]) -> dict[Hashable, list[int]]:
        places: dict[Hashable, list[int]] = {}
        for index in range(len(layers)):
            found = None if index in paired else key(index)
            if found is not None:
                places.setdefault(found, []).append(index)
        return places

    def _pair(self, left: int, right: int) -> None:
        if left not in self._of_a and right not in self._of_b:
            self._of_a[left] = right
            self._of_b[right] = left


def _name_key(layer: Layer) -> Hashable | None:
    """What tells a layer by name; None for a name that only counts operators."""
    if is_anonymous(layer.name) or layer.name.rpartition("_")[0] == layer.node.op_type:
        return None
    return layer.name.replace("/", "."), layer.call, layer.kind
