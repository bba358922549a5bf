"""Statistics by groups of places along one axis: by what tokens are, or by where they stand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.analyses.counted_positions import CountedAxes
from onnxscope.base.results import Record
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, printable
from onnxscope.datasets.dataset import Dataset
from onnxscope.errors import InputError
from onnxscope.inputs.sources import open_input
from onnxscope.numerics.moments import Moments, Statistics
from onnxscope.numerics.sample_moments import GroupedMoments
from onnxscope.readers.tokenizer_files import MAX_TOKENIZER_BYTES, Tokenizer, read_tokenizer
from onnxscope.runtime.sample_growth import Fold
from onnxscope.selection.padding_masks import PaddingMask
from onnxscope.selection.token_inputs import id_inputs

__all__ = [
    "OTHERS",
    "GroupAxis",
    "GroupedStatistics",
    "Grouping",
    "TapGroups",
    "find_grouping",
    "group_axis",
    "position_keys",
    "tap_groups",
]

Array = NDArray[Any]
By = Literal["token", "position"]

OTHERS = -1
"""The key of all tokens that have no group of their own."""

_EACH = 32  # positions that stand for themselves; behind them
_AN_OCTAVE = 8  # blocks for each doubling, which no length of the data moves: profiles merge whatever was seen
_FREQUENT = 8  # ids that have a group of their own where nobody names any
_READ = 256  # samples that tell which ids are frequent
_COLUMNS = ("layer", "operator", "group", "count", "mean", "std", "min", "max", "zeros")


@dataclass(frozen=True)
class Grouping:
    """Which groups the places along an axis of tokens fall into; decided before the first batch.

    Attributes:
        by: Whether what tokens are decides, or where they stand.
        tokens: Ids with a group of their own and what they are called, ascending.
        others: What all other tokens are called.
        inputs: Those that hold ids, with their axis of samples, None for one without.
    """

    by: By
    tokens: tuple[tuple[int, str], ...] = ()
    others: str = ""
    inputs: tuple[tuple[str, int | None], ...] = ()

    def keys(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.int64]]:
        """Return the groups of all tokens of a run, of shape (samples, places), by the input that holds them."""
        if self.by == "position":
            return {}
        own = np.array([number for number, _ in self.tokens], np.int64)
        keys = {}
        for name, axis in self.inputs:
            ids = feeds[name][None] if axis is None else np.moveaxis(feeds[name], axis, 0)
            keys[name] = np.where(np.isin(ids, own), ids, OTHERS).astype(np.int64)
        return keys

    def samples_fed(self, feeds: Mapping[str, Array], masks: Sequence[PaddingMask]) -> int:
        """How many samples a run has, as far as ids and masks tell."""
        axes = [*self.inputs, *((mask.name, mask.batch_axis) for mask in masks)]
        return next((feeds[name].shape[axis] for name, axis in axes if axis is not None), 1)

    def label(self, key: int) -> str:
        """What a group is called."""
        if self.by == "token":
            return dict(self.tokens).get(key, self.others)
        first, last = position_block(key)
        return str(first) if first == last else f"{first}-{last}"

    def place(self, key: int) -> dict[str, int | None]:
        """Which token or positions a group is, as records have it."""
        if self.by == "token":
            return {"token": None if key == OTHERS else key, "first": None, "last": None}
        first, last = position_block(key)
        return {"token": None, "first": first, "last": last}

    def to_dict(self) -> dict[str, Any]:
        """As a profile keeps it."""
        return {
            "by": self.by,
            "tokens": [list(token) for token in self.tokens],
            "others": self.others,
            "inputs": [list(row) for row in self.inputs],
        }


@dataclass(frozen=True)
class GroupAxis:
    """Where the places that are told apart lie in one value.

    Attributes:
        axis: Of the value, unfolded where it has to be.
        batch_axis: Its axis of samples then, None where it has none.
        fold: How its samples come by an axis of their own, None where they have one.
        source: The input whose ids stand there, None where only their places count.
    """

    axis: int
    batch_axis: int | None
    fold: Fold | None
    source: str | None

    def observe(
        self,
        value: Array,
        keys: Mapping[str, NDArray[np.int64]],
        counted: Mapping[int, NDArray[np.bool_]],
        samples: int,
        fed: int,
    ) -> GroupedMoments | None:
        """Reduce the value of one run, of which what masks leave out does not count.

        Args:
            value: Neither changed nor kept.
            keys: Of all tokens, by input.
            counted: By axis, which of its places count, of shape (samples, places).
            samples: How many samples are real.
            fed: How many the run had.

        Returns:
            None where the run has other places than tokens.
        """
        source = None if self.source is None else keys[self.source]
        if self.fold is not None:
            if value.shape[self.fold.axis] % fed:
                return None
            value = self.fold.unfolded(value, fed)
        if source is not None and source.shape[1:] != (value.shape[self.axis],):
            return None
        if any(value.shape[axis] != rows.shape[1] for axis, rows in counted.items()):
            counted = {}  # as everywhere: it is not known whose positions these are
        grouped = GroupedMoments.empty()
        for sample in range(1 if self.batch_axis is None else min(samples, value.shape[self.batch_axis])):
            part = value if self.batch_axis is None else value.take([sample], self.batch_axis)
            own = None if source is None else source[sample]
            for axis, rows in counted.items():
                part = part.compress(rows[sample], axis)
                own = own.compress(rows[sample]) if own is not None and axis == self.axis else own
            if part.size:
                own = position_keys(part.shape[self.axis]) if own is None else own
                grouped = grouped.merge(GroupedMoments.of(part, self.axis, own))
        return grouped


@dataclass(frozen=True)
class TapGroups:
    """The statistics of one group of one tap.

    Attributes:
        name: The tap's unique name.
        layer: Its layer.
        op_type: The operator of the layer.
        group: What the group is called.
        token: The id that it is of, None for positions and for all tokens without a group of their own.
        first: The first of its positions, counted from 0 over those that count; None for tokens.
        last: The last that it can have, None for tokens.
        statistics: Over all elements of the group.
    """

    name: str
    layer: str
    op_type: str
    group: str
    token: int | None
    first: int | None
    last: int | None
    statistics: Statistics

    def to_dict(self) -> dict[str, Any]:
        """A row of `groups` in `onnxscope.stats/1`."""
        fields = {key: value for key, value in vars(self).items() if key != "statistics"}
        return {**fields, **self.statistics.to_dict()}

    def cells(self) -> tuple[Cell, ...]:
        """A row of the table."""
        found = self.statistics
        numbers = (found.count, found.mean, found.std, found.min, found.max, found.zero_fraction)
        return (self.layer, self.op_type, printable(self.group), *numbers)


class GroupedStatistics(Record):
    """Statistics of every tap by tokens or by positions.

    Attributes:
        by: Which of both.
        rows: For each tap, in execution order, its groups: positions ascending; tokens by their ids, the others first.
        without: Taps without an axis of tokens.
    """

    frame_keys = ("groups",)

    def __init__(self, by: By, rows: Sequence[TapGroups], without: Sequence[str]) -> None:
        self.by = by
        self.rows = tuple(rows)
        self.without = tuple(without)

    def to_dict(self) -> dict[str, Any]:
        """The part of `onnxscope.stats/1` that tells of groups."""
        return {"by": self.by, "groups": [row.to_dict() for row in self.rows], "ungrouped": list(self.without)}

    def table(self) -> Table:
        """One row per group."""
        title = f"by {self.by}: {counted(len(self.rows), 'group')}"
        return Table(title, _COLUMNS, tuple(row.cells() for row in self.rows), ("operator", "count"))


def tap_groups(name: str, layer: str, op_type: str, found: GroupedMoments, grouping: Grouping) -> list[TapGroups]:
    """Return the rows of one tap."""
    rows = []
    for place, key in enumerate(found.keys.tolist()):
        alone = Moments(**{field: values[place : place + 1] for field, values in vars(found.moments).items()})
        rows.append(
            TapGroups(name, layer, op_type, grouping.label(key), **grouping.place(key), statistics=alone.overall)
        )
    return rows


def position_keys(length: int) -> NDArray[np.int64]:
    """Return the first position of each position's block: each of the first 32 alone, then eight blocks a doubling."""
    positions = np.arange(length, dtype=np.int64)
    sizes = np.ones(length, np.int64)
    far = positions >= _EACH
    sizes[far] = (1 << np.frexp(positions[far].astype(np.float64))[1].astype(np.int64) - 1) // _AN_OCTAVE
    return positions - positions % sizes


