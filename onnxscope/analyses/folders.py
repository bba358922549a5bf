"""Results as folders of pictures and JSON."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from onnxscope.analyses.feature_maps import FeatureMap, FeatureMaps
from onnxscope.analyses.weight_statistics import WeightRecord, WeightStatistics
from onnxscope.base import option_types
from onnxscope.base.files import (
    ARRAYS,
    PICTURE,
    WholeFolder,
    record_file,
    refuse_foreign,
    refuse_inputs,
    writing_folder,
)
from onnxscope.base.json_files import dump_json, parse_json
from onnxscope.base.text import is_safe_stem, safe_stem
from onnxscope.drawing.figures import histogram_png
from onnxscope.drawing.mosaics import encode_png, kernels
from onnxscope.drawing.svg_charts import histogram_svg
from onnxscope.model.loading import Model

__all__ = ["files_in_place", "refuse_others", "save_features", "save_weights"]

_MAX_MANIFEST_BYTES = 256 << 20


@option_types.checked
def save_features(
    maps: FeatureMaps, folder: str | Path, *, cmap: str = "viridis", arrays: bool = False, force: bool = False
) -> dict[str, str]:
    """Write `features.json`, a picture for every tap that has one, and with `arrays` `features.npz`.

    They appear together, or none does. Files that an earlier call wrote into the folder are replaced, pictures that it
    drew and this one does not are removed; nothing else in the folder is touched. `force` also replaces other files of
    these names.

    Returns:
        The picture's file name by tap name.

    Raises:
        OutputError: The folder cannot be made or written to, or a file of another kind has a name that is needed.
    """
    if arrays:
        maps.check_names()
    names = [f"{safe_stem(tap.tap.layer, index)}.png" for index, tap in enumerate(maps, 1)]
    refuse_others(folder, "features", names, arrays=arrays, force=force)
    pictures: dict[str, str] = {}
    with writing_folder(folder) as target:
        with ThreadPoolExecutor() as pool:
            drawn = pool.map(lambda tap: _drawn(tap, cmap), maps)
            for index, (tap, content) in enumerate(zip(maps, drawn, strict=True), 1):
                if content is not None:
                    pictures[tap.tap.name] = f"{safe_stem(tap.tap.layer, index)}.png"
                    target.write(pictures[tap.tap.name], content)
        if arrays:
            maps.save_arrays(target.open("features.npz"))
        _finish(target, "features.json", maps.to_dict(pictures), set(pictures.values()))
    return pictures


@option_types.checked
def save_weights(
    statistics: WeightStatistics,
    model: Model,
    folder: str | Path,
    *,
    picture: Literal["svg", "png"] = "svg",
    force: bool = False,
) -> dict[str, str]:
    """Write `weights.json`, a histogram of every parameter, and the kernels of a first layer that sees colours.

    What stands in the folder is treated as `save_features` does.

    Returns:
        The picture's file name by parameter name.

    Raises:
        OutputError: The folder cannot be made or written to, or the model, or a file of another kind, has the name of
            one of these files.
    """
    from onnxscope.runtime.stored_values import read_parameter

    refuse_inputs(files_in_place(folder, "weights"), model.files)
    names = [f"{safe_stem(row.parameter.name, index)}.{picture}" for index, row in enumerate(statistics, 1)]
    refuse_others(folder, "weights", names, force=force)
    pictures: dict[str, str] = {}
    draw = histogram_png if picture == "png" else histogram_svg
    with writing_folder(folder) as target:
        for index, row in enumerate(statistics, 1):
            histogram = row.summary.histogram
            if histogram is not None:
                name = pictures[row.parameter.name] = f"{safe_stem(row.parameter.name, index)}.{picture}"
                target.write(name, draw(row.parameter.name, histogram.edges, histogram.counts))
        drawn = set(pictures.values())
        first = next((row for row in statistics if _shows_colours(row)), None)
        if first is not None:
            name = f"{safe_stem('kernels_' + first.parameter.name, 0)}.png"
            values = read_parameter(model, first.parameter)
            if first.parameter.channel_axis == 3:  # height, width, in, out, as Keras stores it
                values = values.transpose(3, 2, 0, 1)
            target.write(name, encode_png(kernels(values)))
            drawn.add(name)
        _finish(target, "weights.json", {**statistics.to_dict(), "pictures": sorted(drawn)}, drawn)
    return pictures


def files_in_place(folder: str | Path, kind: Literal["features", "weights"]) -> list[str]:
    """Return what `save_features` or `save_weights` may replace: the folder, its records, and pictures there by name.

    Which pictures will be drawn is not known before a model has run, so every one with a name like ours counts.
    """
    pictures: dict[int, str] = {}  # by their inode: tools that save space link equal pictures to each other
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        pictures = {entry.inode(): entry.path for entry in entries if _is_own_picture(entry.name)}
    return [f"{folder}", *(os.path.join(folder, f"{kind}.{suffix}") for suffix in ("json", "npz")), *pictures.values()]


def refuse_others(
    folder: str | Path,
    kind: Literal["features", "weights"],
    pictures: Sequence[str],
    *,
    arrays: bool = False,
    force: bool,
) -> None:
    """Refuse a folder in which files of other kinds have the names of `kind`'s record, of `pictures`, or of `arrays`.

    Raises:
        OutputError: See `refuse_foreign`.
    """
    place = Path(folder)
    own = [(place / f"{kind}.json", record_file(f"onnxscope.{kind}"))]
    own += [(place / "features.npz", ARRAYS)] if arrays else []
    refuse_foreign([*own, *((place / name, PICTURE) for name in pictures)], force=force)


def _is_own_picture(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    return bool(dot) and suffix in ("png", "svg") and is_safe_stem(stem)


def _drawn(tap: FeatureMap, cmap: str) -> bytes | None:
    image = tap.image(cmap=cmap)
    # Level 3 takes half the time of Pillow's 6 and a twentieth more bytes.
    return None if image is None else encode_png(image, level=3)


def _shows_colours(row: WeightRecord) -> bool:
    """Whether a parameter is the kernel of a convolution over one or three channels."""
    parameter = row.parameter
    return (
        parameter.operand is not None
        and parameter.operand.node.operator.cost == "convolution"
        and parameter.role == "weight"
        and len(parameter.shape) == 4
        and _kernel_inputs(parameter.shape, parameter.channel_axis) in (1, 3)
    )


def _kernel_inputs(shape: Sequence[int], channel_axis: int | None) -> int:
    return shape[2] if channel_axis == 3 else shape[1]


def _finish(folder: WholeFolder, manifest: str, record: dict[str, Any], drawn: set[str]) -> None:
    """Write the manifest last, and remove the pictures that the previous one names and this one does not."""
    folder.write(manifest, dump_json(record))
    folder.remove(lambda: _pictures_of(folder.path / manifest) - drawn)


def _pictures_of(manifest: Path) -> set[str]:
    """Names of pictures in an earlier manifest; whatever does not look like one of ours is left alone."""
    try:
        if not manifest.is_file() or manifest.stat().st_size > _MAX_MANIFEST_BYTES:
            return set()
        record = parse_json(manifest.read_bytes())
        names = [tap.get("picture") for tap in record.get("taps", [])] + list(record.get("pictures", []))
    except (OSError, ValueError, AttributeError, TypeError):
        return set()
    return {name for name in names if isinstance(name, str) and _is_own_picture(name)}
