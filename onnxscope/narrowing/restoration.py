"""Which layers of a real quantized model cost most: `restoration()`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack, overload

from onnxscope.base import option_types
from onnxscope.base.results import Record, remarks
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import printable
from onnxscope.comparison.common_feed import open_common_feed
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.narrowing.narrowed_layers import find_narrowed_layers
from onnxscope.narrowing.quality import Quality
from onnxscope.narrowing.restored_layers import pair_layers, restore_layers
from onnxscope.narrowing.sample_halves import Batches, on_samples
from onnxscope.runtime.tap_outputs import Unreachable
from onnxscope.selection.feeding_recipes import load_to_run

__all__ = ["Restoration", "RestoredLayer", "restoration"]


@dataclass(frozen=True, eq=False)
class RestoredLayer:
    """What is gained where one layer of a quantized model is put back into float.

    Attributes:
        name: The layer's own output value, in the model in float.
        layer: What the source framework called it.
        op_type: Its operator.
        own: How far the quantized layer is from the one in float, both fed what reaches it in the quantized model.
        output: How far the quantized model's outputs are from the other's, with the layer put back.
        gained_db: By how much that is better, None where there is no error left.
    """

    name: str
    layer: str
    op_type: str
    own: Quality
    output: Quality
    gained_db: float | None

    def to_dict(self) -> dict[str, Any]:
        """The record in `restored` of `onnxscope.sensitivity/1`."""
        return {
            "name": self.name,
            "layer": self.layer,
            "op_type": self.op_type,
            "output_sqnr_db": self.output.sqnr_db,
            "gained_db": self.gained_db,
            "own_sqnr_db": self.own.sqnr_db,
            "top1_agreement": self.output.top1,
            "kl_nats": self.output.kl_nats,
        }


@dataclass(frozen=True, eq=False)
class Restoration(Record, Sequence[RestoredLayer]):
    """What each layer of a quantized model costs; a sequence of its layers, that one first which gains most.

    Attributes:
        model: The `model` record of the one in float.
        quantized: Of the quantized one.
        input: The `input` record.
        samples: How many samples were run.
        passes: How often they went through either model, in all runs together.
        output: How far the quantized model's outputs are from the other's.
        layers: The layers.
        unreachable: Layers that could not be put back.
        notes: Remarks for people.
    """

    model: Mapping[str, Any]
    quantized: Mapping[str, Any]
    input: Mapping[str, Any]
    samples: int
    passes: float
    output: Quality
    layers: tuple[RestoredLayer, ...]
    unreachable: tuple[Unreachable, ...]
    notes: tuple[str, ...]

    frame_keys = ("restored",)

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> RestoredLayer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RestoredLayer, ...]: ...
    def __getitem__(self, index: int | slice) -> RestoredLayer | tuple[RestoredLayer, ...]:
        return self.layers[index]

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.sensitivity/1`, ready for JSON; nothing is simulated, so that the lists of that are empty."""
        return {
            "schema": "onnxscope.sensitivity/1",
            "model": dict(self.model),
            "input": dict(self.input),
            "of": None,
            "samples": {"ranges": 0, "errors": self.samples, "rows": self.samples, "gains": 0},
            "passes": round(self.passes, 3),
            "whole": [],
            "layers": [],
            "kept": [],
            "quantized": {
                "model": dict(self.quantized),
                "output_sqnr_db": self.output.sqnr_db,
                "cosine": self.output.cosine,
                "top1_agreement": self.output.top1,
                "kl_nats": self.output.kl_nats,
            },
            "restored": [row.to_dict() for row in self.layers],
            "broken": [],
            "ranges": {"rule": None, "values": []},
            "unreachable": [each.to_dict() for each in self.unreachable],
        }

    def table(self) -> Table:
        """A row for each layer, the one first that gains most."""
        rows = tuple(
            (
                row.layer,
                row.op_type,
                _rounded(row.gained_db),
                "no error" if row.output.sqnr_db is None else _rounded(row.output.sqnr_db),
                *_scores(row.output),
                _rounded(row.own.sqnr_db),
            )
            for row in self.layers
        )
        found = self.output.sqnr_db
        name = printable(self.quantized["name"])
        title = f"{name}: {'no error' if found is None else f'{found:.1f} dB'}; with one layer back in float"
        return Table(
            title,
            ("layer", "operator", "gained dB", "dB", "top-1 %", "KL nats", "own dB"),
            rows,
            ("operator", "KL nats"),
        )

    def html_parts(self) -> list[str]:
        """The table and the remarks."""
        return [self.table().html(), *remarks(self.notes)]

    def __repr__(self) -> str:
        return self.table().text()


