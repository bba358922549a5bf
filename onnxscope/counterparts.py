"""Match what two models are fed and what they hold: names, axes and element types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnxscope.arrays import spec_text
from onnxscope.errors import InputError
from onnxscope.layouts import find_layout
from onnxscope.merged import Counterpart, FedInput
from onnxscope.model import InputSpec
from onnxscope.outputs import printable

__all__ = ["match_inputs", "match_values"]

_ORDERS = {"nchw": {"nhwc": (0, 2, 3, 1)}, "nhwc": {"nchw": (0, 3, 1, 2)}}


def match_inputs(a: Sequence[InputSpec], b: Sequence[InputSpec]) -> tuple[list[FedInput], list[str]]:
    """Find for every input of the second model the input of the first that it is made of.

    Inputs of one name belong together where all names are the same, otherwise they are taken in order.

    Returns:
        One for every input of `b`, and remarks on whatever is not the same.

    Raises:
        InputError: The models take different numbers of inputs, or inputs that cannot be made of each other.
    """
    if len(a) != len(b):
        shown = [", ".join(f"{printable(each.name)} {spec_text(each)}" for each in specs) or "none" for specs in (a, b)]
        raise InputError(f"{len(a)} inputs against {len(b)}: {shown[0]}; {shown[1]}")
    by_name = {each.name: each for each in a}
    named = by_name.keys() == {each.name for each in b}
    fed, notes = [], []
    for place, spec in enumerate(b):
        source = by_name[spec.name] if named else a[place]
        permutation = _permutation(source, spec)
        if permutation is None:
            raise InputError(
                f"input {source.name!r} {spec_text(source)} cannot become {spec.name!r} {spec_text(spec)}",
                hint="the two models take different things; compare their weights with `--weights-only`",
            )
        cast = source.dtype != spec.dtype
        elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)) if cast else 0
        fed.append(FedInput(source.name, spec.name, permutation, elem_type))
        changes = [f"called {printable(spec.name)} in the second model"] if source.name != spec.name else []
        changes += [f"its axes in the order {list(permutation)}"] if permutation else []
        changes += [f"{spec.dtype} instead of {source.dtype}"] if cast else []
        if changes:
            notes.append(f"input {printable(source.name)}: {', '.join(changes)}")
    return fed, notes


def _permutation(a: InputSpec, b: InputSpec) -> tuple[int, ...] | None:
    """How the axes of `a` become those of `b`; empty where they are the same, None where they do not fit."""
    if "str" in (a.dtype, b.dtype) and a.dtype != b.dtype:
        return None
    if a.shape is None or b.shape is None:
        return ()
    if len(a.shape) != len(b.shape):
        return None
    layouts = find_layout(a.shape), find_layout(b.shape)
    if layouts[0] is not None and layouts[1] is not None and layouts[0].name != layouts[1].name:
        order = _ORDERS.get(layouts[0].name, {}).get(layouts[1].name)
        if order is not None and len(order) == len(a.shape):
            return order if _fits([a.shape[axis] for axis in order], b.shape) else None
    return () if _fits(a.shape, b.shape) else None


def _fits(a: Sequence[int | str | None], b: Sequence[int | str | None]) -> bool:
    return all(not isinstance(x, int) or not isinstance(y, int) or x == y for x, y in zip(a, b, strict=True))


def match_values(
    a: str,
    b: str,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    dtypes: tuple[str, str],
    axes: tuple[int | None, int | None],
    *,
    replaced: bool,
) -> Counterpart | None:
    """Find out how two values hold the same numbers; None where their shapes do not allow it.

    Args:
        a: The first value's name.
        b: The second's.
        shapes: Of both, in one run.
        dtypes: numpy's names of their element types.
        axes: Their channel axes, where these are known.
        replaced: Whether the copy of the second model reads the first value in place of the second.
    """
    shape_a, shape_b = shapes
    permutation: tuple[int, ...] = ()
    reshaped = False
    if len(shape_a) == len(shape_b) and None not in axes and axes[0] != axes[1]:
        order = list(range(len(shape_b)))
        order.insert(axes[0] or 0, order.pop(axes[1] or 0))
        if tuple(shape_b[axis] for axis in order) == shape_a:
            permutation = tuple(order)
    if not permutation and shape_a != shape_b:
        squeezed = [[side for side in shape if side != 1] for shape in shapes]
        moved = _moved(shape_a, shape_b)
        if moved is not None:
            permutation = moved
        elif squeezed[0] == squeezed[1]:
            reshaped = True
        else:
            return None
    return Counterpart(a, b, shape_a, shape_b, *dtypes, permutation, reshaped, axes[0], replaced)


def _moved(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of axes in which one axis of `b` has moved between second and last to give `a`."""
    if len(a) != len(b) or len(a) < 3:
        return None
    middle = range(1, len(b) - 1)
    for order in ((0, len(b) - 1, *middle), (0, *(axis + 1 for axis in middle), 1)):
        if tuple(b[axis] for axis in order) == a:
            return order
    return None
