"""Read recipes that say how an image becomes numbers: ours in JSON, and those of Hugging Face's image processors.

A recipe in JSON is one object. Every key may be left out, and none other is allowed:

    {
      "name": "mine",            shown in results; default: the file's stem, or "custom"
      "resize": "straight",      "straight" to the model's size; "crop": the shorter side to `shorter_side`, then the
                                 model's size from the centre; "letterbox": as large as goes into the model's size, and
                                 `pad` around it; "shorter": the shorter side to `shorter_side`, and "longer": the
                                 longer one to `longer_side`, where the model leaves both open; default "straight"
      "size": 224,               height and width, or [height, width], where the model leaves them open; null for the
                                 picture's own, not with "crop"; default 224
      "shorter_side": 256,       only with "crop", where it belongs to `size` and grows with the model's own size, and
                                 with "shorter"; default 256
      "longer_side": null,       with "longer", which needs it; with "shorter" what the longer side may have at most,
                                 null for any; default null
      "pad": 114,                only with "letterbox": the level 0..255 of what is no picture; default 114
      "filter": "bilinear",      or "nearest", "box", "bicubic", "hamming", "lanczos": Pillow's, antialiased; default
                                 "bilinear"
      "order": "RGB",            or "BGR"; default "RGB"
      "divisor": 255,            every value 0..255 is divided by it; default 1
      "mean": [0.5, 0.5, 0.5],   then subtracted: one number, or one a channel in the order of `order`; default 0
      "std": 0.5                 then divided by: one number, or one a channel in the order of `order`; default 1
    }
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np

from onnxscope.base.json_files import parse_json
from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["ONLY_WITH", "Filter", "Order", "Resize", "parse_recipe", "processor_recipe"]

Resize = Literal["straight", "crop", "letterbox", "shorter", "longer"]
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Order = Literal["RGB", "BGR"]

ONLY_WITH: Mapping[str, tuple[Resize, ...]] = {
    "shorter_side": ("crop", "shorter"),
    "longer_side": ("shorter", "longer"),
    "pad": ("letterbox",),
}
"""Keys of a recipe that count with some ways to resize alone."""

_CHOICES = {"resize": get_args(Resize), "filter": get_args(Filter), "order": get_args(Order)}
_MAX_SIZE = 65_535


def parse_recipe(text: str, where: str) -> dict[str, Any]:
    """Check a recipe in JSON.

    Args:
        text: One object; see the module's docstring.
        where: What messages call it.

    Returns:
        Its values by key, lists of numbers as tuples; what it leaves out is left out.

    Raises:
        InputError: It is no JSON, or no recipe.
    """
    try:
        record = parse_json(text)
    except ValueError as error:
        raise InputError(f"not a recipe in JSON ({printable(str(error))}): {where}") from error
    if not isinstance(record, dict):
        raise InputError(f"not a recipe in JSON (no object): {where}")
    for key in record:
        if key not in _READERS:
            raise InputError(f"unknown key {key[:60]!r} in a recipe: {where}", hint=f"its keys: {', '.join(_READERS)}")
    for key, kinds in ONLY_WITH.items():
        if key in record and record.get("resize") not in kinds:
            wanted = " or ".join(f'"resize": "{kind}"' for kind in kinds)
            raise InputError(f"{key!r} without {wanted} in a recipe: {where}")
    values: dict[str, Any] = {key: _READERS[key](value, key, where) for key, value in record.items()}
    if record.get("resize") == "longer" and values.get("longer_side") is None:
        raise InputError(f'"resize": "longer" without \'longer_side\' in a recipe: {where}')
    if record.get("resize") == "crop":
        size = values.get("size", 224)
        size = min(size) if isinstance(size, tuple) else size
        if size is None:
            raise InputError(f'\'size\' is null with "resize": "crop" in a recipe: {where}')
        if values.get("shorter_side", 256) < size:
            shown = values.get("shorter_side", 256)
            raise InputError(f"'shorter_side' {shown} is less than 'size' {size} in a recipe: {where}")
    return values


def processor_recipe(text: str | bytes, where: str) -> dict[str, Any] | None:
    """Read what Hugging Face's image processors write beside a model, `preprocessor_config.json`, as a recipe.

    Args:
        text: One object. Their names of things are kept: `do_resize`, `size` (a number, `height` and `width`, or
            `shortest_edge`, `longest_edge` or both), `max_size`, `resample`, `do_center_crop`, `crop_size`,
            `crop_pct`, `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`, `image_std`,
            `do_flip_channel_order`.
        where: What messages call it.

    Returns:
        As `parse_recipe`; None where it is for sounds.

    Raises:
        InputError: It is no JSON, or asks for a step that a recipe does not have.
    """
    try:
        record = parse_json(text)
    except ValueError as error:
        raise InputError(f"not JSON ({printable(str(error))}): {where}") from error
    if not isinstance(record, dict):
        raise InputError(f"no image processor's configuration: {where}")
    if _IMAGES.isdisjoint(record):
        return None
    if _pads(record):
        raise InputError(f"'pad_size' is a step that a recipe does not have: {where}")
    for key in _OTHER_STEPS:
        if record.get(key):
            raise InputError(f"{key!r} is a step that a recipe does not have: {where}")
    recipe: dict[str, Any] = {"name": "preprocessor_config.json", "divisor": 1.0}
    try:
        if record.get("do_rescale", True):
            factor = float(record.get("rescale_factor", 1 / 255))
            recipe["divisor"] = round(1 / factor, 9)
        if record.get("do_normalize", "image_mean" in record):
            recipe["mean"], recipe["std"] = record["image_mean"], record["image_std"]
        if record.get("do_flip_channel_order"):
            recipe["order"] = "BGR"
        recipe["filter"] = _RESAMPLING[record.get("resample", 2)]
        recipe |= _processor_sizes(record)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"no image processor's configuration ({printable(repr(error))[:80]}): {where}") from error
    return parse_recipe(json.dumps(recipe), where)


def _pads(record: Mapping[str, Any]) -> bool:
    """Whether pictures are padded to a size that resizing has not given them already."""
    size = record.get("pad_size")
    return bool(size) and record.get("do_pad", True) is not False and size != record.get("size")


def _processor_sizes(record: Mapping[str, Any]) -> dict[str, Any]:
    """How an image processor resizes and crops, as keys of a recipe."""
    crops, size = record.get("do_center_crop", False), record.get("size")
    crop = _pair(record.get("crop_size", size)) if crops else None
    if not record.get("do_resize", size is not None):
        if crops:
            raise ValueError("a crop of what is not resized")
        return {"size": None}
    limit = record.get("max_size")
    if isinstance(size, dict):
        limit = size.get("longest_edge", limit)
        short = size.get("shortest_edge")
        if short is None and limit is not None:
            return _longest_edge(record, limit)
    else:
        short = size if crops or limit is not None else None
    if short is None:
        if crop is not None and crop != _pair(size):
            raise ValueError("a crop of what is resized straight")
        return {"size": _pair(size)}
    if limit is not None and crop is not None:
        raise ValueError("a crop of what has a longest edge")
    share = record.get("crop_pct")
    if share is not None and crop is None:  # ConvNeXt: the size is that of the crop, and from 384 on there is none
        return (
            {"resize": "crop", "size": short, "shorter_side": int(short / share)}
            if short < 384
            else {"size": [short, short]}
        )
    if crop is None:
        return {"resize": "shorter", "shorter_side": short, "longer_side": limit}
    return {"resize": "crop", "size": crop, "shorter_side": short}


def _longest_edge(record: Mapping[str, Any], edge: int) -> dict[str, Any]:
    """How Segment Anything's processor resizes; others to whom a longest edge alone is said go on from there."""
    if record.get("do_center_crop"):
        raise ValueError("a crop of what has a longest edge")
    for key in _OF_PATCHES:
        if record.get(key) is not None:
            raise ValueError(f"a longest edge with {key!r}")
    if str(record.get("image_processor_type")).startswith("Tvp"):
        raise ValueError("a longest edge that is rounded otherwise")
    return {"resize": "longer", "longer_side": edge}


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else [size["height"], size["width"]]


