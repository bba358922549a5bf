"""Which files a run reads: none of them is written, and what is written elsewhere is looked at before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from onnxscope.base.files import Written, refuse_foreign, refuse_inputs, require_folders
from onnxscope.base.run_options import FeedingOptions
from onnxscope.inputs.presets import recipe_file
from onnxscope.inputs.sources import files_behind, gather
from onnxscope.inputs.teaching import teaching
from onnxscope.providers.provider import read_provider
from onnxscope.readers.tokenizer_files import tokenizer_beside
from onnxscope.selection.feeding_recipes import recipe_path

if TYPE_CHECKING:
    from onnxscope.model.loading import Model

__all__ = ["check_outputs", "files_of", "refuse_read"]

_Path = str | os.PathLike[str]


def files_of(*models: Model, inputs: Any = None, **feeding: Unpack[FeedingOptions]) -> list[_Path]:
    """Return the files that a run reads: of its models and their data, its inputs, recipe, tokenizers, plug-in.

    Args:
        models: Who is fed.
        inputs: As for `open_dataset`; None or nothing feeds none. An iterator would be used up.
        feeding: As in `FeedingOptions`.

    Raises:
        InputError: What `gather` raises.
    """
    files: list[_Path] = [file for model in models for file in model.files]
    files += [path for model in models if (path := recipe_path(model.path)) is not None and path.is_file()]
    if inputs is not None and not (isinstance(inputs, list | tuple) and not inputs):
        with teaching(models[0].inputs if models else ()):
            files += files_behind(gather(inputs)[1])
    given = (recipe_file(feeding.get("preprocess")), feeding.get("tokenizer"), feeding.get("recipe"))
    beside = [tokenizer_beside(model.folder) for model in models]
    provider = feeding.get("provider")
    library = None if provider is None else read_provider(provider).library
    return [*files, *(file for file in (*given, *beside, library) if file)]


def refuse_read(
    outputs: Iterable[_Path | None],
    *models: Model,
    inputs: Any = None,
    read: Iterable[_Path | None] = (),
    updated: _Path | None = None,
    **feeding: Unpack[FeedingOptions],
) -> None:
    """Refuse to write to what a run reads, or twice to one file.

    Args:
        outputs: What will be written, as for `refuse_inputs`.
        models: Who is fed.
        inputs: As for `files_of`.
        read: What is read beside that; None stands for nothing.
        updated: An output that is read, too, as it is only brought up to date.
        feeding: As in `FeedingOptions`.

    Raises:
        InputError: What `files_of` raises.
        OutputError: What `refuse_inputs` raises.
    """
    files = (*files_of(*models, inputs=inputs, **feeding), *read)
    refuse_inputs(outputs, [file for file in files if updated is None or file is None or Path(file) != Path(updated)])


def check_outputs(
    written: Sequence[tuple[_Path | None, Written]],
    *models: Model,
    inputs: Any = None,
    read: Iterable[_Path | None] = (),
    force: bool = False,
    **feeding: Unpack[FeedingOptions],
) -> None:
    """Check before a run that files can be written: no input, no file of another program, in folders that are there.

    Args:
        written: Each with what it is; None stands for nothing.
        models: Who is fed.
        inputs: As for `files_of`.
        read: As for `refuse_read`.
        force: Whether the user has said that other programs' files may be replaced.
        feeding: As in `FeedingOptions`.

    Raises:
        InputError: What `files_of` raises.
        OutputError: An output cannot be written there.
    """
    outputs = [path for path, _ in written]
    refuse_read(outputs, *models, inputs=inputs, read=read, **feeding)
    refuse_foreign(written, force=force)
    require_folders(*outputs)
