"""What was found out about the layers of a model in narrower formats."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from onnxscope.base.files import CHART, refuse_foreign, write_whole
from onnxscope.base.results import Record, paragraph, remarks
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, printable
from onnxscope.errors import OutputError
from onnxscope.narrowing.formats import Scheme
from onnxscope.narrowing.kept_layers import KeptLayers
from onnxscope.narrowing.narrowed_layers import Of
from onnxscope.narrowing.narrowed_runs import MustRun
from onnxscope.narrowing.quality import Quality
from onnxscope.narrowing.value_ranges import Range, RangeRule
from onnxscope.runtime.tap_outputs import Unreachable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LayerLoss", "SampleCounts", "Sensitivity", "WholeLoss", "picture_form"]

_OF_WORDS = {"weights": "weights", "activations": "activations", "both": "weights and activations"}


@dataclass(frozen=True, eq=False)
class LayerLoss:
    """What is lost where one layer is narrowed.

    Attributes:
        name: The layer's own output value.
        layer: What the source framework called it.
        op_type: Its operator.
        form: The name of the format.
        of: What of it is narrowed.
        own: How far the layer's value is off.
        output: How far the model's outputs are.
        gain: Mean square of the outputs' error over that of the layer's, of a small noise; None where that is nothing.
        measured: Whether the layer was run in the format; else its own error was, and the outputs' follows by the gain.
        must_run: Why noise does not stand for its error, empty where it does.
    """

    name: str
    layer: str
    op_type: str
    form: str
    of: Of
    own: Quality
    output: Quality
    gain: float | None
    measured: bool
    must_run: MustRun

    def to_dict(self) -> dict[str, Any]:
        """The record in `layers` of `onnxscope.sensitivity/1`."""
        return {
            "name": self.name,
            "layer": self.layer,
            "op_type": self.op_type,
            "as": self.form,
            "of": self.of,
            "output_sqnr_db": self.output.sqnr_db,
            "own_sqnr_db": self.own.sqnr_db,
            "gain": self.gain,
            "measured": self.measured,
            "top1_agreement": self.output.top1,
            "kl_nats": self.output.kl_nats,
        }


@dataclass(frozen=True, eq=False)
class WholeLoss:
    """What is lost where all layers are narrowed.

    Attributes:
        form: The name of the format.
        scheme: What shares a scale in a weight, None of a format without scales.
        output: How far the model's outputs are off.
        must_run: In how many layers noise does not stand for the error, so that they had to be run.
    """

    form: str
    scheme: Scheme | None
    output: Quality
    must_run: int

    def to_dict(self) -> dict[str, Any]:
        """The record in `whole` of `onnxscope.sensitivity/1`."""
        return {
            "as": self.form,
            "scheme": self.scheme,
            "output_sqnr_db": self.output.sqnr_db,
            "cosine": self.output.cosine,
            "top1_agreement": self.output.top1,
            "kl_nats": self.output.kl_nats,
            "must_run": self.must_run,
        }


@dataclass(frozen=True)
class SampleCounts:
    """How many samples what was found is from.

    Attributes:
        ranges: Ranges of activations.
        errors: Errors of the whole model.
        rows: Errors of single layers that were run.
        gains: Gains, and with them errors of layers that were not run.
    """

    ranges: int
    errors: int
    rows: int
    gains: int

    def to_dict(self) -> dict[str, int]:
        """Ready for JSON."""
        return {"ranges": self.ranges, "errors": self.errors, "rows": self.rows, "gains": self.gains}


@dataclass(frozen=True, eq=False)
class Sensitivity(Record, Sequence[LayerLoss]):
    """Which layers lose most in narrower formats; a sequence of a row for each layer and format, the worst first.

    Attributes:
        model: The `model` record.
        input: The `input` record.
        of: What was narrowed.
        rule: How ranges of activations were found.
        ranges: Those of all activations that were narrowed, by value.
        samples: How many samples the numbers are from.
        passes: How often the samples that errors are measured on went through the whole model, in all runs together;
            those that look for layers to keep apart.
        whole: All layers at once, a row a format.
        layers: The rows.
        kept: The layers to keep in float, a row a format, where a target is given.
        unreachable: What was chosen and cannot be narrowed.
        notes: Remarks for people.
    """

    model: Mapping[str, Any]
    input: Mapping[str, Any]
    of: Of
    rule: RangeRule
    ranges: Mapping[str, Range]
    samples: SampleCounts
    passes: float
    whole: tuple[WholeLoss, ...]
    layers: tuple[LayerLoss, ...]
    kept: tuple[KeptLayers, ...]
    unreachable: tuple[Unreachable, ...]
    notes: tuple[str, ...]

    frame_keys = ("layers",)

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> LayerLoss: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerLoss, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerLoss | tuple[LayerLoss, ...]:
        return self.layers[index]

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.sensitivity/1`, ready for JSON."""
        broken = [(row, row.output.broken) for row in self.layers if row.output.broken]
        return {
            "schema": "onnxscope.sensitivity/1",
            "model": dict(self.model),
            "input": dict(self.input),
            "of": self.of,
            "samples": self.samples.to_dict(),
            "passes": round(self.passes, 3),
            "whole": [row.to_dict() for row in self.whole],
            "layers": [row.to_dict() for row in self.layers],
            "kept": [row.to_dict() for row in self.kept],
            "quantized": None,
            "restored": [],
            "broken": [{"name": row.name, "as": row.form, "count": count} for row, count in broken],
            "ranges": {
                "rule": self.rule if self.ranges else None,
                "values": [
                    {"name": name, "low": known.low, "high": known.high, "clipped_power": known.clipped_power}
                    for name, known in self.ranges.items()
                ],
            },
            "unreachable": [each.to_dict() for each in self.unreachable],
        }

    def table(self) -> Table:
        """A row for each layer and format, the worst first."""
        rows = tuple(
            (
                row.layer,
                row.op_type,
                row.form,
                *_decibels(row.output),
                *_decibels(row.own),
                _percent(row.output.top1),
                _short(row.output.kl_nats),
                f"run, {row.must_run}" if row.must_run else "run" if row.measured else "predicted",
            )
            for row in self.layers
        )
        columns = ("layer", "operator", "as", "dB", "own dB", "top-1 %", "KL nats", "how")
        return Table("one layer narrowed", columns, rows, ("operator", "KL nats", "how"))

    def whole_table(self) -> Table:
        """A row for each format."""
        rows = tuple(
            (row.form, row.scheme or "", *_decibels(row.output), _percent(row.output.top1), _short(row.output.kl_nats))
            for row in self.whole
        )
        layers = len({row.name for row in self.layers})
        title = f"{printable(self.model['name'])}, {_OF_WORDS[self.of]} of all {counted(layers, 'layer')} narrowed"
        return Table(title, ("as", "a scale for", "dB", "top-1 %", "KL nats"), rows)

    def kept_table(self) -> Table:
        """A row for each format, of the layers that are kept in float."""
        rows = tuple(
            (
                row.form,
                row.target.text,
                len(row.found.layers),
                *_decibels(row.found.output),
                _percent(row.found.output.top1),
                _short(row.found.output.kl_nats),
            )
            for row in self.kept
        )
        columns = ("as", "target", "in float", "dB", "top-1 %", "KL nats")
        return Table("the fewest layers in float, all others narrowed", columns, rows)

    def tables(self) -> list[Table]:
        """All layers at once, one by one, and all but those that are kept in float."""
        return [self.whole_table(), self.table(), *([self.kept_table()] if self.kept else [])]

    def flat_table(self) -> Table:
        """A row for each layer and format."""
        return self.table()

    def plot(self) -> Figure:
        """Draw how good the model becomes with more and more layers in float, as a matplotlib Figure of its own.

        Dots were run, those that were chosen for the target have rings. The broken line keeps layers in the order of
        what each loses alone, and adds up the noise of the others.
        """
        from onnxscope.drawing.figures import curve_figure
        from onnxscope.narrowing.kept_curve import kept_curves, quality_axis

        label, target = quality_axis(self.kept[0].target if self.kept else None)
        title = f"{self.model['name']}, {_OF_WORDS[self.of]} narrowed"
        curves = kept_curves(self.layers, self.whole, self.kept)
        return curve_figure(curves, title, ("layers in float", label), target=target)

    def save_picture(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write what `plot` draws as `.png` or `.svg`, by the ending of its name.

        Args:
            path: The file; the chart of an earlier run is replaced.
            force: Whether a file of another kind may be, too.

        Raises:
            OutputError: It cannot be written, has another ending, or would replace a file of another kind.
        """
        from onnxscope.drawing.figures import figure_bytes

        refuse_foreign([(path, CHART)], force=force)
        form = picture_form(path)
        write_whole(path, figure_bytes(self.plot(), form, made_by="onnxscope"))

    def html_parts(self) -> list[str]:
        """The tables and the remarks."""
        texts = [paragraph(row.text) for row in self.kept]
        return [*(table.html() for table in self.tables()), *texts, *remarks(self.notes)]

    def __repr__(self) -> str:
        return "\n".join([*(table.text() for table in self.tables()), *(row.text for row in self.kept)])


def picture_form(path: str | os.PathLike[str]) -> Literal["png", "svg"]:
    """Return what kind of picture a file is to hold.

    Raises:
        OutputError: Its name ends with neither.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in (".png", ".svg"):
        raise OutputError(f"a picture is .png or .svg: {printable(os.fspath(path))}")
    return "png" if ending == ".png" else "svg"


def _decibels(quality: Quality) -> tuple[Cell]:
    """One cell: a number, or what there is in place of it."""
    if quality.broken:
        return ("not finite",)
    value = quality.sqnr_db
    return (round(value, 1) if value is not None else "no error" if not quality.noise else None,)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 1)


def _short(number: float | None) -> float | None:
    """Two digits, for which there is room."""
    return None if number is None else float(f"{number:.2g}")
