"""The pictures of a page, as many as there is room for: mosaics, sheets of all channels, strips, photographs."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import counted, label, number_text
from onnxscope.drawing.mosaics import coarsened, encode_png, mosaic, reduced, strips
from onnxscope.reporting.content import Content, LayerView, Sight

if TYPE_CHECKING:
    from PIL.Image import Image

    from onnxscope.analyses.tap_maps import FeatureMap

__all__ = ["add_pictures", "fitting_sights", "strip_of_channels"]

_CELL_PX = 56  # small maps are enlarged by a whole number, up to this
_ROW_PX = 236  # of maps that are no images, side by side: as wide as four mosaics' maps
_MAP_PX = 112  # larger maps are averaged down to this
_SHEET_PX = (56, 40, 28, 20, 14, 10, 7)  # sides of the maps on a sheet of all channels; the first that fits is taken
_SHEETS_BYTES = 2_000_000
_SHEET_BYTES_A_PIXEL = 0.42  # half a byte, compressed by a fifth or more, in base64
_MAX_SHEET_CHANNELS = 4096
_TAG_BYTES = 300  # of the markup around a picture
_REMARK_BYTES = 150  # of a remark on what is left out
_SMOOTH_PX = 64  # smaller photographs show their pixels


def strip_of_channels(channels: Any, zeros: int) -> dict[str, Any] | None:
    """Draw mean, standard deviation and share of zeros of each channel as strips of colour.

    Args:
        channels: A `ChannelStatistics`, or None.
        zeros: How many channels are all zeros.

    Returns:
        The picture with its range in words, None below two channels and where nothing is finite.
    """
    if channels is None or len(channels.mean) < 2:
        return None
    rows, ranges = [], []
    for key, word in (("mean", "mean"), ("std", "spread"), ("zero_fraction", "zeros")):
        numbers = np.array([np.nan if number is None else number for number in getattr(channels, key)], np.float64)
        finite = numbers[np.isfinite(numbers)]
        if not finite.size:
            return None
        if key == "zero_fraction" and not finite.any():
            continue
        low, high = (0.0, 1.0) if key == "zero_fraction" else (float(finite.min()), float(finite.max()))
        rows.append((np.where(np.isfinite(numbers), numbers, np.nan), low, high))
        ranges.append((word, number_text(float(finite.min())), number_text(float(finite.max()))))
    description = "; ".join(f"{word} from {low} to {high}" for word, low, high in ranges)
    count = len(channels.mean)
    image = strips(rows)
    return {
        **_picture(image, f"{counted(count, 'channel')}: {description}"),
        "ranges": ranges,
        "count": count,
        "zeros": zeros,
    }


def fitting_sights(sights: Sequence[Sight], free: int) -> tuple[list[dict[str, Any]], int]:
    """Return the pictures of the first inputs, as many as `free` bytes have room for, and how many bytes they take."""
    fitting, taken_bytes = [], 0
    for sight in sights:
        drawn = _sight(sight)
        size = _size_bytes(drawn["pictures"])
        if taken_bytes + size > free:
            break
        taken_bytes += size
        fitting.append(drawn)
    return fitting, taken_bytes


def _sight(sight: Sight) -> dict[str, Any]:
    pictures = []
    for image, caption in ((sight.photograph, "as the model sees it"), (sight.overlay, label(sight.caption))):
        if image is not None:
            shown = image.convert("RGB")
            smooth = min(image.size) >= _SMOOTH_PX
            pictures.append(
                {**_picture(shown, f"{label(sight.name)}, {caption}"), "caption": caption, "smooth": smooth}
            )
    return {"name": sight.name, "pictures": pictures}


def add_pictures(
    layers: Sequence[LayerView], cards: Sequence[dict[str, Any]], content: Content, free: int
) -> Iterable[str]:
    """Add mosaics to the cards in order while there is room, then sheets of all channels.

    Args:
        layers: In the order of the cards.
        cards: What the template is given for each layer; changed.
        content: What the page shows.
        free: Bytes.

    Returns:
        A sentence for whatever found no room.
    """
    drawn = [
        (layer, card) for layer, card in zip(layers, cards, strict=True) if layer.tap and layer.tap.maps() is not None
    ]
    free -= _REMARK_BYTES * (len(drawn) + 3)
    shown = 0
    with ThreadPoolExecutor() as pool:
        for (_, card), columns in zip(drawn, pool.map(lambda pair: _columns(pair[0], content), drawn), strict=True):
            size = sum(_size_bytes(column["pictures"]) for column in columns)
            if size > free:
                pool.shutdown(cancel_futures=True)
                break
            free -= size
            card["columns"] = columns
            shown += 1
    missing = drawn[shown:]
    for _, card in missing:
        card["left_out"] = True
    if missing:
        yield (
            f"the feature maps of {len(missing):,} of {len(drawn):,} layers are left out, from "
            f"{label(missing[0][0].name)} on: the page would be too large; `--select` chooses layers, `--max-size` "
            "allows more"
        )
    else:
        yield from _add_sheets(drawn, min(free, _SHEETS_BYTES))


def _add_sheets(drawn: Sequence[tuple[LayerView, dict[str, Any]]], free: int) -> Iterable[str]:
    """Add a sheet of all channels to each layer that has more than its mosaic shows.

    Each gets an equal share of the room, and what those with few channels do not need goes to the others.
    """
    wanting = [(count, layer, card) for layer, card in drawn if (count := _channels(layer)) is not None]
    wanting.sort(key=lambda entry: entry[0])
    too_many = sum(count > _MAX_SHEET_CHANNELS for count, _, _ in wanting)
    wanting = wanting[: len(wanting) - too_many]
    missing = 0
    for place, (count, layer, card) in enumerate(wanting):
        share = free // (len(wanting) - place)
        sheet = _fitting_sheet(layer, count, share, free)
        if sheet is None:
            missing += 1
        else:
            card["sheet"] = sheet
            free -= _size_bytes([sheet])
    for count, why in ((missing, "the page would be too large"), (too_many, f"more than {_MAX_SHEET_CHANNELS:,} each")):
        if count:
            yield f"sheets of all channels of {count:,} layer{'' if count == 1 else 's'} are left out: {why}"


def _fitting_sheet(layer: LayerView, count: int, share: int, free: int) -> dict[str, Any] | None:
    """The sheet with the largest maps whose size is within the share, or at least the smallest, where there is room."""
    assert layer.tap is not None
    longest = max(layer.tap.data.shape[axis] for axis in layer.tap.view.sides or ())
    for side in dict.fromkeys(min(side, longest) for side in _SHEET_PX):
        is_last = side <= _SHEET_PX[-1]
        if count * (side + 1) ** 2 * _SHEET_BYTES_A_PIXEL > share and not is_last:
            continue
        sheet = _sheet(layer, count, side)
        if len(sheet["src"]) <= (free if is_last else share):
            return sheet
    return None


def _channels(layer: LayerView) -> int | None:
    """How many channels or heads a sheet would show, None where the mosaic shows all, and for slices of volumes."""
    tap = layer.tap
    assert tap is not None
    count = tap.view.count(tap.data.shape)
    return count if len(tap.numbers) < count and tap.view.through is None else None


def _columns(layer: LayerView, content: Content) -> list[dict[str, Any]]:
    """A column for each sample; where both models have the layer, a picture of each and of their difference."""
    tap, pair = layer.tap, layer.pair
    assert tap is not None
    names = [sight.name for sight in content.sights] or [""]
    columns = []
    for sample, name in enumerate(names[: tap.view.samples(tap.data.shape)]):
        suffix = f", on {label(name)}" if name else ""
        compared = None if pair is None else _compared(layer, pair, sample, suffix)
        if compared is None:
            of_sample = replace(tap, sample=sample)
            maps = of_sample.maps()
            assert maps is not None
            caption = of_sample.caption()
            compared = [{**_mosaic(maps, f"{label(layer.name)}, {caption}{suffix}", tap), "caption": caption}]
        columns.append({"name": name, "pictures": compared})
    return columns


def _compared(
    layer: LayerView, pair: tuple[FeatureMap, FeatureMap], sample: int, suffix: str
) -> list[dict[str, Any]] | None:
    """Both models' maps and their difference, for the channels that differ most; None where they have no maps."""
    counts = [tap.view.count(tap.data.shape) for tap in pair]
    maps = [replace(tap, sample=sample).showing(range(count)).maps() for tap, count in zip(pair, counts, strict=True)]
    if maps[0] is None or maps[1] is None or maps[0].shape != maps[1].shape:
        return None
    with np.errstate(invalid="ignore"):
        gap = np.abs(maps[1].astype(np.float64) - maps[0].astype(np.float64))
    largest = np.max(gap, axis=(1, 2), where=np.isfinite(gap), initial=0.0)
    numbers = layer.tap.numbers if layer.tap is not None else ()
    if layer.difference is not None and layer.difference.differs:
        numbers = tuple(np.argsort(-largest, kind="stable")[: len(numbers)].tolist())
    chosen = list(numbers)
    first = replace(pair[0], sample=sample).showing(numbers)
    caption = first.caption()
    alt = f"{label(layer.name)}, {caption}{suffix}"
    same = "" if largest.any() else ": no difference"
    pictures = [
        {**_mosaic(maps[0][chosen], alt, first), "caption": f"this model, {caption}"},
        {**_mosaic(maps[1][chosen], f"{alt}, in the second model", first), "caption": f"the second model{same}"},
    ]
    if largest.any():
        caption = f"difference, at most {number_text(float(largest.max()))}"
        pictures.append({**_mosaic(gap[chosen], f"{alt}, {caption}", first), "caption": caption})
    return pictures


