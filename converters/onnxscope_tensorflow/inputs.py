"""A model's inputs: their names, shapes and element types, and how a flat list of tensors is passed to `call`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from onnxscope.converting.factories import one_line
from onnxscope.converting.input_shapes import InputShapes, read_shape, shown_shape
from onnxscope.errors import ConversionError

__all__ = ["Binding", "InputSpec", "bind_inputs", "override_shapes", "takes_training"]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = (*_FLOATS, "bool", *_INTEGERS)
_HINT = "`--input-shape 1,224,224,3`, once for each input"


@dataclass(frozen=True)
class InputSpec:
    """One input of the exported model.

    Attributes:
        name: As Keras calls it, or the argument of `call`.
        shape: None stands for a dynamic dimension.
        dtype: numpy's name.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Binding:
    """A built model, and how to call it.

    Attributes:
        model: Has all its variables.
        inputs: In the order of the exported inputs.
        arrange: From one tensor per input to the positional and keyword arguments of `call`.
    """

    model: Any
    inputs: tuple[InputSpec, ...]
    arrange: Callable[[Sequence[Any]], tuple[list[Any], dict[str, Any]]]


def bind_inputs(model: Any, shapes: InputShapes, *, static: bool, source: str) -> Binding:
    """Find out a model's inputs; a model without any, such as a subclass, is built by calling it on `keras.Input`.

    Args:
        model: Changed where it has no variables yet.
        shapes: As in `ConversionRequest.input_shapes`; a name may end with `:dtype`.
        static: Keep axis 0 as given instead of making it dynamic.
        source: For messages.

    Raises:
        ConversionError: A shape is missing, does not fit or names no input, or the model cannot be called on them.
    """
    symbolic = getattr(model, "inputs", None)
    if not symbolic:
        return _call_on_inputs(model, _wanted(model, shapes, static, source), source)
    own = tuple(InputSpec(_input_name(t), tuple(t.shape), keras.backend.standardize_dtype(t.dtype)) for t in symbolic)
    struct = getattr(getattr(model, "_functional", None) or model, "_inputs_struct", None)

    def arrange(tensors: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        if struct is None:
            return [list(tensors) if len(tensors) > 1 else tensors[0]], {}
        return [keras.tree.pack_sequence_as(struct, list(tensors))], {}

    return Binding(model, override_shapes(own, shapes, static=static, source=source), arrange)


def override_shapes(
    own: tuple[InputSpec, ...], shapes: InputShapes, *, static: bool, source: str
) -> tuple[InputSpec, ...]:
    """Lay the user's shapes over those that a model has: they may only fix what is dynamic.

    Raises:
        ConversionError: A shape names no input, contradicts the model's, or there are too many.
    """
    specs = {spec.name: spec for spec in own}
    free = [spec.name for spec in own if spec.name not in {text.partition(":")[0] for text, _ in shapes}]
    for text, dims in shapes:
        name, dtype = read_shape(text, dims, _DTYPES, source)
        if not name:
            if not free:
                raise ConversionError(
                    f"{len(shapes)} input shapes for {len(own)} inputs: {source}", hint=f"its inputs: {_listed(own)}"
                )
            name = free.pop(0)
        if name not in specs:
            raise ConversionError(f"no input named {name!r}: {source}", hint=f"its inputs: {_listed(own)}")
        known = specs[name]
        if dtype and dtype != known.dtype:
            raise ConversionError(f"the input {name!r} is {known.dtype}, not {dtype}: {source}")
        merged = _merge(known, dims, static)
        if merged is None:
            given, own_shape = shown_shape(dims), shown_shape(known.shape)
            raise ConversionError(
                f"the shape {given} contradicts the model's {own_shape} for {name!r}: {source}",
                hint="a dimension may only be fixed where the model leaves it open",
            )
        specs[name] = InputSpec(name, merged, known.dtype)
    return tuple(specs[spec.name] for spec in own)


def takes_training(model: Any) -> bool:
    """Return whether `model.call` has an argument `training`."""
    return "training" in inspect.signature(model.call).parameters


def _input_name(tensor: Any) -> str:
    history = getattr(tensor, "_keras_history", None)
    return str(history.operation.name if history is not None else tensor.name)


def _merge(known: InputSpec, dims: tuple[int | None, ...], static: bool) -> tuple[int | None, ...] | None:
    if len(dims) != len(known.shape):
        return None
    merged: list[int | None] = []
    for axis, (asked, has) in enumerate(zip(dims, known.shape, strict=True)):
        if axis == 0 and not static:
            merged.append(has)  # the batch: open, unless the model itself fixes it
        elif has is not None and asked not in (None, has):
            return None
        else:
            merged.append(asked if has is None else has)
    return tuple(merged)


def _wanted(model: Any, shapes: InputShapes, static: bool, source: str) -> list[InputSpec]:
    names = _arguments(model)
    if not shapes and getattr(model, "built", False):
        built = list((getattr(model, "_build_shapes_dict", None) or {}).values())
        if built and all(isinstance(shape, (tuple, list)) for shape in built):
            shapes = tuple(("", tuple(shape)) for shape in built)
    if not shapes:
        raise ConversionError(f"the model does not say the shape of its input: {source}", hint=_HINT)
    specs: list[InputSpec] = []
    free = [name for name in names if name not in {text.partition(":")[0] for text, _ in shapes}]
    for index, (text, dims) in enumerate(shapes):
        name, dtype = read_shape(text, dims, _DTYPES, source)
        name = name or (free.pop(0) if free else f"input_{index}")
        if any(spec.name == name for spec in specs):
            raise ConversionError(f"two shapes for the input {name!r}: {source}")
        specs.append(InputSpec(name, dims if static else (None, *dims[1:]), dtype or "float32"))
    return specs


def _call_on_inputs(model: Any, specs: list[InputSpec], source: str) -> Binding:
    arrange = _arrangement(model, specs)
    positional, keywords = arrange(
        [keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=spec.name) for spec in specs]
    )
    try:
        model(*positional, **keywords)
    except Exception as error:
        shown = ", ".join(shown_shape(spec.shape) for spec in specs)
        fault = f"the model cannot be called on {shown} ({one_line(error)})"
        raise ConversionError(f"{fault}: {source}", hint=_HINT) from error
    return Binding(model, tuple(specs), arrange)


def _arrangement(model: Any, specs: list[InputSpec]) -> Callable[[Sequence[Any]], tuple[list[Any], dict[str, Any]]]:
    names = [spec.name for spec in specs]
    arguments = _arguments(model)
    if len(specs) == 1:
        return lambda tensors: ([tensors[0]], {})
    if set(names) <= set(arguments):
        return lambda tensors: ([], dict(zip(names, tensors, strict=True)))
    if any(name.startswith("input_") for name in names):
        return lambda tensors: ([list(tensors)], {})
    return lambda tensors: ([dict(zip(names, tensors, strict=True))], {})


def _arguments(model: Any) -> list[str]:
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(model.call).parameters.values()
    return [p.name for p in parameters if p.kind in named and p.name not in ("self", "training", "mask")]


def _listed(specs: tuple[InputSpec, ...]) -> str:
    return ", ".join(spec.name for spec in specs) or "none"
