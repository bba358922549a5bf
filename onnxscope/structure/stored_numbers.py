"""Which changes of a node are changes of numbers that it holds, and not of what it does: `changes_numbers`."""

from __future__ import annotations

from functools import cache

from onnx import defs

from onnxscope.structure.compare_records import NodeChange

__all__ = ["changes_numbers"]

_LISTS = (defs.OpSchema.AttrType.INTS, defs.OpSchema.AttrType.FLOATS)
_LEARNED = ("float", "bfloat", "double", "int8", "uint8", "int4", "uint4", "int16", "uint16", "complex")
"""Element types of what was learned, by how they start; longer integers are mostly shapes, axes and counts."""


def changes_numbers(change: NodeChange) -> bool:
    """Whether numbers that a node holds are others in the same place, in a tensor or in a list."""
    old, new = change.expected, change.found
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys()
    if isinstance(old, list) and isinstance(new, list):
        kinds: tuple[type, ...] = (float, int) if change.what in _data_attributes() else (float,)
        return len(old) == len(new) and all(isinstance(number, kinds) for number in (*old, *new))
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    return old.startswith(_LEARNED) and _kind(old) == _kind(new)


@cache
def _data_attributes() -> frozenset[str]:
    """Lists that hold what was learned, or how it is labelled: those of operators of `ai.onnx.ml`."""
    schemas = [schema for schema in defs.get_all_schemas_with_history() if schema.domain == "ai.onnx.ml"]
    stored = [entry for schema in schemas for entry in schema.attributes.items()]
    return frozenset(name for name, attribute in stored if attribute.type in _LISTS)


def _kind(text: str) -> str:
    """Type and shape, in front of the numbers."""
    return text[: text.index("]")] if "]" in text else text.partition(" ")[0]
