"""Match what two models are fed and what they hold: names, axes, element types and stored constants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxscope.base.shapes import spec_text
from onnxscope.base.text import counted, printable
from onnxscope.errors import InputError
from onnxscope.inputs.layouts import find_layout
from onnxscope.model.loading import Model
from onnxscope.model.stored_model import InputSpec
from onnxscope.selection.selectors import Place, Tap, tap_values

__all__ = [
    "Counterpart",
    "FedInput",
    "match_inputs",
    "match_values",
    "pair_outputs",
    "paired_values",
    "shared_constants",
    "with_batch_of",
]

_FIRST_BYTES = 64  # of a constant, looked up before the rest is read

Array = NDArray[Any]

_ORDERS = {"nchw": {"nhwc": (0, 2, 3, 1)}, "nhwc": {"nchw": (0, 3, 1, 2)}}


@dataclass(frozen=True)
class FedInput:
    """An input of the second model, made of one of the first.

    Attributes:
        a: The first model's input.
        b: The second's.
        permutation: `b = a.transpose(permutation)`, empty where the axes are the same.
        elem_type: What it is cast to, 0 for nothing.
    """

    a: str
    b: str
    permutation: tuple[int, ...]
    elem_type: int

    def apply(self, array: Array) -> Array:
        """What the second model is fed for an array of the first."""
        if self.permutation:
            array = array.transpose(self.permutation)
        if self.elem_type:
            with np.errstate(over="ignore"):
                array = array.astype(onnx.helper.tensor_dtype_to_np_dtype(self.elem_type))
        return np.asarray(array, order="C")


@dataclass(frozen=True)
class Counterpart:
    """A value of each model that should hold the same.

    Attributes:
        a: The name that carries it in the first (tapped) model.
        b: In the second.
        shape_a: In the pilot run.
        shape_b: In the pilot run.
        dtype_a: numpy's name of the element type.
        dtype_b: The same of the second.
        permutation: `b.transpose(permutation)` has the axes of `a`; empty where they are the same.
        reshaped: Whether `b` takes the shape of `a` by a reshape, after that.
        channel_axis: Of `a`, None where there is none.
        replaced: Whether the copy of the second model reads `a` in place of `b`.
        codes: Where `b` holds the real numbers behind codes: the value of the codes, of their scale and zero point.
        scores: Whether both are outputs that score classes, which are compared as that too.
    """

    a: str
    b: str
    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]
    dtype_a: str
    dtype_b: str
    permutation: tuple[int, ...]
    reshaped: bool
    channel_axis: int | None
    replaced: bool
    codes: tuple[str, str, str] | None = None
    scores: bool = False

    @property
    def read_b(self) -> str:
        """The value that other layers of the second model read."""
        return self.codes[0] if self.codes else self.b

    @property
    def _permuted_b(self) -> tuple[int, ...]:
        return tuple(self.shape_b[axis] for axis in self.permutation) if self.permutation else self.shape_b

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes over which errors are summed."""
        return tuple(axis for axis in range(len(self.shape_a)) if axis != self.channel_axis)

    @property
    def is_merged(self) -> bool:
        """Whether axes of one value are merged in the other, apart from sides of 1."""
        return self.reshaped and _long_sides(self.shape_a) != _long_sides(self._permuted_b)

    def to_a(self, array: Array) -> Array:
        """An array of `b`, as `a` would hold it; it may be of other samples than the pilot run's."""
        if self.permutation:
            array = array.transpose(self.permutation)
        if not self.reshaped:
            return array
        return array.reshape(_reshaped(array.shape, self._permuted_b, self.shape_a))

    def to_b(self, array: Array) -> Array:
        """An array of `a`, as `b` would hold it; it may be of other samples than the pilot run's."""
        if self.reshaped:
            array = array.reshape(_reshaped(array.shape, self.shape_a, self._permuted_b))
        if self.permutation:
            array = array.transpose(tuple(np.argsort(self.permutation)))
        with np.errstate(over="ignore"):
            return np.asarray(array.astype(self.dtype_b, copy=False), order="C")


def match_inputs(a: Sequence[InputSpec], b: Sequence[InputSpec]) -> tuple[list[FedInput], list[str]]:
    """Find for every input of the second model the input of the first that it is made of.

    Inputs of one name belong together where all names are the same, otherwise they are taken in order.

    Returns:
        One for every input of `b`, and remarks on whatever is not the same.

    Raises:
        InputError: The models take different numbers of inputs, or inputs that cannot be made of each other.
    """
    if len(a) != len(b):
        shown = [", ".join(f"{printable(spec.name)} {spec_text(spec)}" for spec in specs) or "none" for specs in (a, b)]
        raise InputError(f"{counted(len(a), 'input')} against {len(b)}: {shown[0]}; {shown[1]}")
    by_name = {spec.name: spec for spec in a}
    named = by_name.keys() == {spec.name for spec in b}
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
        fed.append(FedInput(a=source.name, b=spec.name, permutation=permutation, elem_type=elem_type))
        changes = [f"called {printable(spec.name)} in the second model"] if source.name != spec.name else []
        changes += [f"its axes in the order {list(permutation)}"] if permutation else []
        changes += [f"{spec.dtype} instead of {source.dtype}"] if cast else []
        if changes:
            notes.append(f"input {printable(source.name)}: {', '.join(changes)}")
    return fed, notes


def pair_outputs(a: Model, b: Model) -> list[tuple[str, str]]:
    """Return pairs of outputs, in the first model's order: those of one name, and the others in order.

    An output that only one of the models has is in no pair.
    """
    left, right = a.main.outputs, b.main.outputs
    others = [name for name in left if name not in right], [name for name in right if name not in left]
    partners = {name: name for name in left if name in right} | dict(zip(*others, strict=False))
    return [(name, partners[name]) for name in left if name in partners]


