"""How a model is fed, in a record that travels with it: `MODEL.recipe.json` beside its file, or in its metadata.

A recipe holds what somebody would otherwise have to say with every command: sizes of open dimensions and the options of
`FeedingOptions`. Whatever a caller asks for goes before it. It is as untrusted as the model: it names no file but a
tokenizer in the model's own folder, and that by its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from onnxscope.base.files import open_regular, record_file, refuse_foreign, write_whole
from onnxscope.base.json_files import Fields, JsonFormat, dump_json
from onnxscope.base.results import Record
from onnxscope.base.run_options import Feeding, FeedingOptions, RecipeUsed, RunOptions
from onnxscope.base.tables import Table
from onnxscope.base.text import printable, shape_text
from onnxscope.errors import InputError, ModelError
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.model.skeleton import contained_path
from onnxscope.providers.provider import read_provider

__all__ = ["KINDS", "METADATA_KEY", "SCHEMA", "FeedingRecipe", "load_to_run", "recipe_path"]

SCHEMA = "onnxscope.recipe/1"
METADATA_KEY = "onnxscope.recipe"
KINDS: Mapping[str, tuple[type, ...]] = {
    "preprocess": (str, dict),
    "layout": (str,),
    "size": (str, int),
    "batch_axis": (str, int, dict),
    "samples": (int,),
    "length": (str, int),
    "tokenizer": (dict,),
    "mask": (str, list),
    "state": (str, dict),
    "generate": (int,),
    "step": (int,),
}
"""What a recipe holds for each option of feeding: of files their content, or their name and digest."""

_MAX_BYTES = 1 << 20
_MAX_TOKENIZER_BYTES = 256 << 20
_LARGEST = 1 << 40
_FORMAT = JsonFormat(
    noun="recipe",
    schema=SCHEMA,
    limit_bytes=_MAX_BYTES,
    error=InputError,
    made_by="`onnxscope recipe MODEL` writes one; `--recipe none` goes without",
    other_schema="another version wrote it; `onnxscope recipe MODEL` writes it again, `--recipe none` goes without",
    damaged="`onnxscope recipe MODEL` writes it again; `--recipe none` goes without",
)


@dataclass(frozen=True)
class FeedingRecipe(Record):
    """How a model is fed.

    Attributes:
        model: The model's file name, for people.
        inputs: Name, element type and shape of each of its inputs.
        dims: Sizes of open dimensions that somebody has given.
        random_dims: Sizes with which it was found to run on random input, for that alone.
        feeding: Options of `FeedingOptions`, ready for JSON: see `KINDS`.
        notes: How they were found; the file does not hold them.
        path: The model's file, None for one from memory.
    """

    model: str
    inputs: tuple[Mapping[str, Any], ...]
    dims: Mapping[str, int] = field(default_factory=dict)
    random_dims: Mapping[str, int] = field(default_factory=dict)
    feeding: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    path: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.recipe/1`, ready for JSON."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "inputs": [dict(row) for row in self.inputs],
            "dims": dict(self.dims),
            "random_dims": dict(self.random_dims),
            "feeding": dict(self.feeding),
        }

    def table(self) -> Table:
        """A row for each input, size and option."""
        rows = [(f"input {row['name']}", f"{row['dtype']} {shape_text(row['shape'] or ())}") for row in self.inputs]
        rows += [(f"size {name}", str(size)) for name, size in self.dims.items()]
        rows += [(f"size {name}", f"{size} for random input") for name, size in self.random_dims.items()]
        rows += [
            (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for name, value in self.feeding.items()
        ]
        return Table("", ("what", "found"), tuple((printable(what), printable(found)) for what, found in rows))

    def save(self, path: str | os.PathLike[str] | None = None, *, force: bool = False) -> Path:
        """Write it, beside the model where no other place is named; returns where.

        Raises:
            OutputError: It cannot be written, or something else is in the way.
            InputError: No place is named, and the model is from memory.
        """
        target = recipe_path(self.path) if path is None else Path(path)
        if target is None:
            raise InputError("a model from memory has no file beside which a recipe could lie", hint="name a file")
        refuse_foreign([(target, record_file(SCHEMA))], force=force)
        write_whole(target, dump_json(self.to_dict()))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeedingRecipe:
        """Read one.

        Raises:
            InputError: It is missing, or is no recipe.
        """
        return cls._read(_FORMAT.read(path))

    @classmethod
    def parse(cls, text: str, where: str) -> FeedingRecipe:
        """Read one that a model holds.

        Raises:
            InputError: It is no recipe.
        """
        if len(text) > _MAX_BYTES:
            raise InputError(f"a recipe of {len(text):,} characters is too long: {where}", hint=_FORMAT.damaged)
        return cls._read(_FORMAT.parse(text, where))

    @classmethod
    def _read(cls, fields: Fields) -> FeedingRecipe:
        with fields.checking():
            rows = fields.rows("inputs")
            for row in rows:
                row.expect({"name": (str,), "dtype": (str,), "shape": (list, type(None))})
            feeding = fields.mapping("feeding")
            known = FeedingOptions.__annotations__.keys() & KINDS.keys()
            for name, value in feeding.items():
                if name not in known:
                    fields.fault(f"the unknown option {printable(name)[:60]!r}")
                if not isinstance(value, KINDS[name]) or isinstance(value, bool) or not _is_plain(value):
                    fields.fault(f"a wrong {name!r}")
            dims = [fields.counts(key) for key in ("dims", "random_dims")]
            for sizes in dims:
                if any(not 1 <= size <= _LARGEST for size in sizes.values()):
                    fields.fault("a wrong size of a dimension")
            return cls(fields.text("model"), tuple(row.values for row in rows), dims[0], dims[1], feeding)


def recipe_path(model: Path | None) -> Path | None:
    """Return where the recipe of a model's file is: `NAME.recipe.json` beside `NAME.onnx`."""
    return None if model is None else model.with_name(f"{model.stem}.recipe.json")


