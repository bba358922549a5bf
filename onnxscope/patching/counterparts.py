"""Which value of another model belongs in place of a value, paired as `diff` pairs layers, and how it gets there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.model.channel_axes import default_axis
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.pairing.align_layers import align_layers, layer_keys
from onnxscope.pairing.match_values import Counterpart, match_values, paired_values
from onnxscope.pairing.model_layers import ModelLayers
from onnxscope.patching.graph_edit import PatchWriter
from onnxscope.selection.selectors import Tap

__all__ = ["PairedLayers", "Seen", "match_seen", "written_as_b"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Seen:
    """What a value was in one run.

    Attributes:
        dtype: numpy's name of its element type.
        shape: Its sides.
    """

    dtype: str
    shape: tuple[int, ...]


class PairedLayers:
    """The layers of two models, paired as `diff` pairs them without running anything."""

    def __init__(self, model: Model, donor: Model) -> None:
        """Pair the layers.

        Args:
            model: Whose values are replaced.
            donor: Whose values stand in their place.
        """
        self._donor = donor
        self.sides = ModelLayers(model), ModelLayers(donor)
        keys = [layer_keys(one.layers, one.weights.content, one.surroundings, one.weights.sketch) for one in self.sides]
        self.pairs: Mapping[int, int] = dict(align_layers(keys[0], keys[1]).pairs)
        for side in self.sides:
            side.model.storage.release()

    def taps(self, tap: Tap) -> tuple[Tap, Tap]:
        """Return where a value is replaced, and the value of the other model that stands in its place.

        Where only one of two layers has an activation function, both are taken before it.

        Raises:
            InputError: The other model has none, or one of them is inside a body.
        """
        mine, others = self.sides
        found = next((place for place, layer in enumerate(mine.layers) if _is_at(layer, tap)), None)
        if found is not None and found in self.pairs:
            layer, other = mine.layers[found], others.layers[self.pairs[found]]
            value, partner = layer.inner, other.inner
            if tap.value == layer.value and layer.activated == other.activated:
                value, partner = layer.value, other.value
            pair = (
                tap if value == tap.value else mine.tap(layer, value, value),
                others.tap(other, partner, f"{tap.name}"),
            )
        else:
            partner_tap = paired_values(self._donor, [tap])[0][1]
            if partner_tap is None:
                raise InputError(
                    f"{self._donor.name} has no value that belongs in place of {printable(tap.layer)!r}",
                    hint="`onnxscope diff` of both models lists which layers are paired; a .npy takes any value",
                )
            pair = tap, partner_tap
        if any(one.path for one in pair):
            raise InputError(
                f"{printable(tap.layer)!r} is inside a body, where no other model is run: {self.sides[0].model.name}",
                hint="give zero, or a .npy with what it holds in every round",
            )
        return pair


def _is_at(layer: Layer, tap: Tap) -> bool:
    return layer.path == tap.path and tap.value in (layer.value, layer.inner)


def match_seen(taps: tuple[Tap, Tap], names: tuple[str, str], seen: tuple[Seen, Seen]) -> Counterpart | None:
    """Find out how a value becomes another; see `match_values`.

    Args:
        taps: At the value that is given and at the one that it becomes.
        names: What they are called in the graph that is written.
        seen: What both were in one run.

    Returns:
        None where their shapes do not allow it.
    """
    axes = [default_axis(len(one.shape), tap.channel_axis) for tap, one in zip(taps, seen, strict=True)]
    shapes, dtypes = (seen[0].shape, seen[1].shape), (seen[0].dtype, seen[1].dtype)
    return match_values(names[0], names[1], shapes, dtypes, (axes[0], axes[1]), replaced=True)


def written_as_b(writer: PatchWriter, value: str, pair: Counterpart, shape: Callable[[], str]) -> str:
    """Append what makes of `pair.a`, called `value` here, what `pair.b` would be; `shape` gives its sides."""
    order: Sequence[int] = pair.permutation
    if pair.reshaped:
        value = writer.node("Reshape", [value, shape()])
    elif order:
        value = writer.node("Transpose", [value], perm=np.argsort(order).tolist())
    if pair.dtype_a != pair.dtype_b:
        value = writer.cast(value, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(pair.dtype_b)))
    return value
