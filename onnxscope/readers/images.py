"""Read one image: checked before it is decoded, turned upright, and made grey, RGB or RGBA with levels 0 to 255."""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from typing import IO, TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from onnxscope.base.text import first_line
from onnxscope.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_IMAGE_BYTES", "MAX_PIXELS", "Colour", "Picture", "normalize_image", "read_image"]

Colour = Literal["RGBA", "RGB", "L"]
Picture: TypeAlias = "Image | tuple[Image, ...]"
"""8 bits a channel in one image; or more, in one of mode `F` for each channel, whose levels 0..255 have fractions."""

# Pillow's own limit, which it only warns about: a quarter of a gigabyte as 24-bit RGB.
MAX_PIXELS = 89_478_485
_MAX_DEEP_PIXELS = MAX_PIXELS // 4  # whose colours are read with all of 16 bits, in float32
MAX_IMAGE_BYTES = 1 << 30
# JPEG's limit. Pillow's resize tables grow with the side, to gigabytes for an image of one row.
_MAX_SIDE = 65_535
# No format that runs a program (EPS starts Ghostscript) or is only a frame around others (ICNS, FITS, PSD).
# Those that Pillow loads at once come first; JPEG includes the MPO of phones.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF")
# Pillow logs what it also raises, and a program that set up no logging would see both.
_SILENT = logging.NullHandler()