def _rounded(decibels: float | None) -> float | None:
    return None if decibels is None else round(decibels, 1)


def _rounding_db(model: Model) -> int:
    """From how many decibels on outputs are equal but for rounding: some 18 less than what their type resolves."""
    return 295 if any(output.dtype == "float64" for output in model.outputs) else 120


def _scores(quality: Quality) -> tuple[Cell, Cell]:
    kl = quality.kl_nats
    return (
        None if quality.top1 is None else round(100 * quality.top1, 1),
        None if kl is None else float(f"{kl:.2g}"),
    )


@option_types.checked
def restoration(
    model: Any,
    quantized: Any,
    inputs: Any,
    *,
    select: str | Sequence[str] = (),
    batch_size: int = 8,
    limit: int | None = None,
    threads: int = 0,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    **feeding: Unpack[FeedingOptions],
) -> Restoration:
    """Put one layer of a quantized model at a time back into float, and measure what its outputs gain.

    The layer in float is fed what reaches it in the quantized model, before that is rounded, and what it makes of it
    goes on there without being rounded. Layers that work on codes of other operators, as in the form QOperator, cannot
    be put back.

    Args:
        model: The one in float: a path, a `ModelProto` or a `Model`.
        quantized: What a quantizer made of it.
        inputs: What both are fed: see `open_dataset`.
        select: Selectors over the layers of the first; none takes all of them.
        batch_size: Samples of a run, where no model fixes it.
        limit: Only the first so many samples.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads: their code runs.
        dims: Sizes for open dimensions of the models' inputs.
        feeding: How what is given becomes the models' inputs: see `FeedingOptions`.

    Returns:
        Errors as ratios of sums of squares over all numbers, in decibels, and of scores of classes. No layers, and a
        remark, where the second model is equal but for rounding: above 120 dB, or 295 for outputs in float64.

    Raises:
        SelectorError: A selector matches nothing.
        InputError: No layer can be put back, or the inputs do not fit.
        ModelError: A model cannot be read.
        RunError: onnxruntime fails.
    """
    options = RunOptions(**feeding, batch_size=batch_size, limit=limit, threads=threads)
    first, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    second = load_model(quantized, custom_ops=custom_ops).run_as(first.running)
    layers, missed = find_narrowed_layers(first, [select] if isinstance(select, str) else list(select))
    pairs, lost = pair_layers(first, second, layers)
    with contextlib.closing(open_common_feed((first, second), inputs, options)) as feed:
        dataset = on_samples(first, feed.dataset, options)
        every = Batches(dataset, range(dataset.count), options.batch_size)
        found = restore_layers((first, second), pairs, every, feed.of_second, threads=threads)
        notes = tuple(dict.fromkeys((*feed.notes, *dataset.notes)))
    before = found.whole.sqnr_db
    rows = []
    for pair, quality in found.with_layer.items():
        after = quality.sqnr_db
        gained = None if before is None or after is None else after - before
        layer = pair.layer
        rows.append(RestoredLayer(layer.own, layer.layer, layer.node.op_type, found.own[pair], quality, gained))
    rows.sort(key=lambda row: row.output.relative_noise)
    limit = _rounding_db(first)
    if before is None or before > limit:
        rounding = f"and from {limit} on nothing but rounding is left"
        how = "no error at all" if before is None else f"{before:.0f} dB, {rounding}"
        alike = f"{printable(second.name)} is no narrower copy of {printable(first.name)}"
        rows, notes = [], (*notes, f"{alike}: {how}; no layer is ranked")
    unfit = [Unreachable(pair.layer.own, reason) for pair, reason in found.unfit.items()]
    return Restoration(
        model=first.to_dict(),
        quantized=second.to_dict(),
        input=dataset.record,
        samples=dataset.count,
        passes=found.passes,
        output=found.whole,
        layers=tuple(rows),
        unreachable=(*missed, *lost, *unfit),
        notes=notes,
    )
