"""What the user gave: folders and globs opened out, in a fixed order, and nothing opened that is no regular file."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any, Literal

from onnxscope.base.files import open_regular
from onnxscope.base.text import counted, printable
from onnxscope.errors import InputError

__all__ = ["Kind", "files_behind", "gather", "open_input", "suffix_of"]

Kind = Literal["images", "arrays", "random"]

_IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
_ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
_INPUTS = "an input is an image, a folder or a glob of images, a .npy, a .npz, or random[:seed]"
_RANDOM = re.compile(r"random(?::(.*))?", re.DOTALL)


def gather(sources: Any) -> tuple[Kind, list[Any], list[str]]:
    """Sort out what the user gave.

    In a folder (not below it) images count, in a glob images and arrays; whatever else is there is ignored, and the
    notes say how many. Their order is natural (`2.png` before `10.png`) and the same on every machine.

    Args:
        sources: One source, or a sequence or iterator of several: a path, a folder, a glob (a file that exists is
            never taken for one), `random[:seed]`, a Pillow image, an array-like, a mapping of array-likes.

    Returns:
        The kind of all of them; the paths, Pillow images, array-like, mapping or seed; and notes for the user.
        There is one entry, or several images.

    Raises:
        InputError: Nothing given, a mixture, several arrays, a folder without images, a glob without matches.
    """
    entries: list[tuple[Kind, Any]] = []
    notes: list[str] = []
    for source in _listed(sources):
        if isinstance(source, str | os.PathLike):
            text = os.fsdecode(source)
            if isinstance(source, str) and (match := _RANDOM.fullmatch(text)):
                entries.append(("random", _seed(match[1])))
                continue
            paths, remarks = _expand(text)
            notes += remarks
            entries += [("arrays" if suffix_of(path) in _ARRAY_SUFFIXES else "images", path) for path in paths]
        else:
            entries.append(("images" if _is_pillow(source) else "arrays", source))
    if not entries:
        raise InputError("no input is given", hint="give an image, a folder of images, a .npy, a .npz or random[:seed]")
    kinds = sorted({kind for kind, _ in entries})
    if len(kinds) > 1:
        raise InputError(f"inputs of different kinds do not mix: {' and '.join(kinds)}", hint="give one kind of input")
    if len(entries) > 1 and kinds != ["images"]:
        raise InputError(
            f"{len(entries)} inputs of kind {kinds[0]!r}, and one is all that is taken",
            hint="put the arrays into one .npz, one array per input; stack samples along axis 0",
        )
    return kinds[0], [entry for _, entry in entries], notes


def files_behind(entries: Iterable[Any]) -> list[str]:
    """Return the files that entries of `gather` are or read from: mapped arrays and opened images know theirs."""
    files = []
    for entry in entries:
        for source in entry.values() if isinstance(entry, dict) else (entry,):
            # Of numpy.memmap, of Pillow's images, and of the archive that numpy.load leaves open.
            name = source if isinstance(source, str) else getattr(getattr(source, "zip", source), "filename", None)
            if name and isinstance(name, str | os.PathLike):
                files.append(os.fspath(name))
    return files


def suffix_of(path: str) -> str:
    """Return the lower-case suffix of `path`, with its dot."""
    return os.path.splitext(path)[1].lower()


def open_input(path: str, *, limit_bytes: int | None = None) -> IO[bytes]:
    """Open a file that an input names, as `open_regular` does; the caller closes it.

    Raises:
        InputError: No such file, a folder, a FIFO, a device, unreadable, or larger than `limit_bytes`.
    """
    return open_regular(path, limit_bytes=limit_bytes, hint=_INPUTS)


def _pick(paths: Iterable[str], suffixes: frozenset[str], fault: str, place: str) -> tuple[list[str], list[str]]:
    files = [path for path in paths if not os.path.isdir(path)]
    picked = [path for path in files if suffix_of(path) in suffixes and os.path.isfile(path)]
    if not picked:
        arrays = sum(suffix_of(path) in _ARRAY_SUFFIXES for path in files)
        hint = "name the .npy or .npz file itself" if arrays else f"images end in {', '.join(sorted(_IMAGE_SUFFIXES))}"
        raise InputError(fault, hint=hint)
    ignored = len(files) - len(picked)
    notes = [f"{counted(ignored, 'other file')} ignored {place}"] if ignored else []
    return sorted(picked, key=_natural), notes


def _natural(path: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = list(re.split(r"([0-9]+)", path.casefold()))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, path


def _listed(sources: Any) -> list[Any]:
    if isinstance(sources, Iterator):
        return list(sources)
    if not isinstance(sources, list | tuple):
        return [sources]
    # A list of numbers, or of lists, is one array written out.
    written = sources and all(isinstance(source, int | float | complex | list | tuple) for source in sources)
    return [sources] if written else list(sources)


def _seed(text: str | None) -> int:
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InputError(f"the seed {text[:60]!r} is no whole number of up to 18 digits: random:SEED")
    return int(text)


def _is_pillow(source: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")  # whoever holds an image has imported it
    return pillow is not None and isinstance(source, pillow.Image)


def _expand(path: str) -> tuple[list[str], list[str]]:
    """Open out one argument: a file as it is, a folder or a glob as the files it holds, with notes."""
    where = printable(path)
    try:
        if os.path.isdir(path):
            paths = [os.path.join(path, name) for name in os.listdir(path)]
            return _pick(paths, _IMAGE_SUFFIXES, f"no image in the folder: {where}", f"in {where}")
        if glob.has_magic(path) and not os.path.lexists(path):
            paths = glob.glob(path, recursive=True)
            return _pick(paths, _IMAGE_SUFFIXES | _ARRAY_SUFFIXES, f"no image matches: {where}", f"matched by {where}")
    except OSError as error:
        raise InputError(f"cannot read the folder ({error.strerror}): {where}") from error
    return [path], []
