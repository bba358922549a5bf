"""Recipes that turn an image into a model's numbers: the named presets, and others read from JSON.

`onnxscope.readers.image_recipes` says what a recipe in JSON holds.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.files import open_regular
from onnxscope.base.text import counted, printable
from onnxscope.errors import InputError
from onnxscope.readers.image_recipes import ONLY_WITH, Filter, Order, Resize, parse_recipe, processor_recipe
from onnxscope.readers.images import MAX_PIXELS, Picture
from onnxscope.readers.sound_recipes import SOUND_RECIPES
from onnxscope.readers.ways_said import file_beside

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "PRESETS",
    "Preset",
    "load_preset",
    "nearest_preset",
    "preset_beside",
    "preset_of_model",
    "recipe_file",
]

_MAX_RECIPE_BYTES = 65_536
_PROCESSOR = "preprocessor_config.json"
_BY_A_SIDE = ("shorter", "longer")  # ways to resize


@dataclass(frozen=True)
class Preset:
    """The steps from an upright image to numbers, in this order: resize, order, divide, minus mean, over std.

    Attributes:
        name: What results call it.
        resize: `straight` to the target; `crop`: shorter side to `shorter_side`, then the target from the centre;
            `letterbox`: as large as goes into the target, and `pad` around it; `shorter` and `longer`: straight to a
            target whose shorter side is `shorter_side`, or whose longer one is `longer_side`, unless that is given.
        filter: Pillow's resampling filter, always antialiased.
        size: Height and width where the model leaves them open, one number for both; None for the picture's own.
        shorter_side: For `shorter`, and for `crop` with a target of `size`; other targets scale it by target / size.
        longer_side: For `longer`; for `shorter` what the longer side may have at most, None for any.
        pad: Only for `letterbox`: a level 0..255.
        order: Order of the channels of a colour image.
        divisor: Of the values 0..255.
        mean: One number, or one for each channel in `order`.
        std: The same.
    """

    name: str = "custom"
    resize: Resize = "straight"
    filter: Filter = "bilinear"
    size: int | tuple[int, int] | None = 224
    shorter_side: int = 256
    longer_side: int | None = None
    pad: int = 114
    order: Order = "RGB"
    divisor: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def is_whole(self) -> bool:
        """Whether the numbers stay 0..255, so that an integer input can take them."""
        return self.divisor == 1 and not any(self.mean) and all(value == 1 for value in self.std)

    @property
    def follows(self) -> bool:
        """Whether sides that the model leaves open follow the image's own."""
        return self.size is None or self.resize in _BY_A_SIDE

    @property
    def record(self) -> str | dict[str, Any]:
        """What results record: the name of one of ours, else the whole recipe."""
        return self.name if self == PRESETS.get(self.name) else self.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as `load_preset` reads it."""
        record: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for key, kinds in ONLY_WITH.items():
            if self.resize not in kinds:
                del record[key]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}

    def target(self, own: tuple[int, int], height: int | None, width: int | None, multiple: int = 1) -> tuple[int, int]:
        """Return the height and width that an image gets.

        Args:
            own: The image's height and width.
            height: The model's height in pixels, None where it is open.
            width: The same for its width.
            multiple: Of which open sides are, where they follow the image: padded to it, or else the nearest one.
        """
        if height and width:
            return height, width
        if self.size is not None and not self.follows:
            sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
            return height or sides[0], width or sides[1]
        scale = height / own[0] if height else width / own[1] if width else 1.0
        if self.resize in _BY_A_SIDE and not height and not width:
            return self._by_a_side(own, multiple)
        rounded: Callable[[float], float] = math.ceil if self.resize == "letterbox" else round

        def open_side(side: int) -> int:
            pixels = int(side * scale + 1e-9) if self.resize in _BY_A_SIDE else round(side * scale)
            return max(1, int(rounded(pixels / multiple))) * multiple

        return height or open_side(own[0]), width or open_side(own[1])

    def _by_a_side(self, own: tuple[int, int], multiple: int) -> tuple[int, int]:
        """The height and width of an image whose one side is asked for, rounded as torchvision or Hugging Face do."""
        low, high = sorted(own)
        short, long = self.shorter_side, int(self.shorter_side * high / low + 1e-9)
        if self.longer_side is not None and high / low * self.shorter_side > self.longer_side:
            exact = self.longer_side * low / high
            short, long = round(exact), int(exact * high / low)
        if self.resize == "longer" and self.longer_side is not None:
            short, long = int(low * (self.longer_side / high) + 0.5), self.longer_side
        short, long = (max(1, round(side / multiple)) * multiple for side in (short, long))
        return (short, long) if own[0] <= own[1] else (long, short)

    def sized(self, size: str | int) -> Preset:
        """Return the same steps for another size of what the model leaves open: `N`, `WIDTHxHEIGHT`, or `own`.

        Raises:
            InputError: It is none of these.
        """
        if size == "own":
            kept: Resize = "letterbox" if self.resize == "letterbox" else "straight"
            return replace(self, size=None, resize=kept)
        match = re.fullmatch(r"([0-9]{1,5})(?:[x×]([0-9]{1,5}))?", str(size))
        width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= min(width, height) <= max(width, height) <= 65_535:
            raise InputError(
                f"no size of a picture: {printable(str(size))!r}",
                hint="`--size 224`, `--size 640x480` or `--size own`",
            )
        short = self.shorter_side
        if self.resize == "crop" and self.size is not None:
            before = self.size if isinstance(self.size, int) else min(self.size)
            short = round(short * min(height, width) / before)
        resize = "straight" if self.resize in _BY_A_SIDE else self.resize
        return replace(self, size=height if height == width else (height, width), resize=resize, shorter_side=short)

    def apply(
        self, image: Picture, height: int | None, width: int | None, dtype: np.dtype[Any], multiple: int = 1
    ) -> NDArray[Any]:
        """Turn an image into numbers.

        Computed in float32 as the frameworks do, in float64 only for a float64 input.

        Args:
            image: Upright, mode `RGB`, `RGBA` or `L`, or channels of mode `F` whose levels have fractions.
            height: The model's height in pixels, None where it is open: `size`, or the image's own.
            width: The same for its width.
            dtype: The input's element type, real; an integer only where `is_whole`.
            multiple: As for `target`.

        Returns:
            A new array (height, width, channels) of `dtype`. Integers that hold 65535 take fractions of levels as such.

        Raises:
            InputError: The recipe's means are for other channels than the image has, the values are no whole numbers
                and the input wants them, or the image would become too large on the way.
        """
        channels = image if isinstance(image, tuple) else (image,)
        self.check(len(image) if isinstance(image, tuple) else len(image.getbands()), dtype)
        first = channels[0]
        sides = self.target((first.height, first.width), height, width, multiple)
        enlarges = height is not None or width is not None or self.size is not None
        resized = [np.asarray(self._resized(channel, *sides, enlarges=enlarges)) for channel in channels]
        pixels = np.stack(resized, axis=2) if isinstance(image, tuple) else resized[0].reshape(*sides, -1)
        if self.is_whole and isinstance(image, tuple) and dtype.kind in "iu":
            wide = np.iinfo(dtype).max >= 65_535
            pixels = np.rint(np.clip(pixels, 0, 255) * np.float32(257 if wide else 1))
        return self.numbers(pixels, dtype)

    def numbers(self, pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Turn the levels of a picture that has its size into numbers: all steps but the first.

        Args:
            pixels: Shape (height, width, channels), RGB where it is colour, levels 0..255; not changed.
            dtype: As for `apply`.

        Returns:
            A new array of that shape and `dtype`.
        """
        if self.order == "BGR":
            pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]] if pixels.shape[2] > 1 else [0]]
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
            values: Shape (height, width, channels), with 1, 3 or 4 channels, of which three count; not changed.

        Returns:
            An image in mode `L` or `RGB`, exact for float32, the nearest for half precision.
        """
        from PIL import Image

        pixels = (values.astype(np.float64) * np.asarray(self.std) + np.asarray(self.mean)) * self.divisor
        levels = np.rint(np.clip(np.nan_to_num(pixels), 0, 255)).astype(np.uint8)
        if levels.shape[2] == 1:
            return Image.fromarray(levels[:, :, 0])
        levels = levels[:, :, :3]
        return Image.fromarray(np.ascontiguousarray(levels[:, :, ::-1] if self.order == "BGR" else levels))

    def check(self, channels: int, dtype: np.dtype[Any]) -> None:
        """Refuse an input that takes no such image.

        Args:
            channels: How many it takes.
            dtype: Its element type.

        Raises:
            InputError: The recipe's means are for others, or its values are none of that type.
        """
        numbers = next((len(values) for values in (self.mean, self.std) if len(values) not in (1, channels)), None)
        if numbers is not None:
            raise InputError(
                f"preset {self.name!r} has {numbers} means or deviations for an input of "
                f"{counted(channels, 'channel')}",
                hint=nearest_preset(channels, dtype),
            )
        if dtype.kind in "iu" and not (self.is_whole and np.iinfo(dtype).max >= 255):
            why = "0..255" if self.is_whole else "fractions"
            raise InputError(
                f"preset {self.name!r} gives {why}, and the input takes {dtype.name}",
                hint=nearest_preset(channels, dtype),
            )

    def _resized(self, image: Image, height: int, width: int, *, enlarges: bool) -> Image:
        """The image in the target's size; one that keeps its own is only padded by a letterbox."""
        from PIL import Image

        resample = Image.Resampling[self.filter.upper()]
        _check_pixels(width, height)
        if self.resize == "letterbox":
            scale = min(height / image.height, width / image.width) if enlarges else 1.0
            inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            padded = Image.new(image.mode, (width, height), (self.pad,) * len(image.getbands()))
            padded.paste(image.resize(inner, resample), ((width - inner[0]) // 2, (height - inner[1]) // 2))
            return padded
        if self.resize != "crop" or self.size is None:
            return image.resize((width, height), resample)
        # For a square target, exactly torchvision's Resize(side) and CenterCrop; for others, the smallest image of the
        # same proportions that covers the target, enlarged by side / size. No tie can occur for 256 / 224.
        size = self.size if isinstance(self.size, int) else min(self.size)
        box_width, box_height = (round(target * self.shorter_side / size) for target in (width, height))
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
            Preset("letterbox", resize="letterbox", size=None, divisor=255.0),
        )
    }
)


