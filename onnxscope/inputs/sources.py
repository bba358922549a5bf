"""What the user gave: folders and globs opened out, in a fixed order, and nothing opened that is no regular file."""

from __future__ import annotations

import difflib
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from onnxscope.base.files import open_regular
from onnxscope.base.text import counted, printable
from onnxscope.errors import InputError
from onnxscope.inputs.table_files import TABLE_SUFFIXES
from onnxscope.readers.sounds import SOUND_SUFFIXES, begins_a_sound

__all__ = [
    "Kind",
    "NamedFiles",
    "WrittenText",
    "closest_files",
    "files_behind",
    "gather",
    "holds_image",
    "is_sound",
    "open_input",
    "suffix_of",
    "tensor_files",
]

Kind = Literal["images", "arrays", "text", "random"]

_IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
_ARRAY_SUFFIXES = frozenset({".npy", ".npz", ".pb", ".safetensors"})
_INPUTS = (
    "an input is an image, a .npy, .npz, .safetensors or .pb of arrays, a .csv or .parquet, a .wav or .flac, a .txt or "
    ".jsonl of text, a folder or a glob of these, NAME=FILE, text:…, or random[:seed]"
)
_NPY = b"\x93NUMPY"
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", *(b"P%d" % kind for kind in range(1, 7)))
_TEXT = "text is a .txt, a sample a line, a .jsonl, or text:…"
_TEXT_SUFFIXES = frozenset({".txt", ".jsonl"})
_WRITTEN = "text:"
_SOUND = "write the sound as .wav or .flac"
_ALONE = TABLE_SUFFIXES | SOUND_SUFFIXES  # which a folder may hold beside what is meant
_MODEL = "that is a model or a checkpoint, which comes before `-i`; an input is data"
_MADE_OTHERWISE = {
    **dict.fromkeys((".json", ".md", ".rst", ".html"), _TEXT),
    **dict.fromkeys((".m4a", ".aac", ".wma"), _SOUND),
    **dict.fromkeys((".onnx", ".pt", ".pth", ".ckpt", ".keras", ".h5", ".bin"), _MODEL),
}
_TENSOR = re.compile(r"input_([0-9]+)\.pb")
_TEST_DATA = re.compile(r"test_data_set_[0-9]+")
_RANDOM = re.compile(r"random(?::(.*))?", re.DOTALL)


@dataclass(frozen=True)
class NamedFiles:
    """Files of arrays, one for each input that they name, or a number for all of it.

    Attributes:
        paths: The path of a file, or a number that is written out, by the name of an input.
    """

    paths: Mapping[str, str]

    def number(self, name: str) -> float | None:
        """The number that an input is full of, None where it has a file."""
        return _number(self.paths[name])


@dataclass(frozen=True)
class WrittenText:
    """One sample of text that is written out.

    Attributes:
        text: With anything in it.
    """

    text: str


def gather(sources: Any) -> tuple[Kind, list[Any], list[str]]:
    """Sort out what the user gave.

    In a folder (not below it) images count, or else arrays, sounds, or texts; in a glob texts where there is nothing
    else. Whatever else is there is ignored, and the notes say how many. Their order is natural (`2.png` before
    `10.png`) and the same on every machine.

    Args:
        sources: One source, or a sequence or iterator of several: a path, a folder, a glob (a file that exists is
            never taken for one), a folder of onnx's test data, `NAME=FILE` or `NAME=NUMBER` for an input of that name,
            `text:` with a text behind it, `random[:seed]`, a Pillow image, an array-like, a mapping of array-likes.

    Returns:
        The kind of all of them; the paths, named files, written texts, Pillow images, array-likes, mappings or seed;
        and notes for the user. There is one entry for random numbers.

    Raises:
        InputError: Nothing given, a mixture, several seeds, a folder without images and arrays, a glob without
            matches, or inputs that are named with different numbers of files.
    """
    entries: list[tuple[Kind, Any]] = []
    named: dict[str, list[str]] = {}
    notes: list[str] = []
    for source in _listed(sources):
        if isinstance(source, str | os.PathLike):
            text = os.fsdecode(source)
            if isinstance(source, str) and (match := _RANDOM.fullmatch(text)):
                entries.append(("random", _seed(match[1])))
                continue
            if isinstance(source, str) and text.startswith(_WRITTEN) and not os.path.lexists(text):
                entries.append(("text", _written(text)))
                continue
            name, path = _name_and_path(text) if isinstance(source, str) else ("", text)
            paths, remarks = _expand(path)
            notes += remarks
            if name:
                named.setdefault(name, []).extend(paths)
            else:
                entries += [(_kind_of(path), path) for path in paths]
        else:
            entries.append(("images" if _is_pillow(source) else "arrays", source))
    entries += [
        ("images" if any(map(holds_image, files.paths.values())) else "arrays", files) for files in _together(named)
    ]
    if not entries:
        raise InputError("no input is given", hint=_INPUTS)
    kinds = sorted({kind for kind, _ in entries})
    if len(kinds) > 1:
        for path in files_behind(entry for _, entry in entries):  # a name misspelt is no matter of kinds
            if not os.path.lexists(path):
                open_input(path).close()
        raise InputError(f"inputs of different kinds do not mix: {' and '.join(kinds)}", hint="give one kind of input")
    if named and any(not isinstance(entry, NamedFiles) for _, entry in entries):
        raise InputError(
            f"some files are for an input by name ({printable(next(iter(named)))}=…) and others for none",
            hint="give each with its input, as NAME=FILE",
        )
    if len(entries) > 1 and kinds == ["random"]:
        raise InputError(
            f"{len(entries)} random inputs, and one is all that is taken",
            hint=f"`-i random --samples {len(entries)}` makes so many samples",
        )
    return kinds[0], [entry for _, entry in entries], notes


