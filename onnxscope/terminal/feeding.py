"""The options that say what a model is fed, and how."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from onnxscope.base.run_options import (
    BatchAxis,
    FeedingOptions,
    StatePairs,
    read_batch_axis,
    read_length,
    read_state_pairs,
)
from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["BadValue", "against_options", "dim_option", "feeding_options", "input_option", "replace_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class BadValue(click.BadParameter):
    """What an option cannot be, with an example of what it can.

    Attributes:
        hint: The next step.
    """

    def __init__(self, message: str, hint: str | None, context: click.Context, parameter: click.Parameter) -> None:
        """Take the fault, the next step, and where it was."""
        super().__init__(message, context, parameter)
        self.hint = hint


def input_option(*, required: bool) -> Callable[[_Command], _Command]:
    """What is fed."""
    return click.option(
        "-i",
        "--input",
        "inputs",
        multiple=True,
        required=required,
        metavar="INPUT",
        help="An image, a file of arrays (.npy, .npz, .safetensors, .pb), a .csv or .parquet, a .wav or .flac, text"
        " (.txt, .jsonl, text:...), a folder or glob of these, NAME=FILE for one input, or random[:seed].",
    )


def feeding_options(command: _Command) -> _Command:
    """How what is given becomes the model's inputs: all of it reaches the command as one argument, `feeding`."""

    @functools.wraps(command)
    def gathered(*arguments: Any, **options: Any) -> Any:
        feeding = {name: options.pop(name) for name in FeedingOptions.__annotations__}
        return command(*arguments, feeding=feeding, **options)

    for option in (
        click.option(
            "--provider",
            metavar="NAME[:K=V,…]",
            callback=_read_provider,
            help="The execution provider that the model runs on: its name, a package or a library that brings it;"
            " `onnxscope doctor` lists them.",
        ),
        click.option(
            "--recipe",
            metavar="FILE",
            help="What says all this where nothing else is asked for; the one beside the model by default, or none.",
        ),
        click.option(
            "--length",
            metavar="N..M",
            callback=_read_length,
            help="Of sequences of random input: one number, or 5..64 for every sample another.",
        ),
        click.option("--samples", type=click.IntRange(1), metavar="N", help="How many samples of random input."),
        click.option(
            "--batch-axis",
            multiple=True,
            metavar="AXIS",
            callback=_read_batch_axis,
            help="The axis of arrays that counts samples, none, or INPUT=AXIS; found out by default.",
        ),
        click.option(
            "--size",
            metavar="SIZE",
            help="Of pictures, where the model leaves height and width open: N, WIDTHxHEIGHT, or own.",
        ),
        click.option(
            "--layout",
            type=click.Choice(["auto", "nchw", "nhwc"]),
            default="auto",
            show_default=True,
            help="Where the model's image input has its channels; auto reads it from the shape.",
        ),
        click.option("--step", type=click.IntRange(0), help="Only this step of a model with states, from 0."),
        click.option("--generate", type=click.IntRange(1), help="Tokens that follow, each the likeliest one."),
        click.option(
            "--state",
            multiple=True,
            metavar="OUTPUT=INPUT",
            callback=_read_state_pairs,
            help="Which output feeds which input in the next step, auto, or none; found by default.",
        ),
        click.option(
            "--preprocess",
            metavar="PRESET",
            help="Images: imagenet, half, unit, caffe, letterbox, none; sounds: whisper, kaldi, speech; or a .json.",
        ),
        click.option(
            "--tokenizer",
            metavar="TOKENIZER.json",
            help="What makes text into ids, a file of the library tokenizers; the one beside the model by default.",
        ),
        click.option(
            "--mask",
            multiple=True,
            metavar="INPUT",
            callback=lambda _context, _option, given: given or None,
            help="An input that says which positions count: a mask (! before one of what does not), lengths, or none;"
            " found by its name by default.",
        ),
    ):
        gathered = option(gathered)
    return cast(_Command, gathered)


def replace_option(command: _Command) -> _Command:
    """What stands in place of the values of layers."""
    return click.option(
        "--replace",
        multiple=True,
        metavar="LAYER=WHAT",
        callback=_read_replacements,
        help="In place of what the layer gives: zero, mean (over the samples), FILE.npy, or another MODEL.onnx's;"
        " repeat it for each.",
    )(command)


def against_options(command: _Command) -> _Command:
    """How the second side of a comparison is run, where that is not how the first is."""
    for option in (
        click.option("--against-threads", type=click.IntRange(1), help="onnxruntime's threads for B, or for A again."),
        click.option(
            "--against-optimization",
            type=click.Choice(["all", "extended", "basic", "none"]),
            help="How much onnxruntime may fuse and fold of B, or of A run again.",
        ),
        click.option(
            "--against-provider",
            metavar="NAME[:K=V,…]",
            callback=_read_provider,
            help="What B runs on, or A again where there is no B; as --provider.",
        ),
    ):
        command = option(command)
    return command


def dim_option(command: _Command) -> _Command:
    """Which size an open dimension has."""
    return click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="NAME=SIZE",
        callback=_read_dims,
        help="The size of an open dimension, by its name or as INPUT:AXIS=SIZE; repeat it for each.",
    )(command)


def _read_dims(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not (size.isascii() and size.isdecimal()):
            raise BadValue(f"not NAME=SIZE: '{printable(text)}'", "for example `--dim batch=1`", context, parameter)
        if dims.get(name, int(size)) != int(size):
            fault = f"two sizes, {dims[name]} and {size}: '{printable(name)}'"
            raise BadValue(fault, "give each dimension one size", context, parameter)
        dims[name] = int(size)
    return dims


def _read_replacements(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    from onnxscope.patching.replacements import read_replacements

    try:
        return read_replacements(given) if given else {}
    except InputError as error:
        raise click.BadParameter(str(error), context, option) from error


def _read_provider(context: click.Context, option: click.Parameter, given: str | None) -> str | None:
    from onnxscope.providers.provider import read_provider

    try:
        _ = given is None or read_provider(given)
    except InputError as error:
        raise BadValue(str(error), error.hint, context, option) from error
    return given


def _read_length(context: click.Context, option: click.Parameter, given: str | None) -> str | None:
    try:
        _ = given is None or read_length(given)
    except InputError as error:
        raise BadValue(str(error), error.hint, context, option) from error
    return given


def _read_state_pairs(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> StatePairs:
    try:
        return read_state_pairs(given)
    except InputError as error:
        raise BadValue(str(error), error.hint, context, option) from error


def _read_batch_axis(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> BatchAxis:
    try:
        return read_batch_axis(given)
    except InputError as error:
        raise BadValue(str(error), error.hint, context, option) from error