def nearest_preset(channels: int, dtype: np.dtype[Any], asked: str = "") -> str | None:
    """Return the presets that fit an input, for a hint: first the one that is called most like what was asked for.

    Args:
        channels: Of the input.
        dtype: Its element type.
        asked: A name that no preset has.
    """

    def fits(preset: Preset) -> bool:
        whole = dtype.kind not in "iu" or (preset.is_whole and np.iinfo(dtype).max >= 255)
        return whole and all(len(values) in (1, channels) for values in (preset.mean, preset.std))

    names = [name for name, preset in PRESETS.items() if fits(preset)]
    if not names:
        return None
    first = (difflib.get_close_matches(asked, names, n=1) or names)[0]
    others = [name for name in names if name != first]
    return f"`--preprocess {first}`{''.join(f', {name}' for name in others)}, or a recipe in a JSON file"


def load_preset(preset: str | os.PathLike[str] | Preset, *, files: bool = True, hint: str | None = None) -> Preset:
    """Return a preset by its name, or read a recipe (see the module's docstring) from JSON.

    Args:
        preset: A name, the path of a JSON file, the JSON text itself, or a `Preset`, which is returned as it is.
        files: Whether a path may be followed; not for a name that a model recorded.
        hint: What to do where it is none; the names of all by default.

    Raises:
        InputError: Neither a known name nor a file, or not a recipe.
    """
    if isinstance(preset, Preset):
        return preset
    text = os.fsdecode(preset)
    hint = hint or f"one of {', '.join(PRESETS)}, or a JSON file with a recipe"
    if text in PRESETS:
        return PRESETS[text]
    if text.lstrip().startswith("{"):
        return _made(text, "the recipe", "custom")
    if files and recipe_file(preset) is not None:
        where = printable(text)
        with open_regular(text, limit_bytes=_MAX_RECIPE_BYTES, hint=hint) as stream:
            try:
                content = stream.read(_MAX_RECIPE_BYTES).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise InputError(f"not a recipe in JSON (no UTF-8 text): {where}") from error
        return _made(content, where, os.path.splitext(os.path.basename(text))[0])
    if text in SOUND_RECIPES:
        raise InputError(f"the preset {text!r} is for sounds, not for images", hint=hint)
    raise InputError(f"unknown preset {text[:60]!r}", hint=hint)