def _mosaic(maps: NDArray[Any], alt: str, tap: FeatureMap) -> dict[str, Any]:
    """Maps side by side, each as wide as four of them have room for; one that is alone has all of it."""
    if tap.view.is_image:
        return _picture(mosaic(reduced(maps, _MAP_PX), cell_px=_CELL_PX), alt)
    columns = 1 if tap.view.through is not None else min(len(maps), 4)
    side = _ROW_PX // columns
    square = tap.view.square
    return _picture(mosaic(reduced(maps, side, square=square), columns=columns, cell_px=side, square=square), alt)


def _sheet(layer: LayerView, count: int, side: int) -> dict[str, Any]:
    assert layer.tap is not None
    tap = replace(layer.tap, sample=0).showing(range(count))
    maps = tap.maps()
    assert maps is not None
    small = reduced(maps, side, square=tap.view.square)
    across = min(count, math.ceil(math.sqrt(count * 1.5)))
    image = coarsened(mosaic(small, columns=across, cell_px=side, gap_px=1, square=tap.view.square))
    word = f"{tap.view.each_word}s"
    alt = f"{label(layer.name)}, all {count:,} {word}"
    drawn = {"count": count, "word": word, "across": across, "reduced": small.shape != maps.shape}
    return {**_picture(image, alt), **drawn}


def _size_bytes(pictures: Iterable[dict[str, Any]]) -> int:
    return sum(len(picture["src"]) + _TAG_BYTES for picture in pictures)


def _picture(image: Image, alt: str) -> dict[str, Any]:
    encoded = base64.b64encode(encode_png(image)).decode()
    width, height = image.size
    return {"src": f"data:image/png;base64,{encoded}", "width": width, "height": height, "alt": alt}
