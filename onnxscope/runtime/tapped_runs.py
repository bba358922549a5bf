"""Run a tapped model: everything in one go, or a lifted value that breaks the run by itself; what taps look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxscope.errors import RunError
from onnxscope.model.loading import Model
from onnxscope.runtime.session import Session, open_session
from onnxscope.runtime.tap_outputs import TappedModel, Unreachable, expose, unused_prefix, was_not_executed
from onnxscope.selection.selectors import Tap

__all__ = [
    "TapShapes",
    "is_number",
    "is_tensor",
    "numbered",
    "numpy_name",
    "reason_without_statistics",
    "run_tapped",
    "within_budget",
]

Array = NDArray[Any]
_Item = TypeVar("_Item")
_NUMBERS = frozenset(
    {"float32", "float64", "float16", "bfloat16", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))}
)


def run_tapped(
    model: Model,
    taps: Sequence[Tap],
    run: Callable[[Session], dict[str, Any]],
    *,
    threads: int = 0,
) -> tuple[dict[str, Any], TappedModel]:
    """Expose taps and run; where a value inside a body breaks the run, each of those runs alone.

    Args:
        model: It is not changed.
        taps: What to expose.
        run: Runs a session, once or in pieces, and returns its outputs by name.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        The answers, and the tapped model whose `outputs` say which answer belongs to which tap; a tap that could not
        be computed stands in its `unreachable`.

    Raises:
        RunError: onnxruntime fails for another reason.
    """

    def answer(tapped: TappedModel) -> dict[str, Any]:
        return run(open_session(model, tapped.proto, threads=threads))

    tapped = expose(model, taps)
    try:
        return answer(tapped), tapped
    except RunError:
        lifted = [tap for tap in taps if tap.path and tap.name in tapped.outputs]
        if not lifted:
            raise
    plain = expose(model, [tap for tap in taps if not tap.path])
    answers = answer(plain)
    outputs = dict(plain.outputs)
    unreachable = [*plain.unreachable, *(missed for missed in tapped.unreachable if missed not in plain.unreachable)]
    for number, tap in enumerate(lifted):
        alone = expose(model, [tap])
        output = alone.outputs[tap.name]
        try:
            value = answer(alone)[output]
        except RunError as error:
            changes = "inconsistent shape" in str(error).lower()
            reason = "its shape changes from one iteration to the next" if changes else str(error)
            unreachable.append(Unreachable(tap.name, reason))
            continue
        outputs[tap.name] = f"{output}_{number}"
        answers[outputs[tap.name]] = value
    return answers, TappedModel(plain.proto, outputs, tuple(unreachable), plain.declared)


def reason_without_statistics(tap: Tap, data: Any) -> str | None:
    """Why what a tap held has no statistics, or None where it has."""
    if data is None:
        return "absent in this run"
    if not isinstance(data, np.ndarray):
        return "a sequence, not a tensor"
    if data.dtype.kind in "OUS":
        return "strings have no statistics"
    if data.dtype.kind == "c":
        return "complex numbers have no order, so no statistics"
    if tap.path and was_not_executed(data.shape):
        return f"the {tap.path[-1].attribute} that holds it was not executed on this input"
    if tap.path and not data.size and 0 in data.shape[: len(tap.path)]:
        return "the loop that holds it made no iteration on this input"
    return None


def numpy_name(kind: str) -> str:
    """Return numpy's name of an element type from what onnxruntime calls it; anything but a tensor keeps its name."""
    if not kind.startswith("tensor("):
        return kind
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def is_tensor(dtype: str) -> bool:
    """Whether what `numpy_name` returned is an element type, not the name of a sequence, an optional or a map."""
    return "(" not in dtype


def is_number(dtype: str) -> bool:
    """Whether numpy's arithmetic takes elements of this type."""
    return dtype in _NUMBERS


def numbered(taps: Iterable[Tap]) -> dict[str, Tap]:
    """Taps by names that are short and unique, whatever they are called themselves."""
    return {f"{number}": tap for number, tap in enumerate(taps)}


class TapShapes:
    """Tells the shapes of taps run after run, without their values leaving onnxruntime."""

    def __init__(self, model: Model, taps: Sequence[Tap], threads: int = 0) -> None:
        """Open one session, without optimization, for all taps of the main graph; sequences and the like have no shape.

        Raises:
            RunError: onnxruntime refuses the model.
        """
        self._model = model
        self._threads = threads
        self._lifted = numbered(tap for tap in taps if tap.path)
        plain = [tap for tap in taps if not tap.path]
        try:
            self._open(plain)
        except RunError:
            tensors = self._tensors(plain)
            if len(tensors) == len(plain):
                raise
            self._open(tensors)

    def _open(self, taps: Sequence[Tap]) -> None:
        proto = ModelProto()
        proto.CopyFrom(self._model.proto)
        prefix = unused_prefix(self._model)
        self._outputs = {tap: f"{prefix}shape_{number}" for number, tap in enumerate(taps)}
        for tap, output in reversed(self._outputs.items()):
            proto.graph.node.append(onnx.helper.make_node("Shape", [tap.value], [output]))
            proto.graph.output.append(onnx.helper.make_tensor_value_info(output, TensorProto.INT64, [None]))
        self._session = open_session(self._model, proto, threads=self._threads, optimize=False)

    def _tensors(self, taps: Sequence[Tap]) -> list[Tap]:
        """The taps that hold tensors by what onnxruntime infers, as a model need not declare it."""
        by_name = numbered(taps)
        tapped = expose(self._model, [replace(tap, name=name) for name, tap in by_name.items()])
        kinds = open_session(self._model, tapped.proto, threads=self._threads, optimize=False).outputs
        return [by_name[name] for name, output in tapped.outputs.items() if kinds[output].startswith("tensor(")]

    def of(self, feeds: Mapping[str, Array]) -> dict[Tap, tuple[int, ...]]:
        """Run once and return the shapes of the taps that were reached.

        Raises:
            RunError: onnxruntime fails.
        """
        answers = self._session.run(feeds, self._outputs.values())
        shapes = {tap: tuple(answers[output].tolist()) for tap, output in self._outputs.items()}
        if self._lifted:
            taps = [replace(tap, name=name) for name, tap in self._lifted.items()]
            values, tapped = run_tapped(self._model, taps, lambda session: session.run(feeds), threads=self._threads)
            for name, output in tapped.outputs.items():
                if isinstance(values[output], np.ndarray):
                    shapes[self._lifted[name]] = values[output].shape
        return shapes


def within_budget(items: Iterable[_Item], size_of: Callable[[_Item], int], budget: int) -> list[list[_Item]]:
    """Cut items into groups that fit a budget together, in order; one that does not fit stands alone."""
    groups: list[list[_Item]] = []
    free = 0
    for item in items:
        size = size_of(item)
        if not groups or size > free:
            groups.append([])
            free = budget
        groups[-1].append(item)
        free -= size
    return groups
