"""A model with its weights as files: one, or two where the weights do not fit into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from onnx import ModelProto, TensorProto

from onnxscope.base.files import WholeFolder
from onnxscope.model.loading import Model
from onnxscope.model.tensors import every_tensor

__all__ = ["MOST_INLINE_BYTES", "write_model"]

MOST_INLINE_BYTES = (1 << 31) - (64 << 20)
"""More bytes get a file of their own: protobuf's limit is 2 GiB, less room for everything but weights."""
_MIN_OUTSIDE_BYTES = 1024
_ALIGNMENT = 4096  # so that every tensor can be memory-mapped by itself


def write_model(
    model: Model,
    changed: ModelProto,
    folder: WholeFolder,
    name: str,
    start: bytes,
    most_inline_bytes: int = MOST_INLINE_BYTES,
) -> bool:
    """Write a model with the bytes of its weights into a folder.

    Args:
        model: Whose files the weights are in.
        changed: The model, or what was made of it; it is not changed.
        folder: Where.
        name: The file's name; weights that do not fit into it are beside it in `<name>.data`.
        start: What such a file of weights starts with.
        most_inline_bytes: What fits.

    Returns:
        Whether there is a file of weights.
    """
    proto = ModelProto()
    proto.CopyFrom(changed)
    outside = [tensor for tensor in every_tensor(proto) if tensor.data_location == TensorProto.EXTERNAL]
    total = proto.ByteSize() + sum(map(model.storage.stored_bytes, outside))
    if total <= most_inline_bytes:
        for tensor in outside:
            content = bytes(model.storage.content(tensor))
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = content
        folder.write(name, proto.SerializeToString(deterministic=True))
        return False
    weights = f"{name}.data"
    stream = folder.open(weights)
    stream.write(start)
    written: dict[tuple[str, ...], int] = {}
    for tensor in (*outside, *_large(proto)):
        length = model.storage.stored_bytes(tensor)
        place = tuple(f"{entry.key}={entry.value}" for entry in tensor.external_data)
        if place not in written or not place:
            written[place] = _append(stream, model.storage.content(tensor))
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", weights), ("offset", written[place]), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    folder.write(name, proto.SerializeToString(deterministic=True))
    return True


def _append(stream: IO[bytes], content: memoryview) -> int:
    offset = -(-stream.tell() // _ALIGNMENT) * _ALIGNMENT
    stream.seek(offset)
    stream.write(content)
    return offset


def _large(proto: ModelProto) -> Iterator[TensorProto]:
    """Initializers of the main graph that are stored inline and better are not."""
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and len(tensor.raw_data) >= _MIN_OUTSIDE_BYTES:
            yield tensor
