"""Read sounds: headers are checked against the file first."""

from __future__ import annotations

import os
import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.errors import InputError

__all__ = ["read_wav"]

Array = NDArray[Any]

_INTEGERS, _FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE
_SOUNDS = {
    (_INTEGERS, 8): "u1",
    (_INTEGERS, 16): "<i2",
    (_INTEGERS, 24): "<i4",
    (_INTEGERS, 32): "<i4",
    (_FLOATS, 32): "<f4",
    (_FLOATS, 64): "<f8",
}
"""numpy's type of a sample, by the format and its bits."""


def read_wav(stream: IO[bytes], where: str) -> tuple[Array, int]:
    """Read the sound of an open `.wav` file: integers of 8 to 32 bits, or floating point.

    Returns:
        The mean of all channels, float32 from -1 to 1, of shape (samples,); and how many there are a second.

    Raises:
        InputError: It is no such file, or is compressed.
    """
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise InputError(f"not a .wav file: {where}")
    kind, channels, rate, bits, data = 0, 0, 0, 0, None
    size_bytes = os.fstat(stream.fileno()).st_size
    while len(head := stream.read(8)) == 8:
        length = min(int.from_bytes(head[4:], "little"), size_bytes - stream.tell())
        if head[:4] == b"fmt " and length >= 16:
            content = stream.read(length)
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if kind == _EXTENSIBLE and length >= 26:
                kind = int.from_bytes(content[24:26], "little")
        elif head[:4] == b"data":
            data = stream.read(length)
        else:
            stream.seek(length, os.SEEK_CUR)
        stream.seek(length % 2, os.SEEK_CUR)
    if data is None or not channels or not rate:
        raise InputError(f"not a .wav file, or a broken one: {where}")
    if (kind, bits) not in _SOUNDS:
        raise InputError(
            f"a sound in format {kind} of {bits} bits is not read: {where}", hint="write it as integers of 16 bits"
        )
    width = channels * bits // 8
    frames = np.frombuffer(data, np.uint8, len(data) // width * width).reshape(-1, channels, bits // 8)
    if not len(frames):
        raise InputError(f"a sound of no length: {where}")
    if bits == 24:  # as the upper bytes of 32
        frames = np.concatenate([np.zeros((*frames.shape[:2], 1), np.uint8), frames], axis=2)
    numbers = np.ascontiguousarray(frames).view(_SOUNDS[kind, bits])[..., 0].astype(np.float64)
    if kind == _INTEGERS:
        numbers = (numbers - 128) / 128 if bits == 8 else numbers / (1 << 15 if bits == 16 else 1 << 31)
    return numbers.mean(axis=1).astype(np.float32), rate