def preset_of_model(recorded: str | None, hint: str | None = None) -> Preset:
    """Return the preset that a model records.

    Args:
        recorded: A name, or a recipe in JSON.
        hint: What to do where that does not help; the names of all presets by default.

    Raises:
        InputError: It records none, or one that cannot be read.
    """
    hint = hint or f"name it with `--preprocess`: {', '.join(PRESETS)}, or a JSON file with a recipe"
    if recorded is None:
        raise InputError("which preset? The model records none, and images need one", hint=hint)
    try:
        return load_preset(recorded, files=False)  # the model is not trusted with a path
    except InputError as error:
        raise InputError(f"{error}: recorded in the model", hint=hint) from error


def preset_beside(model: Path | None) -> Preset | None:
    """Return the steps that `preprocessor_config.json` beside a model's file says, None where there is none for images.

    Args:
        model: The model's file. In a folder that is called `onnx` the folder above counts too, as on model hubs.

    Raises:
        InputError: It is there and cannot be read, or asks for steps that no recipe has.
    """
    path = file_beside(None if model is None else model.parent, _PROCESSOR)
    if path is None:
        return None
    try:
        with open_regular(str(path), limit_bytes=_MAX_RECIPE_BYTES) as stream:
            recipe = processor_recipe(stream.read(_MAX_RECIPE_BYTES), f"{_PROCESSOR}, beside the model")
    except InputError as error:
        raise InputError(str(error)) from error  # what a recipe of ours may hold does not help
    return None if recipe is None else Preset(**recipe)


def recipe_file(preset: str | os.PathLike[str] | Preset | None) -> str | None:
    """Return the path of the file that `load_preset` reads, None where it reads none."""
    if preset is None or isinstance(preset, Preset):
        return None
    text = os.fsdecode(preset)
    if text in PRESETS or text in SOUND_RECIPES or text.lstrip().startswith("{"):
        return None
    return text if text.lower().endswith(".json") or os.path.lexists(text) else None


def _made(text: str, where: str, name: str) -> Preset:
    return Preset(**{"name": name, **parse_recipe(text, where)})
