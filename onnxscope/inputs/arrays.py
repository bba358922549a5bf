"""Arrays for a model's inputs: taken from other libraries, checked against what the model declares, described."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.shapes import shape_text, spec_text
from onnxscope.base.text import first_line, printable
from onnxscope.errors import InputError
from onnxscope.inputs.layouts import find_layout

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = [
    "check_bounds",
    "check_shape",
    "describe_array",
    "element_type",
    "fit_array",
    "match_names",
    "only_input",
    "to_array",
]

Array = NDArray[Any]

_BLOCK = 1 << 20  # numbers widened at a time
_UNNAMED = "arr_0"  # what np.savez calls an array that was given without a name


def element_type(spec: InputSpec) -> np.dtype[Any]:
    """Return numpy's element type for an input; strings are of kind `U`.

    Raises:
        InputError: The input is a sequence, a map or of a type that numpy does not know.
    """
    try:
        return np.dtype(spec.dtype)
    except TypeError as error:
        raise InputError(f"no array can be fed to {printable(spec.dtype)}: input {spec.name!r}") from error


def match_names(names: Iterable[str], specs: Sequence[InputSpec], where: str) -> dict[str, str]:
    """Return, by input, the name of its array; arrays of the model's other inputs are none of these inputs' matter.

    Raises:
        InputError: A name is no input, or an input has no array.
    """
    array_names = list(names)
    inputs = [spec.name for spec in specs]
    owner = next((spec.model for spec in specs if spec.model is not None), None)
    known = inputs if owner is None else [spec.name for spec in owner.declared_inputs]
    if array_names == [_UNNAMED] and len(inputs) == 1:
        return {inputs[0]: _UNNAMED}
    for name in array_names:
        if name not in inputs and name not in known:
            closest = [printable(match) for match in difflib.get_close_matches(name, known, n=3, cutoff=0.5)]
            near = f"closest names: {', '.join(closest)}" if closest else None
            raise InputError(f"the model has no input {name!r}: {where}", hint=near)
    for spec in specs:
        if spec.name not in array_names:
            raise InputError(f"no array for the input {spec.name!r}, {spec_text(spec)}: {where}")
    return {name: name for name in inputs}


def to_array(value: Any, where: str, *, copy: bool = True) -> Array:
    """Return anything that numpy takes as an array: an array, a tensor of PyTorch, TensorFlow or JAX, nested numbers.

    Args:
        value: What the caller gave.
        where: Its printable origin, for messages.
        copy: Whether the result has to be ours; otherwise it may share memory with `value` and must not be changed.

    Raises:
        InputError: It is none of these.
    """
    try:
        for method in ("detach", "cpu"):  # PyTorch hands out neither tensors that carry gradients nor those on a device
            value = getattr(value, method)() if hasattr(value, method) else value
        try:
            # Not np.array: with a copy to make it asks for more than the tensors' own __array__ takes, and warns.
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):
            if not hasattr(value, "__dlpack__"):
                raise
            array = np.from_dlpack(value)
        array = array.copy(order="C") if copy else array
    except Exception as error:  # other libraries' objects raise what they like
        raise InputError(f"no array can be made of a {type(value).__name__} ({first_line(error)}): {where}") from error
    if array.dtype.hasobject:
        raise InputError(f"an array of Python objects ({type(value).__name__}): {where}", hint="give numbers")
    return array


def only_input(specs: Sequence[InputSpec], where: str) -> InputSpec:
    """Return the model's single input.

    Raises:
        InputError: It has another number of them.
    """
    if len(specs) != 1:
        raise InputError(
            f"the model has {len(specs)} inputs, not one: {where}", hint=None if specs else "the model takes no input"
        )
    return specs[0]


def fit_array(array: Array, spec: InputSpec, where: str, *, any_count: bool = False) -> tuple[Array, list[str]]:
    """Check an array against an input; nothing is scaled, resized or transposed.

    Args:
        array: Owned by us.
        spec: The input. A first axis that is fixed may be exceeded by a multiple.
        where: The array's printable origin, for messages.
        any_count: As for `check_shape`.

    Returns:
        The array in native byte order, C-contiguous and of the input's element type, and notes.

    Raises:
        InputError: Wrong element type (float64 for float32 is converted) or shape, naming both sides.
    """
    notes: list[str] = []
    wanted = element_type(spec)
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "V" and dtype.names is None and _is_extension(wanted) and dtype.itemsize == wanted.itemsize:
        array = array.view(wanted)  # a .npy file cannot say bfloat16, and stores bare bytes
    elif dtype == np.float64 and wanted == np.float32:
        array = _narrow(array, where)
        notes.append(f"{where}: float64 made float32 for input {spec.name!r}")
    elif dtype != wanted and not (dtype.kind == "U" and wanted.kind == "U"):
        raise InputError(
            f"input {spec.name!r} takes {spec.dtype}, not {'str' if dtype.kind == 'U' else dtype.name}: {where}",
            hint=f"convert the array, for example with `array.astype({spec.dtype!r})`",
        )
    check_shape(array.shape, spec, where, any_count=any_count)
    return np.array(array, array.dtype.newbyteorder("="), order="C", copy=None), notes


def check_shape(shape: tuple[int, ...], spec: InputSpec, where: str, *, any_count: bool = False) -> None:
    """Compare a shape with the input's, symbolic and unknown dimensions fitting anything.

    Args:
        shape: Of what is given.
        spec: The input.
        where: The printable origin of what is given, for messages.
        any_count: Whether the first axis counts samples that are put into batches later, whatever their number.

    Raises:
        InputError: They differ, or the first axis goes beyond a fixed batch that does not divide it.
    """
    if spec.shape is None or _fits(shape, spec.shape):
        return
    wanted = spec.shape
    if wanted and len(shape) == len(wanted) and _fits(shape[1:], wanted[1:]):
        if any_count:
            return
        batch = wanted[0]
        if isinstance(batch, int) and batch > 0 and shape[0] > batch:
            if shape[0] % batch == 0:
                return
            raise InputError(
                f"{shape[0]} samples do not fill runs of {batch}, the fixed batch of input {spec.name!r}: {where}",
                hint=f"give a multiple of {batch} samples",
            )
    raise InputError(
        f"input {spec.name!r} takes {shape_text(wanted)}, not {shape_text(shape)}: {where}",
        hint=_shape_hint(shape, wanted),
    )


def check_bounds(arrays: Mapping[str, Array], bounds: Mapping[str, tuple[int, int]] | None, where: str) -> None:
    """Hold whole numbers to the tables that they index; those below 0 count from a table's end.

    Raises:
        InputError: One lies outside of its table.
    """
    for name, (low, high) in (bounds or {}).items():
        array = arrays.get(name)
        if array is None or array.dtype.kind not in "iu" or not array.size:
            continue
        least, most = int(array.min()), int(array.max())
        if most >= high or least < low - high:
            found = most if most >= high else least
            raise InputError(
                f"input {name!r} takes whole numbers from {low} to {high - 1}, and {found} is none of them: {where}",
                hint="they index a table of the model: the vocabulary may be that of another",
            )


def describe_array(name: str, array: Array, channel_axis: int | None) -> dict[str, Any]:
    """Return an array's name, shape, type and per-channel statistics, ready for JSON.

    Args:
        name: The input's name.
        array: C-contiguous.
        channel_axis: Statistics are lists with a number for each of its channels, or with one number where it is None.

    Returns:
        `mean`, `std` (sample deviation), `min` and `max` over finite numbers in float64, None where there are none.
    """
    if channel_axis is None:
        channels = array.reshape(-1, 1, 1)
    else:
        outer = math.prod(array.shape[:channel_axis])
        channels = array.reshape(outer, array.shape[channel_axis], math.prod(array.shape[channel_axis + 1 :]))
    rows = [_statistics(channels[:, index, :]) for index in range(channels.shape[1])]
    record = {"name": name, "shape": list(array.shape), "dtype": array.dtype.name, "channel_axis": channel_axis}
    if array.dtype.kind == "U":
        record["dtype"] = "str"
    return record | {key: [row[key] for row in rows] for key in ("mean", "std", "min", "max")}


@np.errstate(over="ignore", invalid="ignore")
def _statistics(values: Array) -> dict[str, float | None]:
    """Mean, deviation and range of (outer, inner) numbers, in two passes over blocks, so that little is widened."""
    none: dict[str, float | None] = dict.fromkeys(("mean", "std", "min", "max"))
    if values.dtype.kind in "UcV" and not _is_extension(values.dtype):
        return none
    step = max(1, _BLOCK // max(1, values.shape[1]))
    count, total, low, high = 0, 0.0, math.inf, -math.inf
    for block in _finite_blocks(values, step):
        count, total = count + block.size, total + float(block.sum())
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    if not count:
        return none
    mean = total / count
    squares = sum(float(np.square(block - mean).sum()) for block in _finite_blocks(values, step))
    statistics = {"mean": mean, "std": math.sqrt(squares / (count - 1)) if count > 1 else None, "min": low, "max": high}
    # Sums of float64 numbers may overflow, and JSON holds no infinity.
    return {key: number if number is not None and math.isfinite(number) else None for key, number in statistics.items()}


def _finite_blocks(values: Array, step: int) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(values), step):
        wide = values[start : start + step].astype(np.float64)
        finite = wide[np.isfinite(wide)]
        if finite.size:
            yield finite


def _shape_hint(shape: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> str | None:
    if len(shape) == len(wanted) - 1 and _fits(shape, wanted[1:]):
        return "the batch axis is missing: give `array[None]`"
    layout = find_layout(wanted)
    if layout is not None and len(shape) == len(wanted):
        last = layout.channel_axis == len(wanted) - 1
        ends = list(range(len(shape)))
        start = len(shape) - 3
        order = (*ends[:start], *ends[start + 1 :], start) if last else (*ends[:start], ends[-1], *ends[start:-1])
        if _fits(tuple(shape[axis] for axis in order), wanted):
            here, there = ("first", "last") if last else ("last", "first")
            return f"the array looks channels-{here}, the model is channels-{there}: give `array.transpose{order}`"
    return None


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(dim, int) or size == dim for size, dim in zip(shape, wanted, strict=True)
    )


def _is_extension(dtype: np.dtype[Any]) -> bool:
    """Whether a type is one of ml_dtypes' (bfloat16, float8, int4)."""
    return dtype.num >= 256


def _narrow(array: Array, where: str) -> Array:
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if np.count_nonzero(np.isinf(narrow)) > np.count_nonzero(np.isinf(array)):
        raise InputError(f"float64 numbers beyond the range of float32: {where}", hint="scale them, or give float32")
    return narrow
