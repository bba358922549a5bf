"""Which layers, nodes and other values of a model selectors choose, for `diff` and `check`."""

from __future__ import annotations

from collections.abc import Sequence

from onnxscope.base.text import printable
from onnxscope.errors import SelectorError
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.selection.selectors import Tap, choose, weighted_taps

__all__ = ["Selection"]


class Selection:
    """What selectors choose of a model; exclusions alone leave something out of everything.

    Attributes:
        layers: Indices of the chosen layers.
        values: Chosen values that belong to no layer, such as those of a pooling.
        left_out: Names of the parameters that are left out by their own name; their layers stay.
        left_out_places: The graph and the name under which each of these is stored.
        fed: Names of chosen inputs, which are fed and not computed.
    """

    def __init__(self, model: Model, selectors: Sequence[str], *, may_be_empty: bool = False) -> None:
        """Resolve the selectors.

        Args:
            model: Whose layers.
            selectors: None at all, or exclusions alone, start from everything.
            may_be_empty: Whether nothing may be left.

        Raises:
            SelectorError: One is malformed or matches nothing, or nothing is left.
        """
        choice = choose(model, selectors)
        self.left_out = choice.parameters
        self.left_out_places = frozenset(
            (part.graph.path, part.initializer) for part in model.parameters if part.name in choice.parameters
        )
        owned = [{(layer.path, value) for value in layer.values} for layer in model.layers]
        taps = weighted_taps(model)
        # What stands for a layer where it is excluded: what it is observed at, not what is inside it.
        ends = [
            {(layer.path, layer.value), *((tap.path, tap.value) for tap in taps[layer.node])} for layer in model.layers
        ]
        self._everything = choice.taps is None
        self.layers = frozenset(
            index
            for index in range(len(model.layers))
            if (self._everything or owned[index] & choice.inside) and not ends[index] & choice.excluded
        )
        of_layers = set().union(*owned)
        self.values: tuple[Tap, ...] = tuple(
            tap
            for tap in choice.taps or ()
            if (tap.path, tap.value) not in of_layers and tap.value in model.graphs[tap.path].producers
        )
        self.fed = tuple(tap.layer for tap in choice.taps or () if tap.op_type == "Input")
        if not self.layers and not self.values and not may_be_empty:
            reason = "the exclusions leave nothing" if choice.excluded else "nothing that is computed is selected"
            if self.fed and not choice.excluded:
                fed = ", ".join(map(printable, self.fed))
                reason = f"inputs are fed, not computed, and nothing else is selected to be compared ({fed})"
            raise SelectorError(f"{reason}: {model.name}", hint="name a layer, or use op:Conv")
        kept = set().union(*(owned[index] for index in self.layers))
        self._left_out = (of_layers - kept) | (choice.excluded - kept)
        self._kept = kept | (choice.inside - self._left_out)

    def holds(self, node: Node | None) -> bool:
        """Whether a node is meant; None stands for an output, or for several nodes, which always are."""
        if node is None:
            return True
        places = {(node.path, value) for value in node.outputs if value}
        return not places <= self._left_out if self._everything else bool(places & self._kept)