def read_image(stream: IO[bytes], where: str, colour: Colour) -> tuple[Picture, list[str]]:
    """Decode the first frame of an image.

    Args:
        stream: An open regular file.
        where: The file's printable name, for messages.
        colour: `RGB`, `RGBA`, or `L` for one channel of grey (ITU-R 601 luma).

    Returns:
        An image in mode `colour` that owns its pixels, or its channels where they have 16 bits; and notes for the user,
        without the file's name.

    Raises:
        InputError: Not an image, truncated, broken, too large to decode, or with pixels that have no range.
    """
    from PIL import Image, UnidentifiedImageError

    logging.getLogger("PIL").addHandler(_SILENT)
    # Pillow 11.3 brought AVIF, and before that asking for it is a KeyError.
    formats = _FORMATS if importlib.util.find_spec("PIL.AvifImagePlugin") else _FORMATS[:-1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Image.open(stream, formats=formats) as image:
                _check_size(image.size, where)
                animated = getattr(image, "is_animated", False)
                narrowed = _loses_bits(image)
                result, notes = normalize_image(image, where, colour)
                if narrowed and image.format == "PNG" and math.prod(image.size) <= _MAX_DEEP_PIXELS:
                    lower = _lower_bytes(stream, formats)
                    if lower is not None:
                        result, notes = _deep_colours(image, lower, colour)
                        narrowed = False
        except InputError:
            raise
        except UnidentifiedImageError as error:
            raise InputError(f"not an image: {where}", hint=f"we read {', '.join(formats)}") from error
        except Image.DecompressionBombError as error:
            raise InputError(f"the image is too large to decode ({first_line(error)}): {where}") from error
        # Pillow's decoders let almost any exception out on broken files, and all of them mean just that.
        except Exception as error:
            hint = "save it again as PNG or JPEG with an image editor"
            raise InputError(f"the image is broken ({first_line(error)}): {where}", hint=hint) from error
    if narrowed:
        notes.append("colours of 16 bits read as 8 bits, their upper ones")
    if animated:
        notes.insert(0, "several frames, only the first is used")
    for warning in caught:
        if not issubclass(warning.category, Image.DecompressionBombWarning):
            notes.append(first_line(warning.message))
    return result, notes


def normalize_image(image: Image, where: str, colour: Colour) -> tuple[Picture, list[str]]:
    """Turn an opened image upright and give it the channels of mode `colour`, with levels 0 to 255.

    Args:
        image: As Pillow opened or made it; left as it is.
        where: What to call it in messages.
        colour: `RGB`, `RGBA` or `L`.

    Returns:
        A new image, or its channels where these are grey values of 16 bits; and notes for the user.

    Raises:
        InputError: Too large, empty, or with pixels that have no known range (32-bit integers, floating point).
    """
    from PIL import ImageOps

    _check_size(image.size, where)
    notes: list[str] = []
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        grey = _deep(upright, where)
        return (*[grey] * min(len(colour), 3), *_opaque(grey, colour)), ["16-bit grey values scaled to 0..255"]
    if upright.mode == "F":
        raise InputError(
            f"floating-point pixels have no range that we know: {where}",
            hint="give a .npy file with the array that the model takes",
        )
    if upright.mode == "CMYK":
        notes.append("CMYK made RGB without a colour profile")
    if upright.has_transparency_data and colour != "RGBA":
        upright, transparent = _over_black(upright)
        if transparent:
            notes.append("transparent pixels laid over black")
    # Palettes first become colours: Pillow's way from P to L is through its palette's own luma, rounded twice.
    if colour == "L" and upright.mode not in ("1", "L"):
        upright = upright.convert("RGB")
    return upright.convert(colour), notes


def _check_size(size: tuple[int, int], where: str) -> None:
    width, height = size
    if math.prod(size) > MAX_PIXELS or max(size) > _MAX_SIDE:
        raise InputError(
            f"the image is too large to decode ({width:,} x {height:,}, at most {MAX_PIXELS:,} pixels and "
            f"{_MAX_SIDE:,} a side): {where}",
            hint="make it smaller with an image editor",
        )
    if min(size) < 1:
        raise InputError(f"the image has no pixels ({width} x {height}): {where}")


def _deep(image: Image, where: str) -> Image:
    """Scale 0..65535 to 0..255, fractions included. Pillow's own conversion from mode I cuts everything above 255."""
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise InputError(
            f"32-bit grey values from {values.min()} to {values.max()} have no range that we know: {where}",
            hint="give a .npy file with the array that the model takes",
        )
    return Image.fromarray((values / 257).astype(np.float32))


def _opaque(like: Image, colour: Colour) -> list[Image]:
    from PIL import Image

    return [Image.new("F", like.size, 255.0)] if colour == "RGBA" else []


def _loses_bits(image: Image) -> bool:
    """Whether Pillow is about to read colours of 16 bits as their upper halves, which it does without a word."""
    told = [tile[3] for tile in getattr(image, "tile", None) or [] if len(tile) > 3]
    parts = [part for args in told for part in (args if isinstance(args, tuple) else (args,))]
    # How PNG and TIFF say it, and the highest level of a PPM.
    deep = any((isinstance(part, str) and ";16" in part) or part == 65_535 for part in parts)
    return deep and image.mode in ("RGB", "RGBA", "LA")


def _lower_bytes(stream: IO[bytes], formats: tuple[str, ...]) -> Image | None:
    """The lower halves of a PNG's 16-bit colours: what Pillow takes where it is told the other order of bytes.

    None where one level is transparent, which is told of all 16 bits, and for grey with alpha, which Pillow has in one
    order alone.
    """
    from PIL import Image

    stream.seek(0)
    with Image.open(stream, formats=formats) as image:
        known = all(hasattr(tile, "_replace") and tile[3] in ("RGB;16B", "RGBA;16B") for tile in image.tile)
        if "transparency" in image.info or not known:
            return None
        image.tile = [tile._replace(args=str(tile[3]).replace(";16B", ";16L")) for tile in image.tile]
        image.load()
        return image.copy()


def _deep_colours(upper: Image, lower: Image, colour: Colour) -> tuple[Picture, list[str]]:
    """Colours of 16 bits by their two halves, turned upright, as levels 0 to 255 with fractions."""
    from PIL import Image, ImageOps

    halves = [np.asarray(ImageOps.exif_transpose(half)) for half in (upper, lower)]
    notes = ["16-bit colours scaled to 0..255"]
    channels = [
        (halves[0][..., place].astype(np.float32) * 256 + halves[1][..., place]) / 257
        for place in range(halves[0].shape[2])
    ]
    if len(channels) == 4 and colour != "RGBA":
        alpha = channels.pop() / 255
        if alpha.min() < 1:
            notes.append("transparent pixels laid over black")
            channels = [channel * alpha for channel in channels]
    if colour == "L":
        red, green, blue = channels
        channels = [np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue]
    images = [Image.fromarray(channel.astype(np.float32)) for channel in channels]
    return (*images, *(_opaque(images[0], colour) if len(images) == 3 else [])), notes


def _over_black(image: Image) -> tuple[Image, bool]:
    from PIL import Image

    rgba = image.convert("RGBA")
    lowest, _ = rgba.getchannel("A").getextrema()
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, rgba).convert("RGB"), isinstance(lowest, int | float) and lowest < 255
