"""What two models declare of their inputs and outputs: what has changed, and what is only said otherwise.

A shape in a file is a declaration: what a size is called says nothing, and inference fills in what an exporter left
open. The rank and the fixed sizes are the model's, and so is a size of an input that was left open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxscope.gate.check_result import Deviation, shown_value

__all__ = ["compare_signatures"]

_Declared = Sequence[Mapping[str, Any]]


def compare_signatures(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[Deviation], list[str]]:
    """Return what has changed, and remarks on what is only declared otherwise.

    Args:
        old: The `inputs` and `outputs` of a baseline's model.
        new: Those of the model to be judged.
    """
    findings, remarks = [], []
    for key in ("inputs", "outputs"):
        if not _are_alike(old[key], new[key], may_be_open=key == "outputs"):
            message = f"the model's {key} have changed"
            findings.append(Deviation("", key, expected=old[key], found=new[key], tolerance=None, message=message))
            continue
        for x, y in zip(old[key], new[key], strict=True):
            if x["shape"] != y["shape"]:
                shapes = [_shape_text(value["shape"]) for value in (x, y)]
                what = f"the {key[:-1]} {shown_value(x['name'])}"
                remarks.append(f"{what} is declared {shapes[1]}, was declared {shapes[0]}: the same model may say both")
    return findings, remarks


def _are_alike(old: _Declared, new: _Declared, *, may_be_open: bool) -> bool:
    """Whether nothing but names of sizes differs, or where that may be what one side leaves open."""
    return len(old) == len(new) and all(
        {**x, "shape": None} == {**y, "shape": None} and _may_be_one(x["shape"], y["shape"], may_be_open=may_be_open)
        for x, y in zip(old, new, strict=True)
    )


def _may_be_one(x: Sequence[Any] | None, y: Sequence[Any] | None, *, may_be_open: bool) -> bool:
    if x is None or y is None:
        return x == y or may_be_open
    if len(x) != len(y):
        return False
    fixed = ((isinstance(a, int), isinstance(b, int), a == b) for a, b in zip(x, y, strict=True))
    return all(same if a and b else may_be_open or a == b for a, b, same in fixed)


def _shape_text(shape: Sequence[Any] | None) -> str:
    return "of any shape" if shape is None else shown_value(shape, is_shape=True)