def position_block(key: int) -> tuple[int, int]:
    """The first and the last position of the block that begins at a position."""
    size = 1 if key < _EACH else (1 << (key.bit_length() - 1)) // _AN_OCTAVE
    return key, key + size - 1


def find_grouping(dataset: Dataset, by: str, tokenizer: str | os.PathLike[str] | None) -> Grouping:
    """Decide which groups there are, from what was asked for, the tokenizer, and the first samples.

    Args:
        dataset: What the model is fed.
        by: `position`, `token`, or `token:` with ids or, where there is a tokenizer, tokens behind it.
        tokenizer: The path of a tokenizer for ids that are given as numbers.

    Raises:
        InputError: It is none of these, or no input holds tokens.
    """
    kind, _, asked = by.partition(":")
    inputs = tuple((name, dataset.batch_axes[name]) for name in id_inputs(dataset.specs, dataset.batch_axes))
    if by == "position":
        return Grouping("position", inputs=inputs)
    if kind != "token":
        raise InputError(
            f"statistics are by token or by position, not by {printable(by)!r}",
            hint="`--by token`, `--by token:ID,ID` for tokens of your choice, or `--by position`"
            if inputs
            else "`--by position`, as no input holds ids of tokens",
        )
    if not inputs:
        shown = ", ".join(f"{printable(spec.name)} {spec.dtype}" for spec in dataset.specs[:3])
        raise InputError(
            f"statistics by token, and no input holds ids of tokens: {shown}",
            hint="`--by position` takes any axis of tokens or of time",
        )
    used = _tokenizer(dataset, tokenizer)
    if asked:
        chosen = _asked(asked, used)
        return Grouping("token", chosen, "other tokens", inputs)
    if used is not None:
        return Grouping("token", used.special_tokens, "ordinary tokens", inputs)
    frequent = _frequent(dataset, [name for name, _ in inputs])
    return Grouping("token", tuple((number, str(number)) for number in frequent), "other tokens", inputs)


