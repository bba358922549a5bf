"""What is asked of a run: made once from a function's keywords, checked once, handed on as one record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from onnxscope.base import option_types
from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = [
    "BatchAxis",
    "Feeding",
    "FeedingOptions",
    "Layout",
    "OnError",
    "RecipeUsed",
    "RunOptions",
    "StatePairs",
    "read_batch_axis",
    "read_length",
    "read_state_pairs",
]

Layout = Literal["auto", "nchw", "nhwc"]
OnError = Literal["fail", "skip"]
BatchAxis = int | Literal["none"] | Mapping[str, int | None] | None
"""The axis of samples of every input, or by input name (one that is not named has none); None to find it out."""
StatePairs = Mapping[str, str] | Literal["auto", "none"] | None
"""Inputs by the outputs that feed them in the next step; None to find them where they are given nothing."""

_STATES = "inputs by the outputs that feed them, `auto` or `none`"


class FeedingOptions(TypedDict, total=False):
    """The keywords that say how what is given becomes the model's inputs, and what the model runs on.

    Attributes:
        preprocess: Preset for images or sounds, a recipe's path or JSON, or None for the one recorded in the model.
        layout: Of the model's image input.
        size: Of pictures, where the model leaves height and width open, in place of the preset's: a number,
            `WIDTHxHEIGHT` or `own`.
        batch_axis: Which axis of arrays counts samples, of all inputs or by name (one that is not named has none);
            `none` makes everything one sample. By default axis 0, where a few samples together give what they give
            one at a time.
        samples: How many samples of random input; the limit, or one, by default.
        length: Of sequences of random input, `5..64` for every sample another, or one number.
        state: Which outputs feed which inputs step after step, inputs by output; `auto` finds them, `none` feeds
            everything at once. By default they are found where the inputs of states are given nothing.
        generate: Of a decoder of tokens: how many tokens follow those that are given, each the likeliest one.
        step: Of a model that is stepped: only this step, counted from 0; None for all.
        tokenizer: Path of the `tokenizer.json` that makes text into ids; None for the one beside the model.
        mask: Inputs that say which positions count, by name: masks (`!` before one that says which are left out) and
            lengths; `none` counts every position. By default those that are called so.
        recipe: The file that says all of this where nobody asks; None for the one beside the model or in it, `none` for
            no recipe.
        provider: The execution provider that the model runs on, `NAME[:K=V,…]`: onnxruntime's name of it, a Python
            package that brings a plug-in, or the path of a plug-in's library. No recipe says it.
    """

    preprocess: str | os.PathLike[str] | None
    layout: Layout
    size: str | int | None
    batch_axis: BatchAxis
    samples: int | None
    length: str | int | None
    state: StatePairs
    generate: int | None
    step: int | None
    tokenizer: str | os.PathLike[str] | None
    mask: str | Sequence[str] | None
    recipe: str | os.PathLike[str] | None
    provider: str | os.PathLike[str] | None


@dataclass(frozen=True)
class RecipeUsed:
    """A recipe that has said how a model is fed.

    Attributes:
        place: What it is called: its file's name, or that it is in the model.
        sha256: Of what it says, in hexadecimal.
        options: The sizes and options that it gave.
    """

    place: str
    sha256: str
    options: tuple[str, ...]

    @property
    def note(self) -> str:
        """For people."""
        return (
            f"fed as {self.place} says: {', '.join(map(printable, self.options)) or 'nothing that was not asked for'}"
        )

    @classmethod
    def notes_of(cls, record: Mapping[str, Any] | None) -> list[str]:
        """For people, of the `input` of a result: nothing where no recipe was used, or nothing was run."""
        used = (record or {}).get("recipe")
        return [] if used is None else [cls(used["place"], used["sha256"], tuple(used["options"])).note]

    def to_dict(self) -> dict[str, Any]:
        """What the `input` of results says of it."""
        return {"place": self.place, "sha256": self.sha256, "options": list(self.options)}


@dataclass(frozen=True, kw_only=True)
class Feeding:
    """How what is given becomes the model's inputs: the values of `FeedingOptions`.

    Raises:
        InputError: One of them is not what it may be.
    """

    preprocess: str | os.PathLike[str] | None = None
    layout: Layout = "auto"
    size: str | int | None = None
    batch_axis: BatchAxis = None
    samples: int | None = None
    length: str | int | None = None
    recipe: str | os.PathLike[str] | None = None
    state: StatePairs = None
    generate: int | None = None
    step: int | None = None
    tokenizer: str | os.PathLike[str] | None = None
    mask: str | Sequence[str] | None = None
    provider: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "generate", "step"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, option_types.whole_number(name, getattr(self, name)))
        for name in ("preprocess", "tokenizer", "recipe", "provider"):
            if getattr(self, name) is not None:
                option_types.path(name, getattr(self, name))
        option_types.one_of("layout", self.layout, get_args(Layout))
        if self.size is not None and not isinstance(self.size, str):
            sides = "a whole number, `WIDTHxHEIGHT` or `own`"
            object.__setattr__(self, "size", option_types.whole_number("size", self.size, sides))
        if self.mask is not None:
            option_types.names("mask", self.mask, "the name of an input, or several")
        if isinstance(self.state, Mapping):
            option_types.names("state", [*self.state, *self.state.values()], _STATES)
        elif not isinstance(self.state, str | None):
            raise option_types.wrong_type("state", self.state, _STATES)
        if self.batch_axis is not None and not isinstance(self.batch_axis, str):
            object.__setattr__(self, "batch_axis", _checked_axes(self.batch_axis))
        if self.samples is not None and self.samples < 1:
            raise InputError(f"{self.samples} random samples are none", hint="give at least 1")
        if self.length is not None:
            read_length(self.length)
        if isinstance(self.state, str) and self.state not in ("auto", "none"):
            raise _no_pair(self.state)
        if self.generate is not None and self.generate < 1:
            raise InputError(f"generating {self.generate} tokens is none", hint="give at least 1")
        if self.step is not None and self.step < 0:
            raise InputError(f"there is no step {self.step}", hint="steps count from 0")
        if isinstance(self.batch_axis, str) and self.batch_axis != "none":
            raise _no_axis(self.batch_axis)


@dataclass(frozen=True, kw_only=True)
class RunOptions(Feeding):
    """What is asked of a run: how it is fed, and the following.

    Attributes:
        batch_size: Samples of a run, where the model does not fix it.
        limit: Only the first so many samples; None for all of them.
        on_error: `skip` leaves out samples that cannot be read, `fail` ends at them.
        exact: Count zeros and quantiles from every element, not from a sample of them.
        memory_budget_bytes: What values may take that leave onnxruntime.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        replace: By layer what stands in place of its value: see `onnxscope.patching`.
        recipe_used: The recipe that some of this is from.

    Raises:
        InputError: A batch or a limit of no sample.
    """

    batch_size: int = 8
    limit: int | None = None
    on_error: OnError = "fail"
    exact: bool = False
    memory_budget_bytes: int = 512 << 20
    threads: int = 0
    replace: Mapping[str, Any] | None = None
    recipe_used: RecipeUsed | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "limit", "memory_budget_bytes", "threads"):
            if name != "limit" or self.limit is not None:
                object.__setattr__(self, name, option_types.whole_number(name, getattr(self, name)))
        option_types.one_of("on_error", self.on_error, get_args(OnError))
        if self.batch_size < 1:
            raise InputError(f"a batch of {self.batch_size} samples is none", hint="give at least 1")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"a limit of {self.limit} leaves no sample", hint="give a limit of at least 1")

    def to_dict(self) -> dict[str, Any]:
        """What provenance records: whatever may change a profile and is not said of its input."""
        return {
            "batch_size": self.batch_size,
            "exact": self.exact,
            "memory_budget_bytes": self.memory_budget_bytes,
            "on_error": self.on_error,
        }


def read_length(text: str | int) -> tuple[int, int]:
    """Read a length of sequences, `12`, or the shortest and the longest, `5..64`.

    Raises:
        InputError: It is neither.
    """
    match = re.fullmatch(r"([0-9]{1,9})(?:\.\.([0-9]{1,9}))?", str(text))
    shortest, longest = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= shortest <= longest:
        raise InputError(
            f"no length: {printable(str(text))!r}",
            hint="for example `--length 12`, or `--length 5..64`",
        )
    return shortest, longest


def read_batch_axis(texts: Sequence[str]) -> BatchAxis:
    """Read what `--batch-axis` was given: `AXIS`, `none`, or `INPUT=AXIS` for some inputs.

    Raises:
        InputError: It is none of these, or one axis for all stands beside another.
    """
    if not texts:
        return None
    named = [text.rpartition("=") for text in texts]
    if all(name for name, _, _ in named):
        return {
            name: None if axis == "none" else _axis(axis, text)
            for text, (name, _, axis) in zip(texts, named, strict=True)
        }
    if len(texts) > 1:
        raise _no_axis(" ".join(texts))
    return "none" if texts[0] == "none" else _axis(texts[0], texts[0])


def read_state_pairs(texts: Sequence[str]) -> StatePairs:
    """Read what `--state` was given: `auto`, `none`, or `OUTPUT=INPUT` for each state.

    Raises:
        InputError: It is none of these, or one output or input is named twice.
    """
    given = [pair for text in texts for pair in text.split(",")]
    if not given:
        return None
    if len(given) == 1 and given[0] in ("auto", "none"):
        return "auto" if given[0] == "auto" else "none"
    pairs: dict[str, str] = {}
    for text in given:
        output, _, name = text.partition("=")
        if not output or not name or output in pairs or name in pairs.values():
            raise _no_pair(text)
        pairs[output] = name
    return pairs


def _checked_axes(given: object) -> int | dict[str, int | None]:
    """Axes of samples with Python's own whole numbers."""
    wanted = "an axis, `none`, or an axis by input"
    if not isinstance(given, Mapping):
        return option_types.whole_number("batch_axis", given, wanted)
    option_types.mapping("batch_axis", given, wanted)
    return {
        name: None if axis is None else option_types.whole_number(f"batch_axis of {name!r}", axis)
        for name, axis in given.items()
    }


def _no_pair(given: str) -> InputError:
    return InputError(
        f"no state: {printable(given)!r}",
        hint="`--state OUTPUT=INPUT` for each, `--state auto`, or `--state none`",
    )


def _axis(text: str, given: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _no_axis(given) from None


def _no_axis(given: str) -> InputError:
    return InputError(
        f"no axis of samples: '{printable(given)}'",
        hint="`--batch-axis 0`, `--batch-axis none`, or `--batch-axis INPUT=AXIS` for each",
    )
