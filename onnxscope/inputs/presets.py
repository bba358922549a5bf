"""Recipes that turn an image into a model's numbers: the named presets, and others read from JSON.

A recipe in JSON is one object. Every key may be left out, and none other is allowed:

    {
      "name": "mine",            shown in results; default: the file's stem, or "custom"
      "resize": "straight",      "straight" to the model's size, or "crop": the shorter side to `shorter_side`, then the
                                 model's size from the centre; default "straight"
      "size": 224,               height and width where the model leaves them open; null for the first picture's own,
                                 not with "crop"; default 224
      "shorter_side": 256,       only with "crop": belongs to `size`, and grows with the model's own size; default 256
      "filter": "bilinear",      or "nearest", "bicubic", "lanczos": Pillow's, antialiased; default "bilinear"
      "order": "RGB",            or "BGR"; default "RGB"
      "divisor": 255,            every value 0..255 is divided by it; default 1
      "mean": [0.5, 0.5, 0.5],   then subtracted: one number, or three in the order of `order`; default 0
      "std": 0.5                 then divided by: one number, or three in the order of `order`; default 1
    }
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.files import open_regular
from onnxscope.base.json_files import parse_json
from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.readers.images import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PRESETS", "Preset", "load_preset", "preset_of_model", "recipe_file"]

Resize = Literal["straight", "crop"]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Order = Literal["RGB", "BGR"]

_CHOICES = {"resize": get_args(Resize), "filter": get_args(Filter), "order": get_args(Order)}
_MAX_RECIPE_BYTES = 65_536
_MAX_SIZE = 65_535


@dataclass(frozen=True)
class Preset:
    """The steps from an upright 8-bit image to numbers, in this order: resize, order, divide, minus mean, over std.

    Attributes:
        name: What results call it.
        resize: `straight` to the target, or `crop`: shorter side to `shorter_side`, then the target from the centre.
        filter: Pillow's resampling filter, always antialiased.
        size: Height and width where the model leaves them open, None for the first picture's own.
        shorter_side: Only for `crop`, for a target of `size`; other targets scale it by target / size.
        order: Order of the channels of a colour image.
        divisor: Of the values 0..255.
        mean: One number, or one for each channel in `order`.
        std: The same.
    """

    name: str = "custom"
    resize: Resize = "straight"
    filter: Filter = "bilinear"
    size: int | None = 224
    shorter_side: int = 256
    order: Order = "RGB"
    divisor: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def is_whole(self) -> bool:
        """Whether the numbers stay 0..255, so that an integer input can take them."""
        return self.divisor == 1 and not any(self.mean) and all(value == 1 for value in self.std)

    @property
    def record(self) -> str | dict[str, Any]:
        """What results record: the name of one of ours, else the whole recipe."""
        return self.name if self == PRESETS.get(self.name) else self.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as `load_preset` reads it."""
        record: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.resize != "crop":
            del record["shorter_side"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}

    def apply(self, image: Image, height: int | None, width: int | None, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Turn an image into numbers.

        Computed in float32 as the frameworks do, in float64 only for a float64 input.

        Args:
            image: Upright, mode `RGB` or `L`.
            height: The model's height in pixels, None where it is open: `size`, or the image's own.
            width: The same for its width.
            dtype: The input's element type, real; an integer only where `is_whole`.

        Returns:
            A new array (height, width, channels) of `dtype`, with 3 channels for `RGB` and 1 for `L`.

        Raises:
            InputError: The recipe's means are for three channels and the image has one, the values are no whole
                numbers and the input wants them, or the image would become too large on the way.
        """
        self._check(len(image.getbands()), dtype)
        resized = self._resized(image, height or self.size or image.height, width or self.size or image.width)
        pixels = np.asarray(resized).reshape(resized.height, resized.width, -1)
        if self.order == "BGR":
            pixels = pixels[:, :, ::-1]
        if self.is_whole:
            return pixels.astype(dtype, order="C")
        work = np.float64 if dtype == np.float64 else np.float32
        values: NDArray[Any] = pixels.astype(work, order="C")
        values /= work(self.divisor)
        values -= np.asarray(self.mean, work)
        values /= np.asarray(self.std, work)
        return values.astype(dtype)

    def restore(self, values: NDArray[Any]) -> Image:
        """Turn numbers that `apply` made back into the picture that the model sees: resized and cropped.

        Args:
            values: Shape (height, width, channels), with 1 or 3 channels; not changed.

        Returns:
            An image in mode `L` or `RGB`, exact for float32, the nearest for half precision.
        """
        from PIL import Image

        pixels = (values.astype(np.float64) * np.asarray(self.std) + np.asarray(self.mean)) * self.divisor
        levels = np.rint(np.clip(np.nan_to_num(pixels), 0, 255)).astype(np.uint8)
        if levels.shape[2] == 1:
            return Image.fromarray(levels[:, :, 0])
        return Image.fromarray(np.ascontiguousarray(levels[:, :, ::-1] if self.order == "BGR" else levels))

    def _check(self, channels: int, dtype: np.dtype[Any]) -> None:
        numbers = max(len(self.mean), len(self.std))
        if numbers > channels:
            names = [name for name, preset in PRESETS.items() if len(preset.mean) == 1]
            raise InputError(
                f"preset {self.name!r} has {numbers} means or deviations for an input of {channels} channel",
                hint=f"one number for all channels: {', '.join(names)}, or a recipe in a JSON file",
            )
        if dtype.kind in "iu" and not (self.is_whole and np.iinfo(dtype).max >= 255):
            why = "0..255" if self.is_whole else "fractions"
            raise InputError(
                f"preset {self.name!r} gives {why}, and the input takes {dtype.name}",
                hint="give the preset `none`, or a .npy file with the array that the model takes",
            )

    def _resized(self, image: Image, height: int, width: int) -> Image:
        from PIL import Image

        resample = Image.Resampling[self.filter.upper()]
        if self.resize == "straight" or self.size is None:
            _check_pixels(width, height)
            return image.resize((width, height), resample)
        # For a square target, exactly torchvision's Resize(side) and CenterCrop; for others, the smallest image of the
        # same proportions that covers the target, enlarged by side / size. No tie can occur for 256 / 224.
        box_width, box_height = (round(target * self.shorter_side / self.size) for target in (width, height))
        if image.width * box_height <= image.height * box_width:
            full_width, full_height = box_width, int(box_width * image.height / image.width)
        else:
            full_width, full_height = int(box_height * image.width / image.height), box_height
        _check_pixels(full_width, full_height)
        resized = image.resize((full_width, full_height), resample)
        left, top = round((full_width - width) / 2.0), round((full_height - height) / 2.0)
        return resized.crop((left, top, left + width, top + height))


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"the image would be resized to {width:,} x {height:,}, more than the {MAX_PIXELS:,} pixels that we make",
            hint="make its proportions more like the model's input",
        )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("imagenet", resize="crop", divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            Preset("half", divisor=255.0, mean=(0.5,), std=(0.5,)),
            Preset("unit", filter="bicubic", divisor=255.0),
            Preset("caffe", filter="bicubic", order="BGR", mean=(103.939, 116.779, 123.68)),
            Preset("none", size=None),
        )
    }
)


def load_preset(preset: str | os.PathLike[str] | Preset, *, files: bool = True) -> Preset:
    """Return a preset by its name, or read a recipe (see the module's docstring) from JSON.

    Args:
        preset: A name, the path of a JSON file, the JSON text itself, or a `Preset`, which is returned as it is.
        files: Whether a path may be followed; not for a name that a model recorded.

    Raises:
        InputError: Neither a known name nor a file, or not a recipe.
    """
    if isinstance(preset, Preset):
        return preset
    text = os.fsdecode(preset)
    if text in PRESETS:
        return PRESETS[text]
    if text.lstrip().startswith("{"):
        return _parse(text, "the recipe", "custom")
    if files and recipe_file(preset) is not None:
        where = printable(text)
        with open_regular(text, limit_bytes=_MAX_RECIPE_BYTES, hint=_hint()) as stream:
            try:
                content = stream.read(_MAX_RECIPE_BYTES).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise InputError(f"not a recipe in JSON (no UTF-8 text): {where}") from error
        return _parse(content, where, os.path.splitext(os.path.basename(text))[0])
    raise InputError(
        f"unknown preset {text[:60]!r}",
        hint=_hint(),
    )


def preset_of_model(recorded: str | None) -> Preset:
    """Return the preset that a model records.

    Raises:
        InputError: It records none, or one that cannot be read.
    """
    names = ", ".join(PRESETS)
    if recorded is None:
        raise InputError(
            "which preset? The model records none, and images need one",
            hint=f"name it with `--preprocess`: {names}, or a JSON file with a recipe",
        )
    try:
        return load_preset(recorded, files=False)  # the model is not trusted with a path
    except InputError as error:
        raise InputError(f"{error}: recorded in the model", hint=f"name one with `--preprocess`: {names}") from error


def _hint() -> str:
    return f"one of {', '.join(PRESETS)}, or a JSON file with a recipe"


def recipe_file(preset: str | os.PathLike[str] | Preset | None) -> str | None:
    """Return the path of the file that `load_preset` reads, None where it reads none."""
    if preset is None or isinstance(preset, Preset):
        return None
    text = os.fsdecode(preset)
    if text in PRESETS or text.lstrip().startswith("{"):
        return None
    return text if text.lower().endswith(".json") or os.path.lexists(text) else None


def _parse(text: str, where: str, name: str) -> Preset:
    try:
        record = parse_json(text)
    except ValueError as error:
        raise InputError(f"not a recipe in JSON ({printable(str(error))}): {where}") from error
    if not isinstance(record, dict):
        raise InputError(f"not a recipe in JSON (no object): {where}")
    keys = [field.name for field in fields(Preset)]
    for key in record:
        if key not in keys:
            raise InputError(f"unknown key {key[:60]!r} in a recipe: {where}", hint=f"its keys: {', '.join(keys)}")
    if "shorter_side" in record and record.get("resize") != "crop":
        raise InputError(f'\'shorter_side\' without "resize": "crop" in a recipe: {where}')
    values: dict[str, Any] = {key: _READERS[key](value, key, where) for key, value in record.items()}
    preset = Preset(**{"name": name, **values})
    if preset.resize == "crop" and preset.size is None:
        raise InputError(f'\'size\' is null with "resize": "crop" in a recipe: {where}')
    if preset.resize == "crop" and preset.size is not None and preset.shorter_side < preset.size:
        raise InputError(f"'shorter_side' {preset.shorter_side} is less than 'size' {preset.size} in a recipe: {where}")
    return preset


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


def _read_open_size(value: Any, key: str, where: str) -> int | None:
    return None if value is None else _read_size(value, key, where)


def _read_numbers(value: Any, key: str, where: str) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    wanted = f"{'numbers other than 0' if key == 'std' else 'numbers'} that float32 holds, one or three"
    if len(values) not in (1, 3) or not all(_is_number(number, nonzero=key == "std") for number in values):
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
    "order": _read_choice,
    "divisor": _read_divisor,
    "mean": _read_numbers,
    "std": _read_numbers,
}
