"""What a baseline says of nodes that do not give the same for the same input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxscope.base.json_files import Fields
from onnxscope.base.text import counted
from onnxscope.model.loading import Model
from onnxscope.runtime.unstable_nodes import find_unstable

__all__ = ["notes_on_change", "read_unstable", "unstable_records"]

_LISTED = 5
_KEYS = ("kind", "layer", "message")


def unstable_records(model: Model) -> tuple[dict[str, str], ...]:
    """Return a record for each random or stateful node of a model."""
    return tuple({"kind": node.kind, "layer": node.layer, "message": node.message} for node in find_unstable(model))


def read_unstable(fields: Fields) -> tuple[dict[str, str], ...]:
    """Return the records of a file, none where it says nothing of such nodes."""
    if "unstable" not in fields.values:
        return ()
    return tuple({key: row.text(key) for key in _KEYS} for row in fields.rows("unstable"))


def notes_on_change(before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]]) -> list[str]:
    """Return remarks on what the model has now, and on what is new or gone since the baseline."""
    old, new = ([row["message"] for row in rows] for rows in (before, after))
    notes = [message if message in old else f"not so in the baseline: {message}" for message in new]
    notes += [f"in the baseline alone: {message}" for message in old if message not in new]
    more = len(notes) - _LISTED
    told = f"{counted(more, 'more node is', 'more nodes are')} random or stateful, or were"
    return notes if more <= 0 else [*notes[:_LISTED], told]
