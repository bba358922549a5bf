"""The command `demo`: the tutorial's networks converted and looked into, with a real photograph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxscope.base.files import make_folder, refuse_inputs, write_whole
from onnxscope.errors import MissingDependencyError
from onnxscope.terminal.options import Presentation, common

if TYPE_CHECKING:
    from onnxscope.base.tables import Table

__all__ = ["Tour", "demo", "tour"]

_NETWORKS = (
    ("torch", "alexnet"),
    ("torch", "resnet34"),
    ("tensorflow", "alexnet"),
    ("tensorflow", "alexnet-subclassed"),
)


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("onnxscope-demo"), show_default=True, metavar="DIR"
)
@common
def demo(output: Path, shown: Presentation) -> None:
    """Convert the tutorial's networks and look inside them with a real photograph."""
    result = tour(output, say=shown.note)
    shown.show(result)
    shown.note(
        f"In {result.folder}, a folder a model: everything on one page in report.html, pictures in features/*.png and "
        "weights/*.svg, tables in layers.txt, features.txt and weights.txt, records in features/ and weights/*.json",
    )


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
        from onnxscope.base.tables import Table

        columns = ("folder", "layers tapped", "feature maps", "parameters", "histograms")
        return Table("", columns, self.stops)


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
    from onnxscope.converting.convert_model import convert

    target = Path(folder)
    trained, digits, photograph = _sample("digits.onnx"), _sample("digits.npz"), _photograph()
    for name in ("digits", *(f"{framework}-{network}" for framework, network in _NETWORKS)):
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


def _look(model: Path, inputs: Path, place: Path, say: Callable[[str], None]) -> tuple[str, int, int, int, int]:
    """Analyse one model and write everything about it into its folder."""
    from onnxscope.analyses.feature_maps import features
    from onnxscope.analyses.folders import save_features, save_weights
    from onnxscope.analyses.inspection import inspect
    from onnxscope.analyses.weight_statistics import weights
    from onnxscope.model.loading import load_model
    from onnxscope.reporting.reports import report

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
    from onnxscope.analyses.folders import files_in_place

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
