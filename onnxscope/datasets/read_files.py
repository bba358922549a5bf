"""Which files a run reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack

from onnxscope.base.run_options import FeedingOptions
from onnxscope.inputs.presets import recipe_file
from onnxscope.inputs.sources import files_behind, gather
from onnxscope.inputs.teaching import teaching
from onnxscope.providers.provider import read_provider
from onnxscope.readers.tokenizer_files import tokenizer_beside
from onnxscope.selection.feeding_recipes import recipe_path

if TYPE_CHECKING:
    from onnxscope.model.loading import Model

__all__ = ["files_of"]


def files_of(*models: Model, inputs: Any = None, **feeding: Unpack[FeedingOptions]) -> list[str | os.PathLike[str]]:
    """Return the files that a run reads: of its models and their data, its inputs, recipe, tokenizers, plug-in.

    Args:
        models: Who is fed.
        inputs: As for `open_dataset`; None or nothing feeds none. An iterator would be used up.
        feeding: As in `FeedingOptions`.

    Raises:
        InputError: What `gather` raises.
    """
    files: list[str | os.PathLike[str]] = [file for model in models for file in model.files]
    files += [path for model in models if (path := recipe_path(model.path)) is not None and path.is_file()]
    if inputs is not None and not (isinstance(inputs, list | tuple) and not inputs):
        with teaching(models[0].inputs if models else ()):
            files += files_behind(gather(inputs)[1])
    given = (recipe_file(feeding.get("preprocess")), feeding.get("tokenizer"), feeding.get("recipe"))
    beside = [tokenizer_beside(model.folder) for model in models]
    provider = feeding.get("provider")
    library = None if provider is None else read_provider(provider).library
    return [*files, *(file for file in (*given, *beside, library) if file)]
