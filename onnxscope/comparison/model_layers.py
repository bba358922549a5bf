"""The layers of one model, what reads their weights, and taps at their values."""

from __future__ import annotations

from onnxscope.comparison.layer_weights import LayerWeights
from onnxscope.model.graphs import Step
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.model.selectors import At, Tap

__all__ = ["ModelLayers"]


class ModelLayers:
    """The layers of one model, and what reads their weights.

    Attributes:
        model: Whose layers they are.
        layers: In execution order.
        weights: Reads the weights of a layer.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.layers = model.layers
        self.weights = LayerWeights(model)

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

    def axis(self, path: tuple[Step, ...], value: str) -> int | None:
        """The channel axis, as far as operators tell it."""
        return self.model.channel_axes(path).get(value)
