"""Random arrays that are valid for a model's inputs: a smoke test where there is no real data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.shapes import computed_size, shape_text, spec_text, terms_of
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import element_type
from onnxscope.inputs.layouts import find_layout
from onnxscope.selection.input_roles import is_called

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["STEPS", "Fitting", "at_length", "dim_name", "open_dims", "random_feeds", "sequence_dims"]

STEPS = 8
"""Of a sequence, and of every other open axis that is no batch."""

_IMAGE_SIDE = 224
_CHANNELS = 3
_MAX_BYTES = 4 << 30
_SUM = re.compile(r"\s*\w+(?:\s*\+\s*\w+)+\s*")
_LENGTH = re.compile(r"seq|len|time|frame|step|token|word|audio|samples|^[tls]$")
_NO_LENGTH = re.compile(r"past|cache|total")


@dataclass(frozen=True)
class Fitting:
    """What makes random arrays fit a model beyond what its inputs declare.

    Attributes:
        dims: Sizes of open dimensions, by `dim_name`.
        numbers: Whole numbers that the graph asks for, by the input that is full of them.
        is_ordered: Whether positions count on from the past, and lengths are those of what is fed.
    """

    dims: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    is_ordered: bool = False


def random_feeds(
    specs: Sequence[InputSpec],
    seed: int | Sequence[int] = 0,
    bounds: Mapping[str, tuple[int, int]] | None = None,
    fitting: Fitting | None = None,
) -> dict[str, NDArray[Any]]:
    """Make an array for every input; the same arguments give the same bytes.

    Open dimensions: the first axis 1; in an image input (rank 4, floating point or uint8) three channels and 224 x 224
    pixels; anything else 8. A symbol has one size everywhere, and a sum of symbols (`past + sequence`) the sum.
    Values: standard normal numbers; coin flips; whole numbers within `bounds`, otherwise 0..255 for a uint8 image and
    0 or 1 for the rest; all ones where the input's name says that it is a mask.

    Args:
        specs: The model's inputs.
        seed: Of numpy's default generator: one number or several, not negative.
        bounds: By input name, the lowest whole number and the one above the highest.
        fitting: Sizes and numbers that are known to run.

    Returns:
        New C-contiguous arrays, by input name.

    Raises:
        InputError: An input of strings, of no known rank or of no number type, of more than 4 GiB, or with bounds
            that its type cannot hold.
    """
    generator = np.random.default_rng(seed)
    fitting = fitting or Fitting()
    shapes = _shapes(specs, fitting.dims, follow=fitting.is_ordered)
    valid = _valid(specs, shapes, fitting)
    arrays = {}
    for spec in specs:
        limits = (bounds or {}).get(spec.name)
        if spec.name in valid and limits is not None:
            valid[spec.name] = valid[spec.name].clip(limits[0], limits[1] - 1)
        made = valid.get(spec.name)
        arrays[spec.name] = _values(generator, spec, shapes[spec.name], limits) if made is None else made
    return arrays


def dim_name(spec: InputSpec, axis: int) -> str:
    """Return what an open dimension is called: its symbol, or `INPUT:AXIS` where it has none."""
    dim = (spec.shape or ())[axis]
    return dim if dim and isinstance(dim, str) else f"{spec.name}:{axis}"


def open_dims(specs: Sequence[InputSpec]) -> dict[str, int]:
    """Return the sizes that random input gives to open dimensions by itself; those that follow from others have none.

    Raises:
        InputError: An input of no known rank.
    """
    sizes = _symbols(specs, {}, follow=False)
    shapes = _shapes(specs, {}, follow=False)
    return {
        name: shapes[spec.name][axis]
        for spec in specs
        for axis, dim in enumerate(spec.shape or ())
        if not isinstance(dim, int) and not _is_computed(name := dim_name(spec, axis), sizes)
    }


def sequence_dims(specs: Sequence[InputSpec], fitting: Fitting) -> tuple[str, ...]:
    """Return the open dimensions that are the length of a sequence: by their names, or the only one that there is.

    Neither a number of samples nor the side of an image, nor what a decoder remembers, nor what follows from others.

    Raises:
        InputError: There is none, or several and no name tells.
    """
    counting = {
        dim_name(spec, 0)
        for spec in specs
        if spec.shape is not None and len(spec.shape) > 1 and not isinstance(spec.shape[0], int)
    }
    fixed = {
        dim_name(spec, axis)
        for spec in specs
        if len(spec.shape or ()) == 4 and (_open_size(spec, 3) == _IMAGE_SIDE or is_called(spec.name, "cache"))
        for axis, dim in enumerate(spec.shape or ())
        if not isinstance(dim, int)
    }
    sizes = open_dims(specs)
    free = [
        name
        for name in sizes
        if name not in counting | fixed
        and not _NO_LENGTH.search(name.lower())
        and not _is_computed(name, {**sizes, **fitting.dims})
    ]
    named = [name for name in free if _LENGTH.search(name.lower())] or free
    if not named or (len(named) > 1 and named == free and not any(_LENGTH.search(name.lower()) for name in named)):
        raise InputError(
            "no open dimension of the inputs is known to be the length of a sequence",
            hint=f"leave `--length` out; `--dim NAME=SIZE` sets a size, open are {', '.join(sizes) or 'none'}",
        )
    return tuple(named)


def at_length(specs: Sequence[InputSpec], fitting: Fitting, sequences: Sequence[str], length: int) -> Fitting:
    """Return what makes sequences so long: a total of them and what was before (`total_…`) follows."""
    dims = {**fitting.dims, **dict.fromkeys(sequences, length)}
    known = {**open_dims(specs), **dims}
    for name in known:
        part = name.removeprefix("total_")
        if part in sequences and part != name:
            dims[name] = known.get(f"past_{part}", 0) + length
    return replace(fitting, dims=dims)


def _is_computed(dim: str, sizes: Mapping[str, int]) -> bool:
    terms = terms_of(dim)
    return bool(terms) and terms <= sizes.keys() - {dim}


def _shapes(specs: Sequence[InputSpec], given: Mapping[str, int], *, follow: bool) -> dict[str, tuple[int, ...]]:
    symbols = _symbols(specs, given, follow=follow)
    return {spec.name: tuple(_size(spec, axis, symbols) for axis in range(len(spec.shape or ()))) for spec in specs}


def _symbols(specs: Sequence[InputSpec], given: Mapping[str, int], *, follow: bool) -> dict[str, int]:
    """The sizes of symbols; where they are to follow from each other, those of expressions are not among them."""
    symbols: dict[str, int] = {}
    for spec in specs:
        if spec.shape is None:
            raise InputError(
                f"random input needs a rank, which the model does not declare: input {spec.name!r}",
            )
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and not _SUM.fullmatch(dim):
                # Where a symbol stands for a batch anywhere, it does so everywhere.
                symbols[dim] = min(symbols.get(dim, _MAX_BYTES), _open_size(spec, axis))
    if given or follow:
        for dim in list(symbols):
            if dim not in given and _is_computed(dim, {**symbols, **given}):
                del symbols[dim]
    return symbols | dict(given)


def _size(spec: InputSpec, axis: int, symbols: Mapping[str, int]) -> int:
    dim = (spec.shape or ())[axis]
    if isinstance(dim, int):
        return dim
    name = dim_name(spec, axis)
    if name in symbols:
        return symbols[name]
    size = computed_size(name, symbols)
    return _open_size(spec, axis) if size is None else size


def _valid(
    specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], fitting: Fitting
) -> dict[str, NDArray[Any]]:
    """What inputs hold that are no free numbers: what the graph compares them with, positions, lengths."""
    made = {
        spec.name: np.full(shapes[spec.name], fitting.numbers[spec.name], element_type(spec))
        for spec in specs
        if spec.name in fitting.numbers
    }
    if not fitting.is_ordered:
        return made
    past, present = _past_and_present(specs, shapes)
    for spec in specs:
        name, shape, dtype = spec.name.lower(), shapes[spec.name], element_type(spec)
        if spec.name in made or dtype.kind not in "iub":
            continue
        if "use_cache" in name:
            made[spec.name] = np.ones(shape, dtype)
        elif dtype.kind == "b":
            continue
        elif is_called(name, "positions") and shape:
            made[spec.name] = np.broadcast_to(np.arange(past, past + shape[-1]), shape).astype(dtype)
        elif is_called(name, "lengths") and len(shape) < 2 + (shape[-1:] == (1,)):
            longest = past if is_called(name, "past") and "total" not in name else past + present
            # onnxruntime's GroupQueryAttention counts keys without the last one.
            length = max(0, longest - ("seqlens_k" in name))
            made[spec.name] = np.full(shape, min(length, int(np.iinfo(dtype).max)), dtype)
    return made


def _past_and_present(specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """How many places a cache holds, and how many are new."""
    caches = [shapes[spec.name] for spec in specs if is_called(spec.name, "cache") and len(shapes[spec.name]) == 4]
    others = [
        shape[1]
        for spec in specs
        if len(shape := shapes[spec.name]) in (2, 3)
        and not is_called(spec.name, "mask")
        and not is_called(spec.name, "positions")
        and (spec.shape is not None and (not isinstance(spec.shape[1], int) or spec.dtype.startswith("int")))
    ]
    return (caches[0][2] if caches else 0), max(others, default=0)


def _open_size(spec: InputSpec, axis: int) -> int:
    shape = spec.shape or ()
    if axis == 0:
        return 1
    if len(shape) == 4 and _may_be_image(spec):
        layout = find_layout(shape)
        # Fixed sizes that are no channels, such as the heads and width of an attention cache, make it no image.
        if layout is not None or not any(isinstance(dim, int) for dim in shape[1:]):
            return _CHANNELS if axis == (layout.channel_axis if layout else 1) else _IMAGE_SIDE
    return STEPS


def _may_be_image(spec: InputSpec) -> bool:
    return spec.dtype == "uint8" or "float" in spec.dtype


def _values(
    generator: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], limits: tuple[int, int] | None
) -> NDArray[Any]:
    dtype = element_type(spec)
    if dtype.kind == "U":
        raise InputError(f"no random strings: input {spec.name!r}")
    if math.prod(shape) * max(dtype.itemsize, 8) > _MAX_BYTES:
        raise InputError(
            f"random input {shape_text(shape)} would need more than {_MAX_BYTES >> 30} GiB: "
            f"input {spec.name!r} {spec_text(spec)}",
        )
    if limits is None and is_called(spec.name, "mask"):
        return np.ones(shape, dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu" or "int" in dtype.name:
        return _whole(generator, dtype, spec, shape, limits)
    numbers = generator.standard_normal(shape)
    if dtype.kind == "c":
        return (numbers + 1j * generator.standard_normal(shape)).astype(dtype)
    return np.asarray(numbers).astype(dtype)


def _whole(
    generator: np.random.Generator,
    dtype: np.dtype[Any],
    spec: InputSpec,
    shape: tuple[int, ...],
    limits: tuple[int, int] | None,
) -> NDArray[Any]:
    picture = dtype == np.uint8 and len(shape) == 4
    low, high = limits if limits is not None else (0, 256 if picture else 2)
    least, most = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (0, 1)
    if low >= high or low < least or low > most:
        raise InputError(f"no {dtype.name} from {low} up to {high}, without it: input {spec.name!r}")
    top = min(high - 1, int(most))
    kind = np.uint64 if low >= 0 else np.int64
    return np.asarray(generator.integers(low, top, shape, dtype=kind, endpoint=True)).astype(dtype)
