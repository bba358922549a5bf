"""What a layer costs: multiply-accumulates of one sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxscope.model.layer_names import Operand

__all__ = ["multiply_accumulates"]

_Shape = Sequence[int | str | None]


def multiply_accumulates(
    operand: Operand, dims: Sequence[int], channel_axis: int | None, read: _Shape | None, made: _Shape | None
) -> int | None:
    """Return how often a layer multiplies and adds for one sample; its bias is left out.

    Every number of the weight is used once for each position: of the output, or of the input where a ConvTranspose
    spreads it.

    Args:
        operand: The layer's weight.
        dims: The stored shape.
        channel_axis: The axis of `dims` that counts outputs, None where it is unknown.
        read: The shape of the layer's input, whose first axis counts samples.
        made: The shape of its output, likewise, with the channels on any axis.

    Returns:
        None for an operator that is no convolution and no matrix product, and where a shape is not known.
    """
    cost = operand.node.operator.cost
    if cost == "spreading" and operand.origin is not None and operand.origin.permutation is not None and dims:
        shape, channels = read, dims[operand.origin.permutation[0] if operand.origin.permutation else 0]
    elif (cost == "convolution" or (cost == "product" and len(dims) == 2)) and channel_axis is not None:
        shape, channels = made, dims[channel_axis]
    else:
        return None
    sides = [side for side in (shape or ())[1:] if isinstance(side, int)]
    if shape is None or len(sides) < len(shape) - 1 or not channels or math.prod(sides) % channels:
        return None
    return math.prod(sides) // channels * math.prod(dims)
