"""Load a checkpoint into a built model: everything is compared first, so that nothing is loaded in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
from keras.src.saving import saving_lib

from onnxscope.converting.checkpoints import Shapes, check_fit, find_checkpoint, read_safetensors
from onnxscope.converting.factories import one_line
from onnxscope.errors import ConversionError
from onnxscope_tensorflow.configs import check_links

__all__ = ["load_checkpoint"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HOW_TO_SAVE = "`model.save_weights('model.weights.h5')` writes one"
_RANDOM_STATE = "seed_generator_state"
# What a compiled model's file holds beside the model's own variables.
_TRAINING = ("optimizer/", "_loss_tracker/", "_metrics/", "_compile_metrics/", "metrics/", "seed_generator/")


def load_checkpoint(model: Any, path: str) -> list[str]:
    """Load `.weights.h5`, legacy `.h5` or `.safetensors` (keys are the variables' paths) into `model`.

    Args:
        model: Has all its variables; unchanged when this raises.
        path: The kind is told by the content, safetensors by its name.

    Returns:
        Notes for the user.

    Raises:
        ConversionError: The file is no checkpoint, or does not fit: names the first missing, unexpected and wrongly
            shaped parameter.
    """
    file = find_checkpoint(path)
    if file.suffix == ".safetensors":
        return _load_safetensors(model, path)
    with file.open("rb") as stream:
        start = stream.read(len(_HDF5))
    if start != _HDF5:
        raise ConversionError(f"not a checkpoint of Keras: {path}", hint=_HOW_TO_SAVE)
    try:
        with h5py.File(path, "r") as content:
            check_links(content, file)
            group = content.get("model_weights", content)
            if any(name.startswith("layer_names") for name in group.attrs):
                return _load_legacy(model, group, path)
            _check_keras(model, content, path)
    except OSError as error:
        raise ConversionError(f"cannot read the checkpoint ({one_line(error)}): {path}") from error
    try:
        saving_lib.load_weights_only(model, path)
    except Exception as error:
        raise ConversionError(f"Keras cannot load the checkpoint ({one_line(error)}): {path}") from error
    return []


def _load_safetensors(model: Any, path: str) -> list[str]:
    state = read_safetensors(path, "numpy", extra="tensorflow")
    variables: dict[str, Any] = {}
    for variable in model.variables:
        if variables.setdefault(variable.path, variable) is not variable:
            raise ConversionError(f"two variables are called {variable.path!r}, which safetensors cannot tell: {path}")
    own = {name: tuple(variable.shape) for name, variable in variables.items()}
    _check_weights(own, {name: tuple(value.shape) for name, value in state.items()}, path)
    for name, value in state.items():
        variables[name].assign(value)
    return []


class _Inventory(saving_lib.H5IOStore):  # type: ignore[misc]  # keras has no type information
    """Stands in for the file when a model is saved, and notes what would be written where."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self._path = ""

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: Any = None) -> _Inventory:
        self._path = path
        return self

    def __setitem__(self, key: str, value: Any) -> None:
        self.entries["/".join(part for part in (self._path, "vars", key) if part)] = value


def _check_keras(model: Any, content: Any, path: str) -> None:
    """Compare the file of `save_weights` with what this model would write, under the variables' own names."""
    inventory = _Inventory()
    saving_lib._save_state(model, weights_store=inventory, assets_store=None, inner_path="", visited_saveables=set())
    names = {place: getattr(value, "path", place) for place, value in inventory.entries.items()}
    own = {names[place]: tuple(value.shape) for place, value in inventory.entries.items()}
    stored: dict[str, tuple[int, ...]] = {}

    def visit(place: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and (place in names or not place.startswith(_TRAINING)):
            stored[names.get(place, place)] = tuple(item.shape)

    content.visititems(visit)
    if not stored:
        raise ConversionError(f"the checkpoint holds no weights: {path}", hint=_HOW_TO_SAVE)
    _check_weights(own, stored, path)


def _load_legacy(model: Any, group: Any, path: str) -> list[str]:
    """Load a file with `layer_names` and `weight_names`: matched by name where all agree, else by order."""
    stored = {name: _names(group[name], "weight_names") for name in _names(group, "layer_names") if name in group}
    stored = {name: weights for name, weights in stored.items() if weights}
    layers = {layer.name: _legacy_order(layer) for layer in model.layers if _legacy_order(layer)}
    by_name = set(stored) == set(layers)
    pairs: list[tuple[Any, Any]] = []
    own: dict[str, tuple[int, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    places = list(layers.items())
    for index, (name, weights) in enumerate(stored.items()):
        variables = layers[name] if by_name else places[index][1] if index < len(places) else []
        for number, weight in enumerate(weights):
            dataset = group[name][weight]
            if number < len(variables):
                shapes[variables[number].path] = tuple(dataset.shape)
                pairs.append((variables[number], dataset))
            else:
                shapes[weight.removesuffix(":0")] = tuple(dataset.shape)
    for variables in layers.values():
        own.update((variable.path, tuple(variable.shape)) for variable in variables)
    if "top_level_model_weights" in group:
        top = _names(group["top_level_model_weights"], "weight_names")
        inside = {id(variable) for variables in layers.values() for variable in variables}
        free = [variable for variable in _legacy_order(model) if id(variable) not in inside]
        own.update((variable.path, tuple(variable.shape)) for variable in free)
        for variable, weight in zip(free, top, strict=False):
            pairs.append((variable, group["top_level_model_weights"][weight]))
            shapes[variable.path] = tuple(pairs[-1][1].shape)
    _check_weights(own, shapes, path)
    for variable, dataset in pairs:
        variable.assign(dataset[()])
    return [] if by_name else ["the layers were matched by their order, because their names differ"]


def _legacy_order(layer: Any) -> Sequence[Any]:
    ordered: Sequence[Any] = [*layer.trainable_weights, *layer.non_trainable_weights]
    return ordered


def _names(group: Any, attribute: str) -> list[str]:
    """Return a list of names, which HDF5's limit on an attribute's length may have cut into numbered chunks."""
    chunks = [group.attrs[attribute]] if attribute in group.attrs else []
    while not chunks or f"{attribute}{len(chunks)}" in group.attrs:
        chunk = group.attrs.get(f"{attribute}{len(chunks)}")
        if chunk is None:
            break
        chunks.append(chunk)
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for chunk in chunks for name in chunk]


def _check_weights(own: Shapes, stored: Shapes, path: str) -> None:
    check_fit(own, stored, path, optional={name for name in own if name.rpartition("/")[2] == _RANDOM_STATE})
