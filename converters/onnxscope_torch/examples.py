"""Example inputs: which of forward()'s arguments are fed, with what shapes, and which axes stay dynamic."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onnxscope.converting.input_shapes import Dims, InputShapes, read_shape
from onnxscope.errors import ConversionError

__all__ = ["Example", "make_example"]

_BATCH = "batch"
_DTYPES = ("float16", "bfloat16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8")
_IMAGE_SIDE, _OTHER_SIDE = 224, 16  # for a dimension given as dynamic: the usual image, or a short sequence


@dataclass(frozen=True)
class Example:
    """Arguments for one call of forward(), with the names and dynamic axes of the exported inputs.

    Attributes:
        names: Of the exported inputs: the positional ones, then the keywords.
        positional: The values of the first names.
        keywords: The values of the others, which follow an optional argument that is not fed.
        dynamic_axes: For each input, the symbolic name of each dynamic axis.
    """

    names: tuple[str, ...]
    positional: tuple[Tensor, ...]
    keywords: dict[str, Tensor]
    dynamic_axes: dict[str, dict[int, str]]


def make_example(module: nn.Module, shapes: InputShapes, *, static: bool, seed: int, source: str) -> Example:
    """Make the inputs to trace with.

    Args:
        module: Its forward() gives the names.
        shapes: As in `ConversionRequest.input_shapes`; a name may end with `:dtype`.
        static: Keep axis 0 as given.
        seed: Of the random values; integers are zeros, which every embedding has.
        source: For messages.

    Raises:
        ConversionError: A name that forward() does not have, one without a shape, an unknown element type,
            a dimension below 1, or first axes that differ.
    """
    parameters = _parameters(module)
    wanted = _assign(parameters, shapes, source)
    batch = None if static else _batch_size([dims for _, dims, _ in wanted], source)
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Tensor] = {}
    dynamic: dict[str, dict[int, str]] = {}
    for name, dims, dtype in wanted:
        axes = {axis: f"{name}_{axis}" for axis, dim in enumerate(dims) if dim is None}
        sizes = [(_IMAGE_SIDE if len(dims) == 4 else _OTHER_SIDE) if dim is None else dim for dim in dims]
        if batch is not None and dims:
            axes[0] = _BATCH
            sizes[0] = batch
        dynamic[name] = dict(sorted(axes.items()))
        values[name] = _tensor(sizes, dtype, generator)
    first = _leading(parameters, list(values))
    rest = [name for name in values if name not in first]
    return Example(
        names=(*first, *rest),
        positional=tuple(values[name] for name in first),
        keywords={name: values[name] for name in rest},
        dynamic_axes=dynamic,
    )


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    signature = inspect.signature(module.forward)
    return [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]


def _leading(parameters: list[inspect.Parameter], names: list[str]) -> list[str]:
    """Return the names that can be passed by position: up to the first argument that is not fed."""
    first: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            known = {p.name for p in parameters}
            return [*first, *(name for name in names if name not in known)]
        if parameter.kind is parameter.KEYWORD_ONLY or parameter.name not in names:
            break
        first.append(parameter.name)
    return first


def _assign(
    parameters: list[inspect.Parameter], shapes: InputShapes, source: str
) -> list[tuple[str, Dims, torch.dtype]]:
    names = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    several = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    given: dict[str, tuple[Dims, torch.dtype]] = {}
    unnamed = []
    for text, dims in shapes:
        name, dtype = read_shape(text, dims, _DTYPES, source)
        entry = (dims, getattr(torch, dtype or "float32"))
        if not name:
            unnamed.append(entry)
        elif name in given:
            raise ConversionError(f"two shapes for the input {name!r}: {source}")
        elif name in names:
            given[name] = entry
        else:
            listed = ", ".join(names) or "none by name"
            raise ConversionError(f"forward() has no input named {name!r}: {source}", hint=f"its inputs: {listed}")
    free = [name for name in names if name not in given]
    for index, entry in enumerate(unnamed):
        if index < len(free):
            given[free[index]] = entry
        elif several is not None:
            given[f"{several}_{index - len(free)}"] = entry
        else:
            raise ConversionError(
                f"{len(shapes)} input shapes for a forward() of {len(names)}: {source}",
                hint=f"its inputs: {', '.join(names) or 'none'}",
            )
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    absent = [name for name in needed if name not in given]
    if absent or not given:
        name = absent[0] if absent else next(iter([*names, several or "x"]))
        hint = f"`--input-shape {name}=1,3,224,224`" + (f"; forward() takes {', '.join(names)}" if names else "")
        raise ConversionError(f"no shape for the input {name!r}: {source}", hint=hint)
    order = [*names, *(name for name in given if name not in names)]
    return [(name, *given[name]) for name in order if name in given]


def _batch_size(shapes: list[Dims], source: str) -> int:
    given = {dims[0] for dims in shapes if dims and dims[0] not in (None, 1)}
    if len(given) > 1:
        raise ConversionError(
            f"the inputs' first axes differ ({', '.join(map(str, sorted(filter(None, given))))}) "
            f"and cannot all be the batch: {source}",
            hint="`--static` keeps them as given",
        )
    # torch.export takes an axis of length 1 for a constant, so the example has two samples at least.
    return next(filter(None, given), 2)


def _tensor(sizes: list[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(sizes, generator=generator).to(dtype)
    return torch.ones(sizes, dtype=dtype) if dtype is torch.bool else torch.zeros(sizes, dtype=dtype)
