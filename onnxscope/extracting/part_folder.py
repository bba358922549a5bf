"""A part of a model as a folder, in the layout of onnx's backend tests, with a script that runs it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxscope.base.files import (
    ARRAYS,
    MODEL,
    Written,
    record_file,
    refuse_foreign,
    refuse_inputs,
    writing_folder,
)
from onnxscope.base.json_files import dump_json, parse_json
from onnxscope.extracting.fault_script import fault_script
from onnxscope.extracting.model_files import MOST_INLINE_BYTES, write_model
from onnxscope.extracting.model_text import model_text
from onnxscope.extracting.recorded_values import TOLERANCES, Recorded
from onnxscope.model.loading import Model
from onnxscope.readers.npy import write_npz
from onnxscope.shrinking.faults import Fault

__all__ = ["files_of_part", "refuse_others", "save_part"]

_DATA_SET = "test_data_set_0"
_WEIGHTS = "model.onnx.data"
_WEIGHTS_START = b"onnxscope: weights of a part of a model\n"
_MAX_RECORD_BYTES = 16 << 20
_SCRIPTS = Path(__file__).with_name("scripts")
_TENSOR_FILE = re.compile(r"(?:input|output)_\d{1,6}\.pb")
_KINDS: Mapping[str, Written] = {
    "model.onnx": MODEL,
    "data.npz": ARRAYS,
    "extract.json": record_file("onnxscope.extract/1"),
    "model.onnxtxt": Written("a model as text", re.compile(rb"<\s+ir_version")),
    "reproduce.py": Written("a script of `onnxscope extract`", re.compile(rb'"""Run this part of a model')),
    _WEIGHTS: Written("weights of `onnxscope extract`", re.compile(re.escape(_WEIGHTS_START))),
}
_TEST_DATA = Written("onnx's test data", re.compile(rb"[\x08\x0a\x10]"))


def files_of_part(folder: str | os.PathLike[str]) -> list[Path]:
    """Return what `save_part` may replace: the folder, its own files, and test data that is there."""
    place = Path(folder)
    there: list[str] = []
    with contextlib.suppress(OSError):
        there = [name for name in os.listdir(place / _DATA_SET) if _TENSOR_FILE.fullmatch(name)]
    return [place, *(place / name for name in _KINDS), *(place / _DATA_SET / name for name in there)]


def refuse_others(folder: Path, data: Iterable[str] = (), *, force: bool) -> None:
    """Refuse a folder in which files of other kinds have the names of a part's files, or of its test data.

    Raises:
        OutputError: See `refuse_foreign`.
    """
    refuse_foreign(((folder / name, kind) for name, kind in _KINDS.items()), force=force)
    refuse_foreign(((folder / name, _TEST_DATA) for name in data), force=force)


