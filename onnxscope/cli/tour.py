"""The demonstration, and a look at what is installed: `onnxscope demo`, `onnxscope doctor`."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from onnxscope._version import __version__
from onnxscope.analyses.feature_maps import features
from onnxscope.analyses.folders import files_in_place, save_features, save_weights
from onnxscope.analyses.inspection import inspect
from onnxscope.analyses.weight_statistics import weights
from onnxscope.base.outputs import make_folder, refuse_inputs, write_whole
from onnxscope.base.tables import Table
from onnxscope.converting.convert_model import convert
from onnxscope.errors import MissingDependencyError
from onnxscope.model.loading import load_model
from onnxscope.reporting.reports import report
from onnxscope.runtime.session import providers, runtime_version

__all__ = ["Examination", "Tour", "examine", "tour"]

_NETWORKS = (
    ("torch", "alexnet"),
    ("torch", "resnet34"),
    ("tensorflow", "alexnet"),
    ("tensorflow", "alexnet-subclassed"),
)
_EXTRAS = {
    "torch": ("torch", "onnxscript", "safetensors"),
    "tensorflow": ("tensorflow-cpu", "tf2onnx", "safetensors"),
    "ray": ("ray",),
    "frames": ("pandas",),
}
_CORE = ("numpy", "onnx", "pillow", "matplotlib", "click", "rich", "jinja2")


@dataclass(frozen=True)
class Tour:
    """What the demonstration made.

    Attributes:
        folder: Where.
        stops: For each model its folder, layers looked at, pictures, parameters and histograms.
    """

    folder: str
    stops: tuple[tuple[str, int, int, int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.demo/1`, ready for JSON."""
        keys = ("folder", "taps", "pictures", "parameters", "histograms")
        return {"schema": "onnxscope.demo/1", "models": [dict(zip(keys, stop, strict=True)) for stop in self.stops]}

    def table(self) -> Table:
        """One row per model."""
        columns = ("folder", "layers tapped", "feature maps", "parameters", "histograms")
        return Table("", columns, self.stops)


@dataclass(frozen=True)
class Examination:
    """What is installed.

    Attributes:
        found: Name and version, or what is missing.
    """

    found: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.doctor/1`, ready for JSON."""
        return {"schema": "onnxscope.doctor/1", "found": dict(self.found)}

    def table(self) -> Table:
        """One row per package."""
        return Table("", ("what", "found"), self.found)


def tour(folder: str | Path, *, say: Callable[[str], None]) -> Tour:
    """Convert the tutorial's networks with seeded weights, and analyse them and a trained network.

    The networks see a photograph of Grace Hopper that matplotlib ships; the trained network sees handwritten digits.

    Args:
        folder: Where models, pictures and tables go; made where it is missing.
        say: Called with one line of progress at a time.

    Raises:
        OutputError: The folder cannot be written to, or links in it lead to what is read.
        ConversionError: A network cannot be converted.
    """
    target = Path(folder)
    trained, digits, photograph = _sample("digits.onnx"), _sample("digits.npz"), _photograph()
    for name in ("digits", *("-".join(each) for each in _NETWORKS)):
        refuse_inputs(_files_in_place(target / name), (trained, digits, photograph))
    make_folder(target)
    stops = [_look(trained, digits, target / "digits", say)]
    for framework, network in _NETWORKS:
        place = target / f"{framework}-{network}"
        place.mkdir(exist_ok=True)
        model = place / "model.onnx"
        say(f"converting {network} from {framework}")
        try:
            convert(framework, network, model)
        except MissingDependencyError as error:
            say(f"left out: {error}; {error.hint}")
            continue
        stops.append(_look(model, photograph, place, say))
    return Tour(str(target), tuple(stops))


def examine() -> Examination:
    """Look for our dependencies, extras and execution providers."""
    found = [
        ("onnxscope", __version__),
        ("python", f"{platform.python_version()} on {sys.platform}"),
        ("onnxruntime", runtime_version()),
        ("execution providers", ", ".join(providers())),
    ]
    found += [(package, _version_of(package) or "missing") for package in _CORE]
    for extra, packages in _EXTRAS.items():
        versions = {package: _version_of(package) for package in packages}
        missing = [package for package, known in versions.items() if known is None]
        if missing:
            shown = f"missing {', '.join(missing)}: pip install 'onnxscope[{extra}]'"
        else:
            shown = ", ".join(f"{package} {known}" for package, known in versions.items())
        found.append((f"extra {extra}", shown))
    return Examination(tuple(found))


def _look(model: Path, inputs: Path, place: Path, say: Callable[[str], None]) -> tuple[str, int, int, int, int]:
    """Analyse one model and write everything about it into its folder."""
    say(f"looking into {place.name}")
    place.mkdir(exist_ok=True)
    loaded = load_model(model)
    maps = features(loaded, str(inputs))
    pictures = save_features(maps, place / "features")
    statistics = weights(loaded)
    histograms = save_weights(statistics, loaded, place / "weights")
    write_whole(place / "layers.txt", repr(inspect(loaded)))
    write_whole(place / "features.txt", maps.table().text())
    write_whole(place / "weights.txt", statistics.table().text())
    report(loaded, str(inputs)).save(place / "report.html")
    return place.name, len(maps), len(pictures), len(statistics), len(histograms)


def _files_in_place(place: Path) -> list[str | Path]:
    """What `tour` and `_look` may replace in the folder of a model."""
    names = ("model.onnx", "model.onnx.data", "layers.txt", "features.txt", "weights.txt", "report.html")
    return [
        *(place / name for name in names),
        *files_in_place(place / "features", "features"),
        *files_in_place(place / "weights", "weights"),
    ]


def _sample(name: str) -> Path:
    """A file of the trained network: in the package when installed, in `fixtures/` of the repository otherwise."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "samples" / name
    return installed if installed.exists() else package.parent / "fixtures" / name


def _photograph() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
