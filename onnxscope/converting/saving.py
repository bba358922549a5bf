"""Write a model whole or not at all, with its weights beside it where one file cannot hold them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import onnx

from onnxscope.base.files import write_whole, writing_whole

__all__ = ["save_model"]

_MAX_FILE_BYTES = (1 << 31) - (32 << 20)  # protobuf's limit of 2 GiB, less room for everything but weights
_MIN_OUTSIDE_BYTES = 1024
_ALIGNMENT = 4096  # so that every tensor can be memory-mapped by itself


def save_model(model: onnx.ModelProto, path: str, *, limit_bytes: int = _MAX_FILE_BYTES) -> bool:
    """Write `model` to `path`, and above `limit_bytes` of weights to `<name>.data` beside it.

    The model's large tensors lose their bytes in the second case: it is not used afterwards.

    Returns:
        Whether there is a second file.

    Raises:
        OutputError: Neither file was written.
    """
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= limit_bytes:
        write_whole(path, model.SerializeToString(deterministic=True))
        return False
    target = Path(path)
    data = target.with_name(target.name + ".data")
    fresh = not os.path.exists(data)
    try:
        with writing_whole(target) as stream:
            with writing_whole(data) as weights:
                for tensor in model.graph.initializer:
                    if len(tensor.raw_data) >= _MIN_OUTSIDE_BYTES:
                        weights.seek(-(-weights.tell() // _ALIGNMENT) * _ALIGNMENT)
                        offset = weights.tell()
                        weights.write(tensor.raw_data)
                        _move_outside(tensor, data.name, offset)
            stream.write(model.SerializeToString(deterministic=True))
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):
                data.unlink()
        raise
    return True


def _move_outside(tensor: onnx.TensorProto, location: str, offset: int) -> None:
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