def save_part(
    model: Model,
    inputs: Sequence[Recorded],
    outputs: Sequence[Recorded],
    record: Mapping[str, Any],
    folder: Path,
    *,
    force: bool = False,
    most_inline_bytes: int = MOST_INLINE_BYTES,
    fault: Fault | None = None,
) -> list[str]:
    """Write a part; see `Extraction.save`.

    Args:
        model: The part. Of its weights only these are read.
        inputs: What reached it.
        outputs: What left it; none where nothing does.
        record: What is known of it.
        folder: Where; it is made where it is missing.
        force: Whether files of other kinds may be replaced.
        most_inline_bytes: More bytes of weights get a file of their own.
        fault: What the script is to show, None where it is to show what was recorded. With one, a small model is also
            written as text.

    Returns:
        The names of the files, below the folder.

    Raises:
        OutputError: Nothing was written.
    """
    values = {f"input_{place}": value for place, value in enumerate(inputs)}
    values |= {f"output_{place}": value for place, value in enumerate(outputs)}
    data = [f"{_DATA_SET}/{name}.pb" for name in values]
    refuse_inputs(files_of_part(folder), model.files)
    refuse_others(folder, data, force=force)
    names = ["model.onnx"]
    with writing_folder(folder, inside=[_DATA_SET]) as target:
        if write_model(model, model.proto, target, "model.onnx", _WEIGHTS_START, most_inline_bytes):
            names.append(_WEIGHTS)
        declared = (*model.proto.graph.input, *model.proto.graph.output)
        for (name, value), called in zip(values.items(), declared, strict=len(values) > len(inputs)):
            target.write(f"{_DATA_SET}/{name}.pb", _message(value, called.name, called.type))
        arrays = [(key, array) for name, value in values.items() for key, array in _arrays(name, value)]
        write_npz(target.open("data.npz"), arrays)
        is_plain = not model.custom_ops and all(map(_is_plain, values.values()))
        if fault is None or fault.kind == "models":  # these differ in what is recorded
            script = (_SCRIPTS / f"reproduce{'' if is_plain else '_any'}.py.txt").read_bytes()
        else:
            script = fault_script(fault, is_plain=is_plain)
        if fault is not None:
            text = model_text(model.proto)
            if text is not None:
                target.write("model.onnxtxt", text.encode())
                names.append("model.onnxtxt")
        target.write("reproduce.py", script)
        names += [*data, "data.npz", "reproduce.py", "extract.json"]
        target.write("extract.json", dump_json({**record, "files": names}))
        target.remove(lambda: _earlier(folder) - set(names))
    return names


def _message(value: Recorded, name: str, declared: onnx.TypeProto) -> bytes:
    """A value as onnx's test data holds it."""
    helper = onnx.numpy_helper
    if declared.WhichOneof("value") == "optional_type":
        return bytes(helper.from_optional(value, name).SerializeToString(deterministic=True))
    if isinstance(value, list):
        return bytes(helper.from_list(value, name).SerializeToString(deterministic=True))
    return bytes(helper.from_array(_stored(value), name).SerializeToString(deterministic=True))


def _stored(value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array


def _arrays(key: str, value: Recorded) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """A value by the names that the script looks for: an array, elements of a sequence, nothing of what is absent."""
    if value is None:
        return
    if isinstance(value, list):
        yield f"{key}.length", np.array(len(value))
        for place, one in enumerate(value):
            yield from _arrays(f"{key}.{place}", one)
        return
    array = np.asarray(value)
    if key.startswith("output"):
        yield key.replace("output", "tolerance"), np.array(_tolerance(array))
    if array.dtype.kind in "OUS":
        array = array.astype(np.str_)
    elif array.dtype.type.__module__ != "numpy":
        array = array.view(f"u{array.dtype.itemsize}")
    yield key, array


def _tolerance(array: np.ndarray[Any, Any]) -> float:
    share = TOLERANCES.get(array.dtype.name, 0.0)
    if not share:
        return 0.0
    wide = np.abs(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
    return share * float(np.max(wide, where=np.isfinite(wide), initial=0.0))


def _is_plain(value: Recorded) -> bool:
    """Whether it is an array of numbers that numpy has."""
    if value is None or isinstance(value, list):
        return False
    dtype = np.asarray(value).dtype
    return dtype.type.__module__ == "numpy" and dtype.kind in "biufc"


def _earlier(folder: Path) -> set[str]:
    """The files that an earlier part has in the folder; whatever does not look like one of ours is left alone."""
    record = folder / "extract.json"
    try:
        if not record.is_file() or record.stat().st_size > _MAX_RECORD_BYTES:
            return set()
        names: Iterable[Any] = parse_json(record.read_bytes()).get("files", [])
        return {name for name in names if isinstance(name, str) and _is_own(name)}
    except (OSError, ValueError, AttributeError, TypeError):
        return set()


def _is_own(name: str) -> bool:
    start, _, last = name.rpartition("/")
    return name in _KINDS if not start else start == _DATA_SET and _TENSOR_FILE.fullmatch(last) is not None
