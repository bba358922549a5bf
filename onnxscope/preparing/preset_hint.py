"""Which preset an error names where images come without one: the one that the model's running statistics speak for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxscope.base.run_options import RunOptions
from onnxscope.errors import OnnxscopeError
from onnxscope.inputs.presets import Preset
from onnxscope.model.loading import Model
from onnxscope.preparing.find_preparation import find_preparation
from onnxscope.preparing.prepared_result import Preparation, as_option
from onnxscope.preparing.running_statistics import first_running_statistics

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec

__all__ = ["cheap_preparation", "preset_hint"]

_PICTURES = 4
_DEEPEST = 64  # values before the first BatchNormalizations: beyond these it would be no small part of the model


def cheap_preparation(
    model: Model, entries: Sequence[Any], options: RunOptions, *, used: Preset | None
) -> Preparation | None:
    """Return how pictures must be prepared by running statistics, None where that takes long or cannot be tried.

    Args:
        model: Who is fed.
        entries: Paths, or Pillow's images; the first four count.
        options: Layout, size and threads count.
        used: What somebody asked for, or the model records.
    """
    if len(model.inputs) != 1:
        return None
    first = first_running_statistics(model, model.inputs[0].name)
    if not first or len(model.main.behind([entry.node.inputs[0] for entry in first])) > _DEEPEST:
        return None
    try:
        return find_preparation(model, entries[:_PICTURES], options, used=used)
    except OnnxscopeError:  # what is wrong with a picture, or the model, is told where it is used
        return None


def preset_hint(specs: Sequence[InputSpec], entries: Sequence[Any], options: RunOptions, others: str) -> str:
    """Return the next step where nobody has named a preset.

    Args:
        specs: The model's inputs.
        entries: As for `cheap_preparation`.
        options: The same.
        others: The step where the model does not know either.
    """
    model = next((spec.model for spec in specs if spec.model is not None), None)
    found = cheap_preparation(model, entries, options, used=None) if isinstance(model, Model) else None
    if found is None or found.answer is None:
        return others
    return f"`--preprocess {as_option(found.answer)}` by its running statistics ({found.sureness}), else {others}"