def group_axis(found: CountedAxes, names: Sequence[tuple[str, int | None]], batch_axis: int | None) -> GroupAxis | None:
    """Where the tokens of inputs lie in a value: the last axis that has them, which among scores is that of keys."""
    if not found:
        return None
    axis, number = found.axes[-1]
    batch = batch_axis if found.fold is None else found.fold.batch_axis
    return GroupAxis(axis, batch, found.fold, names[number][0] if names else None)


def _tokenizer(dataset: Dataset, path: str | os.PathLike[str] | None) -> Tokenizer | None:
    """The one that made the text ids, or else the one that was named."""
    used = getattr(getattr(dataset.samples, "data", dataset.samples), "tokenizer", None)
    if isinstance(used, Tokenizer) or path is None:
        return used if isinstance(used, Tokenizer) else None
    with open_input(os.fspath(path), limit_bytes=MAX_TOKENIZER_BYTES) as stream:
        return read_tokenizer(stream, os.fspath(path))


def _asked(asked: str, tokenizer: Tokenizer | None) -> tuple[tuple[int, str], ...]:
    """Ids, and tokens of a vocabulary."""
    chosen: dict[int, str] = {}
    for word in asked.split(","):
        number = int(word) if word.isdecimal() else None if tokenizer is None else tokenizer.number(word)
        if number is None or number > np.iinfo(np.int64).max:
            raise InputError(
                f"no token is {printable(word)!r}: --by token:{printable(asked)}",
                hint="ids are whole numbers from 0 on; `--tokenizer tokenizer.json` lets tokens be named",
            )
        chosen[number] = str(number) if tokenizer is None else tokenizer.names([number])[0]
    return tuple(sorted(chosen.items()))


def _frequent(dataset: Dataset, names: Sequence[str]) -> list[int]:
    """The ids that are met most often in the first samples, the smaller one of two that are met as often."""
    met: Counter[int] = Counter()
    for position in range(min(dataset.count, _READ)):
        try:
            sample, _ = dataset.load(position)
        except InputError:  # whoever reads it to run it says so
            continue
        for name in names:
            met.update(dataset.counted(name, sample[name], sample).reshape(-1).tolist())
    ranked = sorted(met, key=lambda number: (-met[number], number))
    return sorted(ranked[:_FREQUENT])
