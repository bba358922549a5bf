"""The second model with edits, as a file of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto
from onnx.helper import make_tensor_value_info

from onnxscope.base.files import MODEL, Written, refuse_foreign, refuse_inputs, require_folders, writing_folder
from onnxscope.errors import InputError
from onnxscope.explaining.edits import Edit, applied, stored_node
from onnxscope.extracting.model_files import MOST_INLINE_BYTES, write_model
from onnxscope.model.loading import Model
from onnxscope.model.type_inference import infer_types

__all__ = ["mended_files", "refuse_mended", "save_mended"]

_START = b"onnxscope: weights of a mended model\n"
_WEIGHTS = Written("weights of a mended model", re.compile(re.escape(_START)))


def mended_files(path: Path) -> list[Path]:
    """Return what `save_mended` may write: the model, and its weights beside it."""
    return [path, path.with_name(f"{path.name}.data")]


def refuse_mended(path: Path, *, force: bool) -> None:
    """Refuse a place where something else than a mended model is, or whose folder is missing.

    Raises:
        OutputError: See `refuse_foreign`.
    """
    require_folders(path)
    refuse_foreign(zip(mended_files(path), (MODEL, _WEIGHTS), strict=True), force=force)


def save_mended(
    model: Model | None,
    edits: Sequence[Edit],
    path: Path,
    *,
    force: bool = False,
    most_inline_bytes: int = MOST_INLINE_BYTES,
) -> list[str]:
    """Write a copy of a model with edits, whole or not at all; its weights are read where they lie.

    Local functions stay what they are, unless a node of one is edited: what calls them is then written out.

    Args:
        model: It is not changed.
        edits: Of its nodes.
        path: The new model.
        force: Whether a file of another kind may be replaced.
        most_inline_bytes: More bytes are written beside it.

    Returns:
        The files.

    Raises:
        InputError: There is nothing to mend.
        OutputError: It cannot be written, or would replace a file that is read.
    """
    if model is None or not edits:
        raise InputError(
            "nothing is explained, so there is nothing to mend", hint="`diff --explain` says what it found"
        )
    files = mended_files(path)
    refuse_inputs(files, model.files)
    refuse_mended(path, force=force)
    changed = applied(_editable(model, edits), edits)
    _declare_outputs(model, changed)
    with writing_folder(path.parent) as folder:
        has_weights = write_model(model, changed, folder, path.name, _START, most_inline_bytes)
        if not has_weights:
            folder.remove(lambda: [files[1].name] if files[1].is_file() else [])
    return [str(file) for file in files[: 1 + has_weights]]


def _editable(model: Model, edits: Sequence[Edit]) -> ModelProto:
    """The model as it is stored where all nodes to be edited are there, else without functions."""
    for edit in edits:
        node = stored_node(model.with_functions.graph, edit.node)
        if node is None or node.op_type != edit.node.op_type or node.domain != edit.node.domain:
            return model.proto
    return model.with_functions


def _declare_outputs(model: Model, changed: ModelProto) -> None:
    """Declare the sizes that outputs have with the edits, where inference finds other ones than those declared."""
    undeclared = ModelProto()
    undeclared.CopyFrom(changed)
    for value in undeclared.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = infer_types(model, undeclared).get((), {})
    for value in changed.graph.output:
        found = inferred[value.name].shape if value.name in inferred else None
        declared = value.type.tensor_type
        if found is None or not declared.HasField("shape"):
            continue
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in declared.shape.dim]
        if len(sizes) != len(found) or any(
            isinstance(new, int) and old not in (None, new) for old, new in zip(sizes, found, strict=True)
        ):
            value.CopyFrom(make_tensor_value_info(value.name, declared.elem_type, found))