def load_to_run(
    source: Any,
    options: RunOptions,
    inputs: Any,
    *,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
) -> tuple[Model, RunOptions]:
    """Load a model to be run, and let its recipe say what nobody has asked for.

    Args:
        source: As for `load_model`.
        options: What is asked of the run, the place of the recipe included.
        inputs: What the model is fed; for nothing no recipe is read.
        custom_ops: As for `load_model`.
        dims: As for `load_model`.

    Returns:
        The model with all sizes and the provider that it is run on, and the options with what its recipe says.

    Raises:
        InputError: There is no such provider; the recipe is none, of a model with other inputs, or names a file that is
            not its own; or what `load_model` raises.
        ModelError: What `load_model` raises.
    """
    model = load_model(source, custom_ops=custom_ops, dims=dims)
    if options.provider is not None:
        model = model.run_as(replace(model.running, provider=read_provider(options.provider)))
    if inputs is None or options.recipe_used is not None:
        return model, options
    try:
        return _as_recipe_says(model, options, inputs)
    except InputError as error:
        if "the model takes" not in (error.hint or ""):
            error.hint = model.taught(error.hint or _FORMAT.damaged)
        raise


def _as_recipe_says(model: Model, options: RunOptions, inputs: Any) -> tuple[Model, RunOptions]:
    """The model with all sizes, and the options, where its recipe says what nobody has asked for."""
    found = _recipe_of(model, options.recipe)
    if found is None:
        return model, options
    recipe, place, content = found
    names = [spec.name for spec in model.declared_inputs]
    if sorted(row["name"] for row in recipe.inputs) != sorted(names):
        raise InputError(
            f"the recipe is of a model with other inputs ({printable(recipe.model)[:60]}): {place}",
            hint=_FORMAT.damaged,
        )
    sizes = {**(recipe.random_dims if _is_random(inputs) else {}), **recipe.dims}
    told = [f"{name}={size}" for name, size in sizes.items() if name not in model.dims]
    taken: dict[str, Any] = {}
    for name, value in recipe.feeding.items():
        if getattr(options, name) == getattr(Feeding, name):
            taken[name] = _as_option(name, value, model, place)
            told.append(name)
    used = RecipeUsed(place, hashlib.sha256(content).hexdigest(), tuple(told))
    try:
        model = load_model(model, dims={name: size for name, size in sizes.items() if name not in model.dims})
        return model, replace(options, **taken, recipe_used=used)
    except InputError as error:
        raise InputError(f"{error}: {place}", hint=_FORMAT.damaged) from error


def _recipe_of(
    model: Model, asked: str | os.PathLike[str] | Literal["none"] | None
) -> tuple[FeedingRecipe, str, bytes] | None:
    """A model's recipe, what messages call it, and its bytes; None where there is none, or none is wanted."""
    if asked == "none":
        return None
    beside = recipe_path(model.path)
    path = Path(asked) if asked is not None else beside if beside is not None and beside.is_file() else None
    if path is not None:
        recipe = FeedingRecipe.load(path)
        place = printable(str(path) if asked is not None else path.name)
        return recipe, place, dump_json(recipe.to_dict()).encode()
    text = model.metadata.get(METADATA_KEY)
    if text is None:
        return None
    place = f"the recipe in {model.name}"
    recipe = FeedingRecipe.parse(text, place)
    return recipe, place, dump_json(recipe.to_dict()).encode()


def _as_option(name: str, value: Any, model: Model, place: str) -> Any:
    """What a recipe says as the option that it stands for: never the path of a file elsewhere."""
    if name == "preprocess":
        if isinstance(value, dict):
            return json.dumps(value)
        if not value.replace("-", "").replace("_", "").isalnum() or os.path.lexists(value):
            raise InputError(f"{printable(value)[:60]!r} is no name of a preset: {place}", hint=_FORMAT.damaged)
        return value
    return _tokenizer(value, model, place) if name == "tokenizer" else value


def _tokenizer(value: Mapping[str, Any], model: Model, place: str) -> str:
    """The path of a tokenizer in the model's folder, whose digest is the recipe's."""
    file, digest = value.get("file"), value.get("sha256")
    folder = None if model.path is None else model.path.parent
    if not isinstance(file, str) or not isinstance(digest, str) or folder is None:
        raise InputError(f"no file and no digest of a tokenizer: {place}", hint=_FORMAT.damaged)
    try:
        path = contained_path(folder, file, owner=place)
    except ModelError as error:
        fault = str(error).replace("external data", "a tokenizer", 1)
        raise InputError(fault, hint="a tokenizer lies in the model's folder; `--tokenizer` names another") from error
    with open_regular(str(path), limit_bytes=_MAX_TOKENIZER_BYTES) as stream:
        if hashlib.sha256(stream.read(_MAX_TOKENIZER_BYTES)).hexdigest() != digest:
            raise InputError(
                f"the tokenizer {printable(file)!r} is not the one that was recorded: {place}",
                hint="`onnxscope recipe MODEL` records it anew; `--tokenizer` names another",
            )
    return str(path)


def _is_plain(value: Any) -> bool:
    """Whether a value holds texts and numbers, and lists and objects of these; a recipe of steps is checked later."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    if isinstance(value, list):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, str | int | float)


def _is_random(inputs: Any) -> bool:
    given = inputs[0] if isinstance(inputs, list | tuple) and len(inputs) == 1 else inputs
    return isinstance(given, str) and given.partition(":")[0] == "random"
