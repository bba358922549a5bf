"""A script that shows a fault of a model, with onnxruntime and numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxscope.shrinking.faults import Fault, FaultKind

__all__ = ["fault_script"]

_SCRIPTS = Path(__file__).with_name("scripts")
_ENDS: Mapping[FaultKind, tuple[str, Mapping[str, str]]] = {
    "crash": ("crash", {"SAID": "onnxruntime crashes"}),
    "hang": ("hang", {"SAID": "onnxruntime does not end within @SECONDS@ s"}),
    "error": ("error", {"SAID": "onnxruntime fails"}),
    "nan": ("not_finite", {"SAID": "onnxruntime gives NaN", "TEST": "isnan", "WHAT": "NaN"}),
    "infinity": (
        "not_finite",
        {"SAID": "onnxruntime gives infinite numbers", "TEST": "isinf", "WHAT": "infinite numbers"},
    ),
    "optimizations": (
        "off",
        {
            "SAID": "onnxruntime gives other numbers with its optimizations than without",
            "EXPECTED": "run(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)",
        },
    ),
    "reference": (
        "off",
        {"SAID": "onnxruntime gives other numbers than onnx's ReferenceEvaluator", "EXPECTED": "@STORED@"},
    ),
}
_STORED = '[data[f"output_{place}"] for place in range(len(answers))]'
_STORED_ANY = "[recorded(place, answer) for place, answer in enumerate(answers)]"
_SKIPPED = "    if not isinstance(known, np.ndarray):\n        continue\n"
_IN_A_PROCESS = ("crash", "hang")


def fault_script(fault: Fault, *, is_plain: bool) -> bytes:
    """Return a script that ends with 1 where the fault is there, and with 0 where it is not.

    Args:
        fault: Which one; none of two models.
        is_plain: Whether all values are arrays of numbers that numpy has, and no library is needed.
    """
    end, words = _ENDS[fault.kind]
    imports = ("subprocess", "sys") if fault.kind in _IN_A_PROCESS else () if is_plain else ("sys",)
    start = (_SCRIPTS / f"fault{'' if is_plain else '_any'}.py.txt").read_text(encoding="utf-8")
    text = start + (_SCRIPTS / f"fault_{end}.py.txt").read_text(encoding="utf-8")
    replaced = {
        "IMPORTS": "".join(f"import {name}\n" for name in imports),
        **words,
        "STORED": _STORED if is_plain else _STORED_ANY,
        "SKIPPED": "" if is_plain else _SKIPPED,
        "SECONDS": fault.detail,
    }
    for name, value in replaced.items():
        text = text.replace(f"@{name}@", value)
    return text.encode()
