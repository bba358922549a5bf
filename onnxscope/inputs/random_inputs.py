"""Random arrays that are valid for a model's inputs: a smoke test where there is no real data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.errors import InputError
from onnxscope.inputs.arrays import element_type, spec_text
from onnxscope.inputs.layouts import find_layout, shape_text

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["random_feeds"]

_IMAGE_SIDE = 224
_CHANNELS = 3
_STEPS = 8  # of a sequence, and of every other open axis that is no batch
_MAX_BYTES = 4 << 30
_MASK = re.compile(r"(?:^|[^a-z])mask(?:$|[^a-z])")
_SUM = re.compile(r"\s*\w+(?:\s*\+\s*\w+)+\s*")


def random_feeds(
    specs: Sequence[InputSpec], seed: int | Sequence[int] = 0, bounds: Mapping[str, tuple[int, int]] | None = None
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

    Returns:
        New C-contiguous arrays, by input name.

    Raises:
        InputError: An input of strings, of no known rank or of no number type, of more than 4 GiB, or with bounds
            that its type cannot hold.
    """
    generator = np.random.default_rng(seed)
    shapes = _shapes(specs)
    arrays = {}
    for spec in specs:
        limits = (bounds or {}).get(spec.name)
        arrays[spec.name] = _values(generator, spec, shapes[spec.name], limits)
    return arrays


def _shapes(specs: Sequence[InputSpec]) -> dict[str, tuple[int, ...]]:
    symbols: dict[str, int] = {}
    for spec in specs:
        if spec.shape is None:
            raise InputError(
                f"random input needs a rank, which the model does not declare: input {spec.name!r}",
                hint="give a .npz file with one array per input",
            )
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and not _SUM.fullmatch(dim):
                # Where a symbol stands for a batch anywhere, it does so everywhere.
                symbols[dim] = min(symbols.get(dim, _MAX_BYTES), _open_size(spec, axis))
    return {spec.name: tuple(_size(spec, axis, symbols) for axis in range(len(spec.shape or ()))) for spec in specs}


def _size(spec: InputSpec, axis: int, symbols: Mapping[str, int]) -> int:
    dim = (spec.shape or ())[axis]
    if isinstance(dim, str) and _SUM.fullmatch(dim):
        terms = [term.strip() for term in dim.split("+")]
        if all(term in symbols or term.isdecimal() for term in terms):
            return sum(symbols[term] if term in symbols else int(term) for term in terms)
    if isinstance(dim, int):
        return dim
    return symbols.get(dim, _open_size(spec, axis)) if dim else _open_size(spec, axis)


def _open_size(spec: InputSpec, axis: int) -> int:
    shape = spec.shape or ()
    if axis == 0:
        return 1
    if len(shape) == 4 and _may_be_image(spec):
        layout = find_layout(shape)
        # Fixed sizes that are no channels, such as the heads and width of an attention cache, make it no image.
        if layout is not None or not any(isinstance(dim, int) for dim in shape[1:]):
            return _CHANNELS if axis == (layout.channel_axis if layout else 1) else _IMAGE_SIDE
    return _STEPS


def _may_be_image(spec: InputSpec) -> bool:
    return spec.dtype == "uint8" or "float" in spec.dtype


def _values(
    generator: np.random.Generator, spec: InputSpec, shape: tuple[int, ...], limits: tuple[int, int] | None
) -> NDArray[Any]:
    dtype = element_type(spec)
    if dtype.kind == "U":
        raise InputError(f"no random strings: input {spec.name!r}", hint="give a .npz file with one array per input")
    if math.prod(shape) * max(dtype.itemsize, 8) > _MAX_BYTES:
        raise InputError(
            f"random input {shape_text(shape)} would need more than {_MAX_BYTES >> 30} GiB: "
            f"input {spec.name!r} {spec_text(spec)}",
            hint="give a .npz file with one array per input",
        )
    if limits is None and _MASK.search(spec.name.lower()):
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
