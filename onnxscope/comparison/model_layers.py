"""The layers of one model, what reads their weights, and taps at their values."""

from __future__ import annotations

from typing import Any

from onnxscope.comparison.layer_weights import LayerWeights
from onnxscope.model.channel_axes import activation_axes
from onnxscope.model.layer_names import Names
from onnxscope.model.layers import Layer, find_layers
from onnxscope.model.loading import Model
from onnxscope.model.selectors import At, Tap

__all__ = ["ModelLayers"]


class ModelLayers:
    """The layers of one model, and what reads their weights.

    Attributes:
        model: Whose layers they are.
        names: What its source framework called them.
        layers: In execution order.
        weights: Reads the weights of a layer.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.names = Names(model)
        self.layers = find_layers(self.names)
        self.weights = LayerWeights(self.names)
        self._axes: dict[Any, Any] = {}

    def before(self, layer: Layer) -> list[Layer]:
        """The layers that a layer reads."""
        return [self.layers[index] for index in layer.before]

    def tap(self, layer: Layer, value: str, name: str, at: At | None = None) -> Tap:
        """A tap at a layer's value."""
        return Tap(
            name=name,
            value=value,
            path=layer.path,
            layer=layer.name,
            op_type=layer.node.op_type,
            at=at,
            channel_axis=self.axis(layer.path, value),
            order=(0,),
        )

    def output_tap(self, value: str, name: str) -> Tap:
        """A tap at one of the model's outputs."""
        return Tap(
            name=name,
            value=value,
            path=(),
            layer=value,
            op_type="Output",
            at=None,
            channel_axis=self.axis((), value),
            order=(0,),
        )

    def axis(self, path: Any, value: str) -> int | None:
        """The channel axis, as far as operators tell it."""
        if path not in self._axes:
            self._axes[path] = activation_axes(self.model.graphs[path])
        known: int | None = self._axes[path].get(value)
        return known