def files_behind(entries: Iterable[Any]) -> list[str]:
    """Return the files that entries of `gather` are or read from: mapped arrays and opened images know theirs."""
    files: list[str] = []
    for entry in entries:
        if isinstance(entry, NamedFiles):
            files += [path for name, path in entry.paths.items() if entry.number(name) is None]
            continue
        if isinstance(entry, str) and os.path.isdir(entry):
            files += tensor_files(entry)
            continue
        for source in entry.values() if isinstance(entry, dict) else (entry,):
            # Of numpy.memmap, of Pillow's images, and of the archive that numpy.load leaves open.
            name = source if isinstance(source, str) else getattr(getattr(source, "zip", source), "filename", None)
            if name and isinstance(name, str | os.PathLike):
                files.append(os.fspath(name))
    return files


def holds_image(path: str) -> bool:
    """Whether a file is an image, by its name or else by how it begins."""
    if suffix_of(path) in _IMAGE_SUFFIXES:
        return True
    if suffix_of(path) in _ARRAY_SUFFIXES | _ALONE or not os.path.isfile(path):
        return False
    with open_input(path) as stream:
        return _begins_as_image(stream.read(16))


def tensor_files(folder: str) -> list[str]:
    """Return `input_0.pb`, `input_1.pb` and so on of a folder of onnx's test data, in that order; nothing elsewhere."""
    numbers = sorted(int(match[1]) for name in os.listdir(folder) if (match := _TENSOR.fullmatch(name)))
    return [os.path.join(folder, f"input_{number}.pb") for number in numbers]


def suffix_of(path: str) -> str:
    """Return the lower-case suffix of `path`, with its dot."""
    return os.path.splitext(path)[1].lower()


def is_sound(path: str) -> bool:
    """Return whether a file is a sound, by its name or else by how it begins; one that cannot be read is none."""
    if suffix_of(path) in SOUND_SUFFIXES:
        return True
    if suffix_of(path) in _ARRAY_SUFFIXES | TABLE_SUFFIXES | _IMAGE_SUFFIXES or not os.path.isfile(path):
        return False
    with open_input(path) as stream:
        return begins_a_sound(stream.read(16))


def open_input(path: str, *, limit_bytes: int | None = None) -> IO[bytes]:
    """Open a file that an input names, as `open_regular` does; the caller closes it.

    Raises:
        InputError: No such file, a folder, a FIFO, a device, unreadable, or larger than `limit_bytes`.
    """
    return open_regular(path, limit_bytes=limit_bytes, hint=None if os.path.lexists(path) else _like(path))


def closest_files(path: str) -> str | None:
    """Return, for a hint, files that are called like one that is not there; None where there are none."""
    folder, name = os.path.split(path)
    try:
        closest = difflib.get_close_matches(name, os.listdir(folder or "."), n=3, cutoff=0.7)
    except (OSError, ValueError):
        return None
    return f"closest files: {', '.join(printable(os.path.join(folder, name)) for name in closest)}" if closest else None


def _like(path: str) -> str:
    """What to do about an input that is not there."""
    name, equals, behind = path.partition("=")
    if equals and not os.path.split(name)[0]:
        return closest_files(behind) or f"behind {printable(name)[:60]}= stands no file and no number"
    made_up = difflib.get_close_matches(path, ["random"], cutoff=0.7)
    return closest_files(path) or ("`-i random` makes numbers up" if made_up else _INPUTS)


def _pick(paths: Iterable[str], choices: Sequence[frozenset[str]], place: str) -> tuple[list[str], list[str]]:
    """Files of the first of several kinds that there are any of, and folders of test data where arrays are wanted."""
    everything = list(paths)
    files = [path for path in everything if not os.path.isdir(path)]
    for suffixes in choices:
        picked = [path for path in files if suffix_of(path) in suffixes and os.path.isfile(path)]
        ignored = len(files) - len(picked)
        if suffixes & _ARRAY_SUFFIXES:
            picked += [path for path in everything if _is_test_data(path)]
        if picked:
            notes = [f"{counted(ignored, 'other file')} ignored {place}"] if ignored else []
            return sorted(picked, key=_natural), notes
    return [], []


