"""How good a model becomes with more and more of its layers in float: what a picture shows of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnxscope.drawing.figures import Curve
from onnxscope.narrowing.kept_layers import KeptLayers, Target
from onnxscope.narrowing.quality import Quality, ratio_db

if TYPE_CHECKING:
    from onnxscope.narrowing.result import LayerLoss, WholeLoss

__all__ = ["kept_curves", "quality_axis"]

_AXES: dict[str, tuple[str, Callable[[Quality], float | None], Callable[[float], float]]] = {
    "dB": ("signal to noise of the outputs in dB", lambda quality: quality.sqnr_db, lambda value: value),
    "top1": (
        "samples whose first class stays, in %",
        lambda quality: None if quality.top1 is None else 100 * quality.top1,
        lambda value: 100 * value,
    ),
    "kl": ("divergence of the probabilities in nats", lambda quality: quality.kl_nats, lambda value: value),
}


def quality_axis(target: Target | None) -> tuple[str, float | None]:
    """Return what a picture measures quality in, and how much of it is asked for."""
    label, _, scaled = _AXES["dB" if target is None else target.kind]
    return label, None if target is None else scaled(target.value)


def kept_curves(
    layers: Sequence[LayerLoss], whole: Sequence[WholeLoss], kept: Sequence[KeptLayers]
) -> tuple[Curve, ...]:
    """Return a curve for each format.

    Args:
        layers: All rows.
        whole: All layers at once.
        kept: Layers to keep, where a target is given.

    Returns:
        The expected part, of decibels alone, is of layers kept in the order of what each loses alone: the noise of the
        others adds up, in proportion to what all of them together make.
    """
    curves = []
    for row in whole:
        found = next((each for each in kept if each.form == row.form), None)
        kind = "dB" if found is None else found.target.kind
        read = _AXES[kind][1]
        sets = {0: row.output}
        if found is not None:
            sets |= {len(step.layers): step.output for step in (*found.steps, found.found)}
        points = {count: read(quality) for count, quality in sets.items()}
        noises = [each.output.relative_noise for each in layers if each.form == row.form]
        curves.append(
            Curve(
                name=row.form,
                expected=_expected(noises, row.output) if kind == "dB" else (),
                measured=tuple((count, value) for count, value in sorted(points.items()) if value is not None),
                chosen=None if found is None else len(found.found.layers),
            )
        )
    return tuple(curves)


def _expected(noises: Sequence[float], whole: Quality) -> tuple[tuple[int, float], ...]:
    """Decibels by the number of layers kept, as far as there is noise left."""
    behind = list(itertools.accumulate(sorted(noises)))[::-1]  # the least noise is left for last
    if not behind or not behind[0] or whole.relative_noise in (0.0, float("inf")) or behind[0] == float("inf"):
        return ()
    scale = whole.relative_noise / behind[0]
    points = [(count, ratio_db(1.0, noise * scale)) for count, noise in enumerate(behind)]
    return tuple((count, value) for count, value in points if value is not None)
