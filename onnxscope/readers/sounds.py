"""Read sounds, `.wav` by ourselves and others by soundfile, and resample them; headers are checked against the file."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["SOUND_SUFFIXES", "begins_a_sound", "read_sound", "resample", "sound_size"]

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


SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})

_MAX_SAMPLES = 1 << 28  # of all channels together: 93 minutes at 48,000 samples a second
_EXTRA = "pip install 'onnxscope[sound]'"


@dataclass(frozen=True)
class _Wav:
    """What the header of a `.wav` says, and where its samples are."""

    kind: int
    channels: int
    rate: int
    bits: int
    start: int
    frames: int


def begins_a_sound(head: bytes) -> bool:
    """Return whether a file that begins so, with 12 bytes or more, is a sound."""
    return _is_wav(head) or head.startswith((b"fLaC", b"OggS"))


def _is_wav(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def sound_size(stream: IO[bytes], where: str) -> tuple[int, int]:
    """Return how many samples each channel of an open sound has, and how many there are a second.

    Raises:
        InputError: As `read_sound`.
    """
    if _own(stream, where):
        wav = _wav_header(stream, where)
        return wav.frames, wav.rate
    with _opened(stream, where) as sound:
        return sound.frames, sound.samplerate


def read_sound(stream: IO[bytes], where: str) -> tuple[Array, int]:
    """Read an open sound: a `.wav` of integers (8 to 32 bits) or floating point, or what soundfile reads.

    Returns:
        The mean of all channels, float32 from -1 to 1, of shape (samples,); and how many there are a second.

    Raises:
        InputError: It is no such file, is too long, or soundfile is not installed for what needs it.
    """
    if _own(stream, where):
        return _wav_samples(stream, _wav_header(stream, where))
    with _opened(stream, where) as sound:
        frames = sound.read(sound.frames, dtype="float32", always_2d=True)
        rate = sound.samplerate
    if not len(frames):
        raise InputError(f"a sound of no length: {where}")
    mean: Array = frames.mean(axis=1, dtype=np.float64)
    return mean.astype(np.float32), rate


def resample(sound: Array, rate: int, wanted: int, where: str) -> Array:
    """Return a sound of shape (samples,) at another rate.

    Raises:
        InputError: soxr is not installed, or the sound would be too long.
    """
    if rate == wanted:
        return sound
    _check_length(len(sound) * wanted // rate, where)
    try:
        import soxr
    except ImportError as error:
        raise InputError(
            f"a sound of {rate:,} samples a second has to be resampled to {wanted:,}, and soxr is not installed: "
            f"{where}",
            hint=f"{_EXTRA}, or give the sound at {wanted:,} samples a second",
        ) from error
    resampled: Array = soxr.resample(sound, rate, wanted, quality="HQ")
    return resampled


def _own(stream: IO[bytes], where: str) -> bool:
    """Whether we read a file ourselves."""
    head = stream.read(12)
    stream.seek(0)
    return _is_wav(head) or where.lower().endswith(".wav")


@contextmanager
def _opened(stream: IO[bytes], where: str) -> Iterator[Any]:
    """A sound as soundfile sees it."""
    suffix = os.path.splitext(where)[1].lower() or "it"
    try:
        import soundfile
    except (ImportError, OSError) as error:  # it also raises where its own library is missing
        raise InputError(
            f"{suffix} is read by soundfile, which is not installed: {where}", hint=f"{_EXTRA}, or write it as .wav"
        ) from error
    try:
        with soundfile.SoundFile(stream) as sound:
            _check_length(sound.frames * sound.channels, where)
            yield sound
    except soundfile.SoundFileError as error:
        said = printable(str(getattr(error, "error_string", type(error).__name__)))
        raise InputError(f"not a sound that can be read ({said.rstrip('.')[:80]}): {where}") from error


def _check_length(samples: int, where: str) -> None:
    if samples > _MAX_SAMPLES:
        raise InputError(
            f"a sound of {samples:,} samples, more than the {_MAX_SAMPLES:,} that we read: {where}",
            hint="cut it into pieces: several files, or a folder of them, are samples",
        )


def _wav_header(stream: IO[bytes], where: str) -> _Wav:
    """Read a header; the stream's place is undefined afterwards."""
    head = stream.read(12)
    if not _is_wav(head):
        raise InputError(f"not a .wav file: {where}")
    kind, channels, rate, bits, start, data_bytes = 0, 0, 0, 0, None, 0
    size_bytes = os.fstat(stream.fileno()).st_size
    while len(head := stream.read(8)) == 8:
        length = min(int.from_bytes(head[4:], "little"), size_bytes - stream.tell())
        content_start = stream.tell()
        if head[:4] == b"fmt " and length >= 16:
            content = stream.read(min(length, 26))
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if kind == _EXTENSIBLE and length >= 26:
                kind = int.from_bytes(content[24:26], "little")
        elif head[:4] == b"data":
            start, data_bytes = content_start, length
        stream.seek(content_start + length + length % 2)
    if start is None or not channels or not rate:
        raise InputError(f"not a .wav file, or a broken one: {where}")
    if (kind, bits) not in _SOUNDS:
        raise InputError(
            f"a sound in format {kind} of {bits} bits is not read: {where}", hint="write it as integers of 16 bits"
        )
    frames = data_bytes // (channels * bits // 8)
    if not frames:
        raise InputError(f"a sound of no length: {where}")
    _check_length(frames * channels, where)
    return _Wav(kind, channels, rate, bits, start, frames)


def _wav_samples(stream: IO[bytes], wav: _Wav) -> tuple[Array, int]:
    stream.seek(wav.start)
    width = wav.bits // 8
    data = stream.read(wav.frames * wav.channels * width)
    frames = np.frombuffer(data, np.uint8).reshape(-1, wav.channels, width)
    if width == 3:  # as the upper bytes of 32
        frames = np.concatenate([np.zeros((*frames.shape[:2], 1), np.uint8), frames], axis=2)
    numbers = np.ascontiguousarray(frames).view(_SOUNDS[wav.kind, wav.bits])[..., 0].astype(np.float64)
    if wav.kind == _INTEGERS:
        numbers = (numbers - 128) / 128 if width == 1 else numbers / (1 << 15 if width == 2 else 1 << 31)
    return numbers.mean(axis=1).astype(np.float32), wav.rate
