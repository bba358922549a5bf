"""Statistics of every parameter of a model: `weights()`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from onnxscope.analyses.left_out import LeftOut, left_out
from onnxscope.base import option_types
from onnxscope.base.name_patterns import select_names
from onnxscope.base.results import Record, within
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import format_number, not_finite_text, printable
from onnxscope.checkpoints.checkpoint import load_weights
from onnxscope.errors import InputError
from onnxscope.model.graphs import Node
from onnxscope.model.loading import CustomOps, Model
from onnxscope.model.parameters import Parameter
from onnxscope.numerics.quantization import QUANTIZED, Quantization, quantized_cells
from onnxscope.numerics.tensor_summary import Summary, describe_all
from onnxscope.runtime.stored_values import read_quantized
from onnxscope.selection.selectors import choose

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WeightRecord", "WeightStatistics", "run_weights", "weights"]

Array = np.ndarray[Any, Any]
_COLUMNS = ("parameter", "shape", "dtype", "mean", "std", "min", "max", "zeros", "folded", "initializer")
_LEAST = ("initializer", "dtype", "folded", *QUANTIZED, "distribution", "zeros")
_MAX_DRAWN_BINS = 2000  # in a notebook
_MAX_TITLE = 200
_BARS = 12  # of a chart in a cell


@dataclass(frozen=True)
class WeightRecord(Record):
    """One parameter and its statistics.

    Attributes:
        parameter: What it is.
        summary: Its statistics, overall and per channel, and its histogram.
        quantization: What its codes tell, None where it is stored as it is.
    """

    parameter: Parameter
    summary: Summary
    quantization: Quantization | None

    def to_dict(self) -> dict[str, Any]:
        """The row of `onnxscope.weights/1`."""
        parameter, summary = self.parameter, self.summary
        return {
            "name": parameter.name,
            "layer": parameter.layer,
            "role": parameter.role,
            "initializer": parameter.initializer,
            "folded": parameter.folded,
            "shape": list(parameter.shape),
            "dtype": parameter.dtype,
            **summary.overall.to_dict(),
            "histogram": summary.histogram.to_dict() if summary.histogram else None,
            "channel_axis": parameter.channel_axis,
            "channels": summary.channels.to_dict() if summary.channels else None,
            "quantization": self.quantization.to_dict() if self.quantization else None,
        }

    def plot(self) -> Figure:
        """Draw the histogram as a matplotlib Figure; it belongs to the caller and to no pyplot state.

        Raises:
            InputError: There is no histogram: no element is finite, or their range is too large for bins.
        """
        from onnxscope.drawing.figures import histogram_figure

        histogram = self.summary.histogram
        if histogram is None:
            raise InputError(f"no histogram of {printable(self.parameter.name)}: no finite range of values")
        return histogram_figure(self.parameter.name, histogram.edges, histogram.counts, caption=self.caption())

    def caption(self) -> str:
        """The statistics in one line."""
        overall = self.summary.overall
        numbers = {key: getattr(overall, key) for key in ("mean", "std", "min", "max")}
        numbers["zeros"] = overall.zero_fraction
        words = [f"{word} {format_number(value)}" for word, value in numbers.items() if value is not None]
        marks = [mark] if (mark := self._mark()) else []
        return "   ".join([f"{overall.count:,} elements", *words, *marks])

    def table(self) -> Table:
        """One row."""
        return _table("", [self])

    def _cells(self) -> tuple[Cell, ...]:
        overall, parameter = self.summary.overall, self.parameter
        numbers = (overall.mean, overall.std, overall.min, overall.max, overall.zero_fraction)
        initializer = "" if parameter.initializer == parameter.name else parameter.initializer
        folded = "yes" if parameter.folded else ""
        return (parameter.name, parameter.shape, parameter.dtype, *numbers, folded, initializer)

    def _mark(self) -> str:
        return not_finite_text(self.summary.overall.nan_count, self.summary.overall.inf_count)

    def __repr__(self) -> str:
        return self.table().text()

    def html_parts(self) -> list[str]:
        """The row, and the histogram where there is one."""
        from onnxscope.drawing.svg_charts import histogram_svg

        histogram = self.summary.histogram
        parts = [self.table().html()]
        if histogram is not None and len(histogram.counts) <= _MAX_DRAWN_BINS:
            parts.append(histogram_svg(self.parameter.name[:_MAX_TITLE], histogram.edges, histogram.counts))
        return parts


@dataclass(frozen=True)
class WeightStatistics(Record, Sequence[WeightRecord]):
    """Statistics of the parameters of one model; a sequence of rows in the framework's order.

    Attributes:
        model: The `model` record.
        rows: One per parameter.
        absent: Name and reason of each parameter that the file does not hold.
        bins: Bins of every histogram.
        left_out: What else the file holds, so that both together are all of its numbers; empty for a selection.
    """

    model: dict[str, Any]
    rows: tuple[WeightRecord, ...]
    absent: tuple[tuple[str, str], ...]
    bins: int
    left_out: tuple[LeftOut, ...] = ()

    frame_keys = ("weights",)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> WeightRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[WeightRecord, ...]: ...
    def __getitem__(self, index: int | slice) -> WeightRecord | tuple[WeightRecord, ...]:
        return self.rows[index]

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.weights/1`, ready for JSON."""
        return {
            "schema": "onnxscope.weights/1",
            "model": self.model,
            "weights": [row.to_dict() for row in self.rows],
            "absent": [{"name": name, "reason": reason} for name, reason in self.absent],
            "left_out": [other.to_dict() for other in self.left_out],
        }

    def table(self) -> Table:
        """One row per parameter."""
        count = sum(row.summary.overall.count for row in self.rows)
        title = f"{self.model['name']}: {len(self.rows)} parameters, {count:,} numbers"
        return _table(title, self.rows)

    def quantized_table(self) -> Table:
        """What there is to say of quantization alone: one row per quantized parameter."""
        rows = [row for row in self.rows if row.quantization is not None]
        count, total = (sum(row.summary.overall.count for row in some) for some in (rows, self.rows))
        title = f"{len(rows)} of {len(self.rows)} parameters are quantized, {count:,} of {total:,} numbers"
        cells = tuple((row.parameter.name, row.parameter.shape, *quantized_cells(row.quantization)) for row in rows)
        return Table(title, ("parameter", "shape", *QUANTIZED), cells)

    def __repr__(self) -> str:
        return self.table().text()

    def html_parts(self) -> tuple[str, ...]:
        """The table, with the histogram of each of the first parameters in its row."""
        from onnxscope.drawing.svg_charts import sparkline_svg

        histograms = (row.summary.histogram for row in self.rows)
        drawn = within(sparkline_svg(histogram.counts) if histogram is not None else "" for histogram in histograms)
        return (self.table().html(pictures=drawn),)


