"""What a converter writes into a model's metadata, and how it is read back.

The records travel in `ModelProto.metadata_props` under keys that start with `onnxscope.`; the layer of a node, where
the converter knows it, is in that node's `metadata_props` under `onnxscope.layer`. A model is untrusted: whatever
cannot be read as the record that it should be is treated as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["LAYER_KEY", "Mode", "ParameterRecord", "Provenance", "read_provenance", "write_provenance"]

LAYER_KEY = "onnxscope.layer"
_PREFIX = "onnxscope."

Mode = Literal["faithful", "deployed"]


@dataclass(frozen=True)
class ParameterRecord:
    """One parameter or buffer of the framework's model, whether or not the graph still holds it.

    Attributes:
        name: The framework's own name, verbatim: a state_dict key, or Keras's `variable.path`.
        layer: `name` without the variable and without the model's own scope: `features.0`, `features/conv2d`.
        shape: In the framework's own axis order.
        dtype: numpy's name of the element type, `float32`.
        initializer: The initializer that holds the values, or None where the graph has none.
        permutation: Axes of `shape` in the initializer's order (`initializer = parameter.transpose(permutation)`),
            None where both are the same.
        reason: Why there is no initializer (`dropped: all zeros`, `folded into conv1.weight`, `counter`), else None.
        folded: Whether the initializer holds more than the parameter, such as a folded BatchNorm.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    dtype: str
    initializer: str | None = None
    permutation: tuple[int, ...] | None = None
    reason: str | None = None
    folded: bool = False


@dataclass(frozen=True)
class Provenance:
    """Where a model came from.

    Attributes:
        framework: `torch` or `tensorflow`.
        version: The framework's version, `2.13.0`.
        mode: `faithful` (nothing folded) or `deployed`.
        source: The shipped name or the factory's name; never a path.
        preprocess: Name of the preset for images, or a recipe as JSON, or None.
        parameters: Every parameter and buffer, in the framework's order.
    """

    framework: str
    version: str
    mode: Mode
    source: str
    preprocess: str | None = None
    parameters: tuple[ParameterRecord, ...] = ()


def write_provenance(provenance: Provenance) -> dict[str, str]:
    """Return the metadata to merge into `ModelProto.metadata_props`, all keys starting with `onnxscope.`."""
    record = asdict(provenance)
    parameters = record.pop("parameters")
    metadata = {_PREFIX + key: value for key, value in record.items() if value is not None}
    metadata[_PREFIX + "parameters"] = json.dumps(parameters, separators=(",", ":"))
    return metadata


def read_provenance(metadata: Mapping[str, str]) -> Provenance | None:
    """Read back what `write_provenance` wrote, or None where it is missing or malformed."""
    try:
        mode = metadata[_PREFIX + "mode"]
        if mode not in ("faithful", "deployed"):
            return None
        return Provenance(
            framework=metadata[_PREFIX + "framework"],
            version=metadata.get(_PREFIX + "version", ""),
            mode="faithful" if mode == "faithful" else "deployed",
            source=metadata.get(_PREFIX + "source", ""),
            preprocess=metadata.get(_PREFIX + "preprocess"),
            parameters=tuple(_read_parameters(json.loads(metadata.get(_PREFIX + "parameters", "[]")))),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def _read_parameters(records: Any) -> Iterable[ParameterRecord]:
    for record in records:
        if not isinstance(record, dict):
            raise TypeError(f"not an object: {record!r}")
        shape = tuple(int(dim) for dim in record["shape"])
        permutation = record.get("permutation")
        if permutation is not None:
            permutation = tuple(int(axis) for axis in permutation)
            if sorted(permutation) != list(range(len(shape))):
                raise ValueError(f"not a permutation: {permutation}")
        yield ParameterRecord(
            name=_text(record["name"]),
            layer=_text(record["layer"]),
            shape=shape,
            dtype=_text(record["dtype"]),
            initializer=None if record.get("initializer") is None else _text(record["initializer"]),
            permutation=permutation,
            reason=None if record.get("reason") is None else _text(record["reason"]),
            folded=bool(record.get("folded", False)),
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a string: {value!r}")
    return value
