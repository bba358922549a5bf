"""What a trial does in its own process: it runs a model, and tells how its outputs are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, TypeProto

from onnxscope.errors import RunError
from onnxscope.providers.provider import DEFAULT_RUNNING, Running
from onnxscope.runtime.session import Session

__all__ = ["Compared", "Question", "answer"]

Compared = Literal["nothing", "optimizations", "reference", "halves"]
"""What the outputs are held to: nothing; those without optimizations; those of onnx's ReferenceEvaluator; or the first
half of the outputs, of which the second half are the counterparts."""


@dataclass(frozen=True)
class Question:
    """What a trial is to run.

    Attributes:
        proto: The model, serialized.
        feeds: What it is fed.
        folder: Where weights lie that are outside.
        custom_ops: Libraries of custom operators.
        compared: What its outputs are held to.
        wants: How they are; what they hold, without optimizations where that runs; what they hold with them; what they
            should hold; or their types alone, without a run.
        tolerances: Of the element types, as shares of the largest magnitude.
        running: How onnxruntime runs it.
    """

    proto: bytes
    feeds: Mapping[str, Any]
    folder: Path | None
    custom_ops: tuple[Path, ...]
    compared: Compared
    wants: Literal["verdict", "values", "given", "expected", "types"]
    tolerances: Mapping[str, float]
    running: Running = DEFAULT_RUNNING


@dataclass(frozen=True)
class OutputState:
    """How an output is.

    Attributes:
        has_nan: Whether a number is none.
        has_infinity: Whether one is infinite.
        excess: How many times its tolerance it is off what it is held to; 0 where it is held to nothing.
    """

    has_nan: bool
    has_infinity: bool
    excess: float


def answer(question: Question) -> Any:
    """Run a model as asked.

    Returns:
        By output, as `wants` says: an `OutputState`, a value, or a serialized `TypeProto`.

    Raises:
        RunError: An engine refuses the model, or fails.
    """
    proto = ModelProto.FromString(question.proto)
    names = [value.name for value in proto.graph.output]
    if question.wants == "types":
        return _types(proto)
    if question.wants == "values":
        try:
            return _run(question, proto, optimize=False)
        except RunError:
            return _run(question, proto)
    if question.wants == "given":
        return _run(question, proto)
    if question.wants == "expected":
        return _expected(question, proto, names, {})
    given = _run(question, proto)
    expected = _expected(question, proto, names, given)
    states = {}
    for name in names:
        arrays = [given[name]] if isinstance(given[name], np.ndarray) else given[name] or []
        numbers = [np.asarray(one).astype(np.complex128) for one in arrays if np.asarray(one).dtype.kind not in "OUSMm"]
        excess = _excess(given[name], expected[name], question.tolerances) if name in expected else 0.0
        states[name] = OutputState(
            any(np.isnan(one).any() for one in numbers), any(np.isinf(one).any() for one in numbers), excess
        )
    return states


def _run(question: Question, proto: ModelProto, *, optimize: bool = True) -> dict[str, Any]:
    session = Session(
        proto,
        folder=question.folder,
        where="the part",
        threads=1,
        provider=question.running.provider,
        optimization=question.running.optimization if optimize else "none",
        custom_ops=question.custom_ops,
    )
    return session.run(question.feeds)


def _expected(
    question: Question, proto: ModelProto, names: Sequence[str], given: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What outputs should hold, of those that are held to something."""
    if question.compared == "optimizations":
        return _run(question, proto, optimize=False)
    if question.compared == "halves":
        values = given or _run(question, proto)
        half = len(names) // 2
        return {second: values[first] for first, second in zip(names[:half], names[half:], strict=True)}
    if question.compared == "reference":
        return _evaluated(question, proto, names)
    return {}


def _evaluated(question: Question, proto: ModelProto, names: Sequence[str]) -> dict[str, Any]:
    from onnx.external_data_helper import load_external_data_for_model
    from onnx.reference import ReferenceEvaluator

    if question.folder is not None:
        load_external_data_for_model(proto, os.fspath(question.folder))
    try:
        with np.errstate(all="ignore"):
            values = ReferenceEvaluator(proto).run(list(names), dict(question.feeds))
    except Exception as error:  # whatever an operator of Python raises
        raise RunError(f"onnx's ReferenceEvaluator cannot run it: {type(error).__name__}") from error
    return dict(zip(names, values, strict=True))


def _excess(given: Any, expected: Any, tolerances: Mapping[str, float]) -> float:
    """How many times its tolerance an array is off; infinite where it is of another kind."""
    if not isinstance(given, np.ndarray) or not isinstance(expected, np.ndarray | np.generic):
        return 0.0
    expected = np.asarray(expected)
    if given.shape != expected.shape or given.dtype != expected.dtype:
        return 0.0  # another model than was meant, not a wrong number
    if given.dtype.kind in "OUS":
        return 0.0 if np.array_equal(given, expected) else float("inf")
    tolerance = tolerances.get(expected.dtype.name, 0.0)
    kind = np.complex128 if expected.dtype.kind == "c" else np.float64
    exact, found = expected.astype(kind), given.astype(kind)
    if not np.isfinite(exact).all():
        return 0.0  # nothing to be held to
    if not np.isfinite(found).all():
        return float("inf")
    apart = float(np.max(np.abs(found - exact), initial=0.0))
    scale = float(np.max(np.abs(exact), initial=0.0))
    if not tolerance:
        return float("inf") if apart else 0.0
    return apart / (tolerance * scale) if scale else 0.0


def _types(proto: ModelProto) -> dict[str, bytes]:
    """The types of outputs, as onnx infers them: it may abort."""
    import onnx.shape_inference

    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    known = {value.name: value.type for value in inferred.graph.output}
    return {name: TypeProto.SerializeToString(kind) for name, kind in known.items() if kind.WhichOneof("value")}