@option_types.checked
def weights(
    model: Any,
    *,
    select: str | Sequence[str] = (),
    bins: int = 50,
    threads: int | None = None,
    custom_ops: CustomOps = (),
) -> WeightStatistics:
    """Compute statistics and a histogram of every parameter.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`; or the path of a `.safetensors` checkpoint, whose weights
            belong to no layer.
        select: Selectors over parameter, layer and initializer names; none chooses everything.
        bins: Bins of each histogram.
        threads: None for one per core; the result does not depend on it.
        custom_ops: Libraries of custom operators that weights are computed by; their code runs.

    Returns:
        Statistics over finite elements as float64 numpy gives them (`std` with ddof 1); memory stays bounded by
        blocks, whatever the size of the weights.

    Raises:
        ModelError: The model cannot be read.
        SelectorError: A selector matches nothing.
        RunError: A quantized weight cannot be dequantized.
    """
    return run_weights(load_weights(model, custom_ops=custom_ops), select=select, bins=bins, threads=threads)


def run_weights(
    model: Model,
    *,
    select: str | Sequence[str] = (),
    bins: int = 50,
    threads: int | None = None,
    seen: Callable[[Parameter, Array], None] | None = None,
) -> WeightStatistics:
    """Compute statistics and a histogram of every parameter; see `weights`.

    Args:
        model: Whose parameters.
        select: As for `weights`.
        bins: As for `weights`.
        threads: As for `weights`.
        seen: Called with each parameter and its values, in order, as they are read; it must not keep the values.

    Raises:
        SelectorError: A selector matches nothing.
        RunError: A quantized weight cannot be dequantized.
    """
    parameters, absent = model.parameters, model.absent
    selectors = [select] if isinstance(select, str) else list(select)
    if selectors:
        candidates = [(parameter.name, parameter.layer, parameter.initializer) for parameter in parameters]
        facets = [_facets(parameter) for parameter in parameters]
        indices = select_names(
            candidates, selectors, where=model.name, facets=facets, otherwise=partial(_of_layers, model)
        )
        parameters = [parameters[index] for index in indices]
        absent = ()
    told: list[Quantization | None] = []
    tensors = (_tensor_and_axis(model, parameter, seen, told) for parameter in parameters)
    summaries = list(describe_all(tensors, bins=bins, threads=threads))
    rows = tuple(map(WeightRecord, parameters, summaries, told))
    others = () if selectors else left_out(model)
    return WeightStatistics(model=model.to_dict(), rows=rows, absent=tuple(absent), bins=bins, left_out=others)


