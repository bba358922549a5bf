"""Run a tapped model: everything in one go, or a lifted value that breaks the run by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxscope.errors import RunError
from onnxscope.graph import TappedModel, Unreachable, expose, was_not_executed
from onnxscope.model import Model
from onnxscope.selectors import Tap
from onnxscope.session import Session
from onnxscope.structure import Step, ValueType

__all__ = ["reason_without_statistics", "run_tapped"]


def run_tapped(
    model: Model,
    taps: Sequence[Tap],
    run: Callable[[Session], dict[str, Any]],
    *,
    infer: Callable[[], Mapping[tuple[Step, ...], Mapping[str, ValueType]]],
    threads: int = 0,
) -> tuple[dict[str, Any], TappedModel]:
    """Expose taps and run; where a value inside a body breaks the run, each of those runs alone.

    Args:
        model: It is not changed.
        taps: What to expose.
        run: Runs a session, once or in pieces, and returns its outputs by name.
        infer: As for `expose`.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        The answers, and the tapped model whose `outputs` say which answer belongs to which tap; a tap that could not
        be computed stands in its `unreachable`.

    Raises:
        RunError: onnxruntime fails for another reason.
    """

    def answer(tapped: TappedModel) -> dict[str, Any]:
        return run(Session(tapped.proto, folder=model.folder, where=model.name, threads=threads))

    tapped = expose(model, taps, infer=infer)
    try:
        return answer(tapped), tapped
    except RunError:
        lifted = [tap for tap in taps if tap.path and tap.name in tapped.outputs]
        if not lifted:
            raise
    plain = expose(model, [tap for tap in taps if not tap.path], infer=infer)
    answers = answer(plain)
    outputs = dict(plain.outputs)
    unreachable = [*plain.unreachable, *(each for each in tapped.unreachable if each not in plain.unreachable)]
    for number, tap in enumerate(lifted):
        alone = expose(model, [tap], infer=infer)
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