def _kind_of(path: str) -> Kind:
    """What a file holds, by its name or else by how it begins.

    Raises:
        InputError: It is there, and nothing that is known.
    """
    if suffix_of(path) in _ARRAY_SUFFIXES | _ALONE or _is_test_data(path):
        return "arrays"
    if suffix_of(path) in _TEXT_SUFFIXES and os.path.isfile(path):
        return "text"
    if suffix_of(path) in _IMAGE_SUFFIXES or not os.path.isfile(path):
        return "images"  # one that is not there is told when it is opened
    with open_input(path) as stream:
        head = stream.read(16)
    if head.startswith(_NPY) or begins_a_sound(head):
        return "arrays"
    if _begins_as_image(head):
        return "images"
    raise InputError(
        f"no kind of input that is known: {printable(path)}", hint=_MADE_OTHERWISE.get(suffix_of(path), _INPUTS)
    )


def _begins_as_image(head: bytes) -> bool:
    return head.startswith(_IMAGES) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or head[4:8] == b"ftyp"


def _is_test_data(path: str) -> bool:
    return os.path.isdir(path) and bool(tensor_files(path))


def _name_and_path(text: str) -> tuple[str, str]:
    """An input's name and its file, of `NAME=FILE`; no name where a file is called so, or nothing is such a file."""
    if "=" not in text or os.path.lexists(text):
        return "", text
    parts = text.split("=")
    splits = [("=".join(parts[:place]), "=".join(parts[place:])) for place in range(1, len(parts))]
    known = [(name, path) for name, path in splits if os.path.lexists(path) or _number(path) is not None]
    known += [(name, path) for name, path in splits if suffix_of(path) in _ARRAY_SUFFIXES | _IMAGE_SUFFIXES | _ALONE]
    return known[0] if known else ("", text)


def _together(named: Mapping[str, list[str]]) -> list[NamedFiles]:
    """The first files of all inputs, the second ones, and so on; an only one goes with each."""
    counts = {name: len(paths) for name, paths in named.items()}
    most = max(counts.values(), default=0)
    if set(counts.values()) - {1, most}:
        shown = ", ".join(f"{printable(name)} {count}" for name, count in counts.items())
        raise InputError(f"the inputs are named with different numbers of files: {shown}", hint="give each as many")
    repeated = {name: paths if len(paths) == most else paths * most for name, paths in named.items()}
    return [NamedFiles({name: paths[place] for name, paths in repeated.items()}) for place in range(most)]


def _number(text: str) -> float | None:
    """A number that is written out, None for anything else, a file of that name too."""
    if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", text, re.IGNORECASE) or os.path.lexists(text):
        return None
    return float(text)


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


def _written(text: str) -> WrittenText:
    written = text.removeprefix(_WRITTEN)
    if not written.strip():
        raise InputError("a text with nothing in it: text:", hint="for example `-i 'text:a first sentence'`")
    return WrittenText(written)


def _seed(text: str | None) -> int:
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise InputError(
            f"the seed {text[:60]!r} is no whole number of up to 18 digits: random:SEED", hint="`-i random:7` has one"
        )
    return int(text)


def _is_pillow(source: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")  # whoever holds an image has imported it
    return pillow is not None and isinstance(source, pillow.Image)


def _expand(path: str) -> tuple[list[str], list[str]]:
    """Open out one argument: a file as it is, a folder or a glob as the files it holds, with notes."""
    where = printable(path)
    try:
        if os.path.isdir(path) and not tensor_files(path):
            paths = [os.path.join(path, name) for name in os.listdir(path)]
            return _found(
                _pick(paths, (_IMAGE_SUFFIXES, _ARRAY_SUFFIXES, SOUND_SUFFIXES, _TEXT_SUFFIXES), f"in {where}"),
                f"in the folder: {where}",
            )
        if glob.has_magic(path) and not os.path.lexists(path):
            paths = glob.glob(path, recursive=True)
            picked = _pick(paths, (_IMAGE_SUFFIXES | _ARRAY_SUFFIXES | _ALONE, _TEXT_SUFFIXES), f"matched by {where}")
            return _found(picked, f"matches: {where}")
    except OSError as error:
        raise InputError(f"cannot read the folder ({error.strerror}): {where}") from error
    return [path], []


def _found(picked: tuple[list[str], list[str]], where: str) -> tuple[list[str], list[str]]:
    if not picked[0]:
        raise InputError(f"no image, no file of arrays, no sound and no text {where}", hint=_INPUTS)
    return picked
