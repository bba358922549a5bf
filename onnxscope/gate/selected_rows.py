"""Which rows of a baseline a check looks at: what selectors choose, without what the settings ignore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxscope.base.name_patterns import KINDS, matcher
from onnxscope.errors import SelectorError
from onnxscope.gate.baseline_rows import row_names
from onnxscope.gate.settings import Settings
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.selection.chosen_parts import Selection
from onnxscope.selection.selectors import choose

__all__ = ["SelectedRows"]


class SelectedRows:
    """The rows that are checked; outputs always are, unless the settings ignore them.

    Attributes:
        settings: With tolerances by the names of rows, where they were given by another kind of selector.
        outputs: Names of the rows of layers whose value is an output of the model.
    """

    def __init__(
        self, model: Model, old_layers: Sequence[Mapping[str, Any]], select: Sequence[str], settings: Settings
    ) -> None:
        """Resolve the selectors.

        Args:
            model: As it is now.
            old_layers: The rows of the baseline's layers; one that is gone is selected by its name or operator.
            select: As for `diff`.
            settings: Their patterns may match nothing here.

        Raises:
            SelectorError: A selector of `select` is malformed or matches nothing.
        """
        names = row_names(model)
        self._select = select
        known = [selector for selector in select if _matches(model, selector.removeprefix("!"))]
        for selector in select:
            if selector not in known and not any(_fits(selector.removeprefix("!"), row) for row in old_layers):
                choose(model, [selector])  # which says what is wrong with it
        ignored = [f"!{pattern}" for pattern in settings.ignore if _matches(model, pattern)]
        if any(not selector.startswith("!") for selector in select) and all(s.startswith("!") for s in known):
            ignored = ["!value:*"]  # what is selected is gone
        self._chosen = Selection(model, [*known, *ignored], may_be_empty=known == []) if known or ignored else None
        self._layers = _names_of(names, self._chosen)
        self._weights = {
            part.name: self.holds(None if part.operand is None else part.operand.node)
            and (self._chosen is None or part.name not in self._chosen.left_out)
            for part in model.parameters
        }
        self._left_out = frozenset(names) - self._layers
        self.outputs = frozenset(
            name
            for name, layer in zip(names, model.layers, strict=True)
            if not layer.path and layer.value in model.main.outputs
        )
        tolerances: dict[str, float] = {}
        for pattern, tolerance in settings.tolerances.items():
            chosen = [pattern]
            if pattern.partition(":")[0] in KINDS and not pattern.startswith("re:"):
                matching = _matches(model, pattern)
                chosen = sorted(_names_of(names, Selection(model, [pattern], may_be_empty=True))) if matching else []
            for name in chosen:
                tolerances.pop(name, None)
                tolerances[name] = tolerance
        self.settings = replace(settings, tolerances=tolerances)

    def holds(self, node: Node | None) -> bool:
        """Whether what is said of a node of the model is looked at."""
        return self._chosen is None or self._chosen.holds(node)

    def holds_layer(self, row: Mapping[str, Any]) -> bool:
        """Whether the row of a layer, or of an output, is looked at; of the model or of the baseline."""
        name = row["layer"]
        if self.settings.ignores(name):
            return False
        if name in self._layers or row["op_type"] == "Output":
            return True
        return name not in self._left_out and self._holds_gone(row)

    def holds_weight(self, row: Mapping[str, Any]) -> bool:
        """Whether the row of a weight is looked at."""
        if self.settings.ignores(row["layer"]):
            return False
        if row["name"] in self._weights:
            return self._weights[row["name"]]
        layer = row["layer"]
        return layer in self._layers or (layer not in self._left_out and self._holds_gone({**row, "op_type": ""}))

    def _holds_gone(self, row: Mapping[str, Any]) -> bool:
        """The same for what the model has no more."""
        chosen = [selector for selector in self._select if not selector.startswith("!")]
        excluded = [selector[1:] for selector in self._select if selector.startswith("!")]
        if any(_fits(selector, row) for selector in excluded):
            return False
        return not chosen or any(_fits(selector, row) for selector in chosen)


def _matches(model: Model, selector: str) -> bool:
    try:
        return bool(choose(model, [selector]).inside)
    except SelectorError:
        return False


def _fits(selector: str, row: Mapping[str, Any]) -> bool:
    """Whether a selector means a row of a baseline, as far as the row tells."""
    kind, _, pattern = selector.partition(":")
    if kind == "op":
        return matcher(pattern)(row["op_type"])
    matches = matcher(selector)
    return matches(row["layer"]) or matches(row.get("name", "")) or row["layer"].startswith(f"{selector}.")


def _names_of(names: Sequence[str], chosen: Selection | None) -> frozenset[str]:
    return frozenset(names if chosen is None else (names[index] for index in chosen.layers))
