"""Samples that are texts: lines of files or written out, made into tokens, masks and types, or fed as they are."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.files import open_regular
from onnxscope.base.shapes import spec_text
from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.inputs.arrays import check_shape, element_type
from onnxscope.inputs.samples import Load, Samples, sample_count
from onnxscope.inputs.sources import WrittenText, closest_files, open_input, suffix_of
from onnxscope.readers.texts import Row, Text, index_lines, read_line, read_row
from onnxscope.readers.tokenizer_files import MAX_TOKENIZER_BYTES, Encoded, Tokenizer, read_tokenizer
from onnxscope.selection.token_inputs import TokenPart, token_parts

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["TextSamples"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class _Lines:
    """Where the lines of one file are; of a text that is written out there is one, and no file."""

    source: str | WrittenText
    places: NDArray[np.int64]

    @classmethod
    def of(cls, source: str | WrittenText) -> _Lines:
        if isinstance(source, WrittenText):
            return cls(source, np.zeros((1, 3), np.int64))
        with open_input(source) as stream:
            return cls(source, index_lines(stream, printable(source)))

    def row(self, number: int, inputs: Sequence[str]) -> tuple[Row, str]:
        """What a line holds, and where it is, for messages."""
        if isinstance(self.source, WrittenText):
            return Text(self.source.text), "the text given"
        with open_input(self.source) as stream:
            line = read_line(stream, self.places[number], printable(self.source))
        where = f"line {self.places[number][0]} of {printable(self.source)}"
        return (read_row(line, inputs, where) if suffix_of(self.source) == ".jsonl" else Text(line)), where


@dataclass(frozen=True, eq=False, kw_only=True)
class TextSamples(Samples):
    """Texts, a line each.

    Attributes:
        lines: Of each source, in order.
        parts: What each input of the model holds of a text, by its name; one that only a row can name has none.
        tokenizer: Makes texts into ids, None where the model takes texts themselves, or rows hold the ids.
        beside: Whether it was found beside the model.
        length: How many tokens the model takes, None for any number.
    """

    kind = "text"

    lines: tuple[_Lines, ...]
    parts: Mapping[str, TokenPart]
    tokenizer: Tokenizer | None
    beside: bool
    length: int | None

    @classmethod
    def open(
        cls,
        sources: Sequence[str | WrittenText],
        specs: Sequence[InputSpec],
        tokenizer: str | os.PathLike[str] | None,
        beside: str | None,
    ) -> TextSamples:
        """Find out which input holds what of a text, read the tokenizer, and prepare one sample.

        Args:
            sources: Paths, and texts that are written out.
            specs: The model's inputs.
            tokenizer: The path of a `tokenizer.json` that was asked for.
            beside: That of one that lies beside the model; it is read where none was asked for and one is needed.

        Raises:
            InputError: A file cannot be read, or the model has an input that no text becomes.
        """
        parts = token_parts(specs)
        ids = [spec for spec in specs if parts.get(spec.name) == "ids"]
        length = _fixed_length(ids[0]) if ids else None
        lines = tuple(map(_Lines.of, sources))
        path = (beside if ids else None) if tokenizer is None else os.fspath(tokenizer)
        axes = {spec.name: 0 if spec.shape is None or len(spec.shape) >= _rank(parts, spec) else None for spec in specs}
        batches = {spec.shape[0] for spec in specs if spec.shape and axes[spec.name] == 0}
        fixed = {batch for batch in batches if isinstance(batch, int)}
        if None in axes.values():
            fixed |= {1}
        samples = cls(
            specs=tuple(specs),
            count=sum(len(each.places) for each in lines),
            batch_axes=axes,
            layouts={},
            fixed_batch=max(fixed, default=None),
            lines=lines,
            parts=parts,
            tokenizer=None if path is None else _open_tokenizer(path, length),
            beside=tokenizer is None and path is not None,
            length=length,
        )
        samples.load(0)  # what no text becomes should not wait for the first run
        return samples

    @property
    def files(self) -> list[str]:
        """The files of text, and the tokenizer's."""
        tokenizer = [] if self.tokenizer is None else [self.tokenizer.path]
        return [*(each.source for each in self.lines if isinstance(each.source, str)), *tokenizer]

    @property
    def names(self) -> list[str]:
        """The names of the files of text."""
        return [printable(os.path.basename(each.source)) for each in self.lines if isinstance(each.source, str)]

    @property
    def record(self) -> dict[str, Any]:
        """The tokenizer, and how texts are made as long as each other."""
        return {**super().record, "text": self._text_record()}

    def _text_record(self) -> dict[str, Any]:
        tokenizer = self.tokenizer
        written = hashlib.sha256()
        for each in self.lines:
            if isinstance(each.source, WrittenText):
                written.update(each.source.text.encode("utf-8", errors="surrogatepass") + b"\0")
        return {
            "tokenizer": None if tokenizer is None else tokenizer.name,
            "tokenizer_sha256": None if tokenizer is None else tokenizer.sha256,
            "max_length": self.length if tokenizer is None else tokenizer.max_length,
            "padding": {"id": self._pad_id, "side": self._side} if self._pads else None,
            "written_sha256": written.hexdigest() if len(self.names) < len(self.lines) else None,
        }

    @property
    def notes(self) -> list[str]:
        """Says which tokenizer was taken, and how texts are made as long as each other."""
        if not self._ids:
            return []
        notes = []
        if self.tokenizer is not None:
            found = " beside the model" if self.beside else ""
            notes.append(f"text becomes ids by {self.tokenizer.name}{found}, sha256 {self.tokenizer.sha256[:12]}")
        if self.count > 1 and not self._pads:
            notes.append("the model has no mask: texts go into batches with others of as many tokens")
        return notes

    def name(self, position: int) -> str:
        """The file and the number of the line."""
        lines, place = self._place(position)
        if isinstance(lines.source, WrittenText):
            return super().name(position)
        return f"{printable(os.path.basename(lines.source))} line {lines.places[place][0]}"

    def first(self, count: int) -> TextSamples:
        """The first lines."""
        return replace(self, count=count)

    def fed_to(self, specs: Sequence[InputSpec]) -> TextSamples:
        """The same texts; the tokenizer stays."""
        fixed = {spec.shape[0] for spec in specs if spec.shape and self.batch_axes[spec.name] == 0}
        return replace(
            self, specs=tuple(specs), fixed_batch=max((size for size in fixed if isinstance(size, int)), default=None)
        )

    def load(self, position: int) -> tuple[dict[str, Array], list[str]]:
        """Read one line and make it what the model takes."""
        lines, place = self._place(position)
        row, where = lines.row(place, [spec.name for spec in self.specs])
        if isinstance(row, Text) and not self._ids:
            return self._as_it_is(row, where), []
        arrays, encoded = self._encoded(row, where)
        remarks = [f"cut to {self._longest} tokens"] if encoded is not None and encoded.is_cut else []
        if self.length is not None:
            arrays = self._filled(arrays, self.length)
        return {spec.name: self._fitted(arrays[spec.name], spec, where) for spec in self.specs}, remarks

    def tokens(self, arrays: Mapping[str, Array]) -> tuple[tuple[str, ...], ...]:
        """What the vocabulary calls the ids of each text."""
        if self.tokenizer is None or not self._ids:
            return ()
        rows = arrays[self._ids] if self.batch_axes[self._ids] == 0 else arrays[self._ids][None]
        return tuple(self.tokenizer.names(row) for row in rows[: self.count].tolist())

    def token_names(self, ids: Sequence[int]) -> tuple[str, ...]:
        """As the vocabulary calls them."""
        return () if self.tokenizer is None else self.tokenizer.names(ids)

    def go_together(self, one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
        """Whatever its length, where a mask tells what was filled up."""
        return self._pads or super().go_together(one, other)

    def together(self, samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """One batch, filled up to the longest of them."""
        if self._pads and self.length is None:
            longest = max(sample[self._ids].shape[-1] for sample in samples)
            samples = [self._filled(sample, longest) for sample in samples]
        return super().together(samples)

    def whole(self, load: Load) -> tuple[dict[str, Array], int | None, list[str]]:
        """All texts in one batch; copies of the last one fill up runs of a fixed batch."""
        loaded = [load(position) for position in range(self.count)]
        notes = [f"{self.name(place)}: {remark}" for place, (_, remarks) in enumerate(loaded) for remark in remarks]
        samples = [arrays for arrays, _ in loaded]
        if not all(self.go_together(samples[0], sample) for sample in samples):
            raise InputError(
                f"{self.count} texts of different lengths do not go into one run: the model has no mask",
                hint="give one of them, or use `stats`, which runs texts with others of their length",
            )
        fixed = self.fixed_batch or 1
        if fixed == 1 and None in self.batch_axes.values() and self.count > 1:
            raise InputError(f"{self.count} texts for a model without a batch axis", hint="give one text")
        padded = math.ceil(self.count / fixed) * fixed
        if padded > self.count:
            copies = f"{padded - self.count} of the last text added to fill it, not counted"
            notes.append(f"the model's batch is fixed at {fixed}: {copies}")
        arrays = self.together([*samples, *[samples[-1]] * (padded - self.count)])
        return arrays, self.count if sample_count(arrays, self.batch_axes) is not None else None, [*self.notes, *notes]

    def _place(self, position: int) -> tuple[_Lines, int]:
        for lines in self.lines:
            if position < len(lines.places):
                return lines, position
            position -= len(lines.places)
        raise IndexError(position)

    @property
    def _ids(self) -> str:
        """The input that takes ids, empty where there is none."""
        return next((name for name, part in self.parts.items() if part == "ids"), "")

    @property
    def _pads(self) -> bool:
        """Whether texts are filled up: to a fixed length, or to the batch where a mask can tell."""
        return bool(self._ids) and (self.length is not None or "mask" in self.parts.values())

    @property
    def _pad_id(self) -> int:
        return (self.tokenizer.pad_id if self.tokenizer else None) or 0

    @property
    def _side(self) -> str:
        return self.tokenizer.side if self.tokenizer else "right"

    @property
    def _longest(self) -> int | None:
        return self.length if self.tokenizer is None else self.tokenizer.max_length

    def _as_it_is(self, row: Text, where: str) -> dict[str, Array]:
        """A text for a model that takes strings."""
        made = {}
        for spec in self.specs:
            if self.parts.get(spec.name) != "text":
                raise _unmade([spec], self.specs, where)
            made[spec.name] = self._fitted(np.array([row.text]), spec, where)
        return made

    def _encoded(self, row: Row, where: str) -> tuple[dict[str, Array], Encoded | None]:
        """Every input's array for one line, not filled up."""
        encoded, given = None, {}
        if isinstance(row, Text):
            if self.tokenizer is None:
                raise InputError(
                    f"no tokenizer makes text into {self._ids!r}: {where}",
                    hint="`--tokenizer tokenizer.json` names the model's; one beside the model is found by itself",
                )
            encoded = self.tokenizer.encode(row, where)
            given[self._ids] = np.array(encoded.ids, np.int64)
        else:
            given = {name: _numbers(value, name, where) for name, value in row.items()}
        length = given[self._ids].shape[-1] if self._ids in given else None
        missing = [spec for spec in self.specs if spec.name not in given]
        lacking = [spec for spec in missing if length is None or self.parts.get(spec.name) in (None, "text", "ids")]
        if lacking:
            raise _unmade(lacking, self.specs, where)
        types = np.zeros(length or 0, np.int64) if encoded is None else np.array(encoded.type_ids, np.int64)
        for spec in missing:
            given[spec.name] = _made(self.parts[spec.name], length or 0, types)
        return given, encoded

    def _filled(self, arrays: Mapping[str, Array], length: int) -> dict[str, Array]:
        """A sample that is filled up to a length, in every input that has one number a token."""
        own = arrays[self._ids].shape[-1]
        if own >= length:
            return dict(arrays)
        filled = dict(arrays)
        for name, part in self.parts.items():
            if part in ("ids", "mask", "types", "positions") and arrays[name].shape[-1:] == (own,):
                filled[name] = self._filled_up(arrays[name], part, length - own)
        return filled

    def _filled_up(self, array: Array, part: str, missing: int) -> Array:
        sides = [(0, 0)] * (array.ndim - 1) + [(missing, 0) if self._side == "left" else (0, missing)]
        if part == "positions" and self._side == "right" and array.size:  # they count on, as every table of them does
            last = np.arange(1, missing + 1, dtype=array.dtype) + array[..., -1:]
            return np.concatenate([array, np.broadcast_to(last, (*array.shape[:-1], missing))], axis=-1)
        types = self.tokenizer.pad_type_id if self.tokenizer else 0
        value = {"ids": self._pad_id, "types": types}.get(part, 0)
        return np.pad(array, sides, constant_values=value).astype(array.dtype)

    def _fitted(self, array: Array, spec: InputSpec, where: str) -> Array:
        """One sample of an input's type; its shape is held to the input's, with an axis of samples."""
        has_samples = self.batch_axes[spec.name] == 0
        if spec.shape is not None:
            rank = len(spec.shape) - has_samples
            if array.size == 1 or self.parts.get(spec.name) not in (None, "text"):
                array = array.reshape((1,) * (rank - array.ndim) + array.shape)
            if array.size == 1 and array.ndim > rank:
                array = array.reshape((1,) * rank)
        check_shape((1, *array.shape) if has_samples else array.shape, spec, where, any_count=has_samples)
        return np.array(_as_type(array, element_type(spec), spec, where), order="C")


def _open_tokenizer(path: str, longest: int | None) -> Tokenizer:
    hint = closest_files(path) or "a tokenizer is the `tokenizer.json` that the library `tokenizers` writes"
    with open_regular(path, limit_bytes=MAX_TOKENIZER_BYTES, hint=hint) as stream:
        return read_tokenizer(stream, path, longest)


def _rank(parts: Mapping[str, TokenPart], spec: InputSpec) -> int:
    """From how many axes on an input has one for samples."""
    return 2 if parts.get(spec.name) in ("ids", "mask", "types", "positions") else 1


def _fixed_length(spec: InputSpec) -> int | None:
    length = spec.shape[-1] if spec.shape else None
    return length if isinstance(length, int) else None


def _made(part: str, length: int, types: Array) -> Array:
    """What follows from how many tokens there are."""
    if part == "types":
        return types
    if part == "positions":
        return np.arange(length)
    return np.array(length) if part == "length" else np.ones(length, np.int64)


def _numbers(value: Any, name: str, where: str) -> Array:
    """An array of what a row gives an input."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "iufbU" or not array.size:
        raise InputError(f"no array of numbers or of strings for {name!r}: {where}")
    return array


def _as_type(array: Array, dtype: np.dtype[Any], spec: InputSpec, where: str) -> Array:
    """Numbers as text has them, which say nothing of a type, in the type of an input that holds them."""
    kinds = {"b": "biuf", "i": "iuf", "u": "iuf", "f": "f", "U": "U"}[array.dtype.kind]
    kind = "f" if "float" in dtype.name else dtype.kind
    if kind not in kinds:
        raise InputError(f"input {spec.name!r} takes {spec.dtype}, not {array.dtype.name}: {where}")
    if kind in "iu" and array.size and array.dtype.kind != "b":
        limits = np.iinfo(dtype)
        outside = [number for number in (int(array.min()), int(array.max())) if not limits.min <= number <= limits.max]
        if outside:
            raise InputError(f"input {spec.name!r} takes {spec.dtype}, not {outside[0]}: {where}")
    return array if kind == "U" else array.astype(dtype)


def _unmade(lacking: Sequence[InputSpec], specs: Sequence[InputSpec], where: str) -> InputError:
    """Says which inputs no text becomes."""
    shown = ", ".join(f"{printable(spec.name)} {spec_text(spec)}" for spec in lacking)
    kinds = "its ids, masks, types, positions and lengths come of a text"
    rows = ", ".join(f'"{printable(spec.name)}": [...]' for spec in specs)
    return InputError(
        f"no text becomes {shown[:200]}: {where}",
        hint=f"{kinds}; a line of a .jsonl can hold all inputs as numbers: {{{rows[:150]}}}",
    )