def _of_layers(model: Model, selector: str, excluding: bool) -> set[int]:
    """Indices of the parameters of the layers and nodes that a selector chooses, by whatever they compute.

    A layer is excluded by what it is observed at, not by what is inside it.
    """
    places = choose(model, [selector]).inside
    values: dict[Node, frozenset[str]] = {
        part: frozenset((layer.value,)) if excluding else layer.values for layer in model.layers for part in layer.parts
    }
    nodes = {place: part.operand.node for place, part in enumerate(model.parameters) if part.operand is not None}
    return {
        place
        for place, node in nodes.items()
        if any((node.path, value) in places for value in values.get(node, node.outputs))
    }


def _table(title: str, rows: Sequence[WeightRecord]) -> Table:
    """One row per parameter; what is told of quantization has columns where any is quantized."""
    table = Table(title, _COLUMNS, tuple(row._cells() for row in rows), _LEAST)
    if any(row.quantization is not None for row in rows):
        more = tuple(quantized_cells(row.quantization) for row in rows)
        cells = tuple((*left, *right) for left, right in zip(table.rows, more, strict=True))
        table = Table(title, (*_COLUMNS, *QUANTIZED), cells, _LEAST)
    table = replace(table, charts=tuple(map(_bars, rows)))
    return table.with_marks("not finite", [row._mark() for row in rows])


def _bars(row: WeightRecord) -> Sequence[float]:
    """How many numbers there are in each of a dozen stretches of equal width, from the minimum to the maximum."""
    histogram = row.summary.histogram
    if histogram is None:
        return ()
    edges = [place * len(histogram.counts) // _BARS for place in range(_BARS + 1)]
    stretches = [histogram.counts[start : max(end, start + 1)] for start, end in itertools.pairwise(edges)]
    return [float(np.mean(stretch)) for stretch in stretches]


def _facets(parameter: Parameter) -> dict[str, str]:
    """What selectors with a prefix see of a parameter: its operator, its node, and how many axes it has."""
    facets = {"rank": str(len(parameter.shape))}
    if parameter.operand is not None:
        facets |= {"op": parameter.operand.node.op_type, "node": parameter.operand.node.name}
    return facets


def _tensor_and_axis(
    model: Model,
    parameter: Parameter,
    seen: Callable[[Parameter, Array], None] | None,
    told: list[Quantization | None],
) -> tuple[Array, int | None]:
    values, quantization = read_quantized(model, parameter)
    told.append(quantization)
    if seen is not None:
        seen(parameter, values)
    if parameter.groups > 1 and parameter.channel_axis is not None and values.shape[0] % parameter.groups == 0:
        # (in, out / groups, …): channel c of group g is output channel g * (out / groups) + c.
        inner = values.shape[1]
        values = values.reshape(parameter.groups, -1, inner, int(np.prod(values.shape[2:])))
        return values.transpose(0, 2, 1, 3).reshape(parameter.groups * inner, -1), 0
    return values, parameter.channel_axis