def paired_values(model: Model, values: Sequence[Tap]) -> list[tuple[Tap, Tap | None]]:
    """Find in a second model what belongs to values of the first, by their names, else by those of their nodes.

    Args:
        model: The second.
        values: Of the first.
    """
    names = {tap: _places_like(model, tap) for tap in values}
    taps = tap_values(model, dict.fromkeys(place for places in names.values() for place in places))
    return [(tap, taps[places[0]] if len(places) == 1 else None) for tap, places in names.items()]


def _places_like(model: Model, tap: Tap) -> list[Place]:
    graph = model.graphs.get(tap.path)
    if graph is not None and tap.value in graph.producers:
        return [(tap.path, tap.value)]
    layers = model.names.layers
    nodes = [node for node in layers if layers[node] == tap.layer and node.op_type == tap.op_type and node.outputs[0]]
    return [(node.path, node.outputs[0]) for node in nodes]


def with_batch_of(a: InputSpec, b: InputSpec) -> InputSpec:
    """Return the first model's input, with a batch that is fixed in the second alone."""
    if a.shape and b.shape and not isinstance(a.shape[0], int) and isinstance(b.shape[0], int):
        return InputSpec(a.name, a.dtype, (b.shape[0], *a.shape[1:]))
    return a


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
        moved = _moved(shape_a, shape_b)
        if moved is not None:
            permutation = moved
        elif _merged(*map(_long_sides, shapes)) is not None:
            reshaped = True
        else:
            return None
    return Counterpart(
        a=a,
        b=b,
        shape_a=shape_a,
        shape_b=shape_b,
        dtype_a=dtypes[0],
        dtype_b=dtypes[1],
        permutation=permutation,
        reshaped=reshaped,
        channel_axis=axes[0],
        replaced=replaced,
    )


def _long_sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)


def _merged(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """How two shapes without sides of 1 hold the same numbers in order, some axes of one being merged in the other.

    Returns:
        How many axes of either belong together, one of which is 1, in order; None where they would be cut otherwise.
    """
    groups = []
    x = y = 0
    while x < len(a) and y < len(b):
        ends = x + 1, y + 1
        products = a[x], b[y]
        while products[0] != products[1]:
            short = int(products[0] > products[1])
            rest = (a[ends[0] :], b[ends[1] :])[short]
            if not rest or 0 in rest[:1]:
                return None
            ends = (ends[0] + 1 - short, ends[1] + short)
            products = (products[0] * (1 if short else rest[0]), products[1] * (rest[0] if short else 1))
        groups.append((ends[0] - x, ends[1] - y))
        x, y = ends
    return groups if (x, y) == (len(a), len(b)) and all(1 in group for group in groups) else None


def _reshaped(shape: tuple[int, ...], pilot: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that becomes of `shape`, where `target` has become of `pilot`: both hold the same numbers in order.

    A side that the pilot run had at another length, such as the batch, keeps the length that it has now: of axes that
    are merged in `pilot`, the first.
    """
    now = [side for side, before in zip(shape, pilot, strict=True) if before != 1]
    wanted = _long_sides(target)
    sides: list[int] = []
    for few, many in _merged(_long_sides(pilot), wanted) or ():
        size, rest = math.prod(now[:few]), wanted[len(sides) + 1 : len(sides) + many]
        sides += [size // max(math.prod(rest), 1), *rest]
        del now[:few]
    long = iter(sides)
    filled = [1 if side == 1 else next(long) for side in target]
    if filled and math.prod(filled) != math.prod(shape):
        filled[0] = -1  # the pilot run had a batch of one
    return tuple(filled)


def _moved(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of axes in which one axis of `b` has moved between second and last to give `a`."""
    if len(a) != len(b) or len(a) < 3:
        return None
    middle = range(1, len(b) - 1)
    for order in ((0, len(b) - 1, *middle), (0, *(axis + 1 for axis in middle), 1)):
        if tuple(b[axis] for axis in order) == a:
            return order
    return None


def shared_constants(a: Model, b: Model) -> dict[str, str]:
    """Return, for the constants of the second model's main graph that the first one's stores too, the first one's name.

    Args:
        a: The first model.
        b: The second model. Of several constants that are the same bytes, that of its own name is taken.
    """
    stored = {name: (tensor, _content(a, tensor)) for name, tensor in _constants(a).items()}
    known: dict[Hashable, list[str]] = {}
    for name, (tensor, content) in stored.items():
        known.setdefault(_start(tensor, content), []).append(name)
    shared = {}
    for name, tensor in _constants(b).items():
        content = _content(b, tensor)
        alike = known.get(_start(tensor, content), [])
        # One of the same name is the likeliest.
        for other in itertools.chain([name] if name in alike else [], alike):
            if np.array_equal(stored[other][1], content):
                shared[name] = other
                break
    return shared


def _constants(model: Model) -> Mapping[str, TensorProto]:
    constants = {
        node.outputs[0]: stored
        for node in model.main.nodes
        if node.op_type == "Constant" and (stored := model.main.stored(node.outputs[0])) is not None
    }
    tensors = {**model.main.initializers, **constants}
    return {name: tensor for name, tensor in tensors.items() if tensor.data_type != TensorProto.STRING}


def _content(model: Model, tensor: TensorProto) -> NDArray[np.uint8]:
    return np.ascontiguousarray(model.array(tensor)).reshape(-1).view(np.uint8)


def _start(tensor: TensorProto, content: NDArray[np.uint8]) -> Hashable:
    """What is looked up before all bytes are compared."""
    return tensor.data_type, tuple(tensor.dims), content[:_FIRST_BYTES].tobytes()