_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_IMAGES = frozenset({"do_resize", "do_rescale", "do_normalize", "do_center_crop", "image_mean", "resample"})
_OF_PATCHES = ("patch_size", "max_image_size")  # Pixtral rounds to patches and never enlarges, Idefics cuts into them
_OTHER_STEPS = ("do_thumbnail", "do_align_long_axis", "do_image_splitting", "max_pixels", "rescale_offset", "offset")


def _read_name(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 60:
        raise _wrong(key, value, "a text of 1 to 60 characters", where)
    return value


def _read_choice(value: Any, key: str, where: str) -> str:
    choices = _CHOICES[key]
    if value not in choices:
        raise _wrong(key, value, f"one of {', '.join(choices)}", where)
    return str(value)


def _read_size(value: Any, key: str, where: str) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_SIZE:
        raise _wrong(key, value, f"a whole number from 1 to {_MAX_SIZE}", where)
    return value


def _read_open_size(value: Any, key: str, where: str) -> int | tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2:
        return _read_size(value[0], key, where), _read_size(value[1], key, where)
    return None if value is None else _read_size(value, key, where)


def _read_limit(value: Any, key: str, where: str) -> int | None:
    return None if value is None else _read_size(value, key, where)


def _read_level(value: Any, key: str, where: str) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise _wrong(key, value, "a whole number from 0 to 255", where)
    return value


def _read_numbers(value: Any, key: str, where: str) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    wanted = f"{'numbers other than 0' if key == 'std' else 'numbers'} that float32 holds, one, three or four"
    if len(values) not in (1, 3, 4) or not all(_is_number(number, nonzero=key == "std") for number in values):
        raise _wrong(key, value, wanted, where)
    return tuple(float(number) for number in values)


def _read_divisor(value: Any, key: str, where: str) -> float:
    if not _is_number(value, nonzero=True):
        raise _wrong(key, value, "a number other than 0 that float32 holds", where)
    return float(value)


def _is_number(value: Any, *, nonzero: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    limits = np.finfo(np.float32)
    size = abs(value)
    return size <= float(limits.max) and (size >= float(limits.tiny) if nonzero else math.isfinite(size))


def _wrong(key: str, value: Any, wanted: str, where: str) -> InputError:
    shown = printable(json.dumps(value))
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return InputError(f"{key!r} is {shown}, not {wanted}: {where}")


_READERS: Mapping[str, Callable[[Any, str, str], Any]] = {
    "name": _read_name,
    "resize": _read_choice,
    "filter": _read_choice,
    "size": _read_open_size,
    "shorter_side": _read_size,
    "longer_side": _read_limit,
    "pad": _read_level,
    "order": _read_choice,
    "divisor": _read_divisor,
    "mean": _read_numbers,
    "std": _read_numbers,
}
