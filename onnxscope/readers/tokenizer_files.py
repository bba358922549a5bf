"""Read `tokenizer.json` files, as the library `tokenizers` writes them, and make text into ids; nothing is fetched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

from onnxscope.base.json_files import MAX_INTEGER, parse_json
from onnxscope.base.text import first_line, printable
from onnxscope.errors import InputError
from onnxscope.readers.texts import Text
from onnxscope.readers.ways_said import file_beside

__all__ = ["MAX_TOKENIZER_BYTES", "Encoded", "Tokenizer", "read_tokenizer", "tokenizer_beside"]

MAX_TOKENIZER_BYTES = 64 << 20
"""The largest vocabularies in use take 40 MB."""

_PADS = ("[PAD]", "<pad>", "<PAD>", "<|pad|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>")
"""What the token that pads is called where a file does not say; models without one pad with the end of a text."""
_NAME = "tokenizer.json"
_HINT = "a tokenizer is the `tokenizer.json` that the library `tokenizers` writes"


@dataclass(frozen=True)
class Encoded:
    """A text in tokens.

    Attributes:
        ids: Their numbers.
        type_ids: Which of two texts each belongs to.
        is_cut: Whether the text had more of them.
    """

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]
    is_cut: bool = False


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Makes text into ids. Safe to share between threads; travels to other processes.

    Attributes:
        path: The file's.
        sha256: Of the file, in hexadecimal.
        pad_id: What fills up a text, None where the file tells of no such token.
        pad_token: What that is called.
        pad_type_id: Which of two texts what fills up belongs to.
        side: Where it stands.
        max_length: How many tokens a text has at most, those that the file adds among them; None for any number.
    """

    path: str
    sha256: str
    pad_id: int | None
    pad_token: str
    pad_type_id: int
    side: Literal["left", "right"]
    max_length: int | None
    library: Any

    @property
    def name(self) -> str:
        """The file's name, without folders, as messages have it."""
        return printable(os.path.basename(self.path))

    def encode(self, text: Text, where: str) -> Encoded:
        """Return a text's tokens, cut to `max_length`, with those that the file adds to every text.

        Raises:
            InputError: The library cannot, which a broken file or a text of two for a file of one may be the reason of.
        """
        with _telling(f"the tokenizer {self.name!r} cannot take the text apart", where):
            encoding = self.library.encode(text.text, text.pair)
            return Encoded(
                ids=tuple(encoding.ids),
                type_ids=tuple(encoding.type_ids),
                is_cut=bool(encoding.overflowing),
            )

    def names(self, ids: Sequence[int]) -> tuple[str, ...]:
        """What tokens are called, by their numbers; the number itself of one that the vocabulary does not have."""
        return tuple(self.library.id_to_token(number) or str(number) for number in ids)

    def number(self, token: str) -> int | None:
        """The number of a token, None for one that the vocabulary does not have."""
        number: int | None = self.library.token_to_id(token)
        return number

    @property
    def special_tokens(self) -> tuple[tuple[int, str], ...]:
        """The numbers and the names of the tokens that stand for no text, ascending."""
        added = self.library.get_added_tokens_decoder()
        return tuple(sorted((number, token.content) for number, token in added.items() if token.special))


def read_tokenizer(stream: IO[bytes], path: str, longest: int | None = None) -> Tokenizer:
    """Read an open `tokenizer.json`.

    Args:
        stream: The file.
        path: Where it is.
        longest: How many tokens the model takes at most, None for any number; the file may allow fewer.

    Raises:
        InputError: It is no such file, or the library `tokenizers` is not installed.
    """
    where = printable(path)
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            f"text needs the library tokenizers, which is not installed: {where}",
            hint="pip install 'onnxscope[text]'",
        ) from error
    content = stream.read()
    try:
        stored = parse_json(content)
    except ValueError as error:
        raise InputError(f"not a tokenizer ({first_line(error)}): {where}", hint=_HINT) from error
    if not isinstance(stored, Mapping) or "model" not in stored:
        raise InputError(f"not a tokenizer (no model in it): {where}", hint=_HINT)
    with _telling("not a tokenizer", where):
        library = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        library.no_padding()
        allowed = _whole(_section(stored, "truncation").get("max_length"))
        lengths = [length for length in (longest, allowed) if length is not None]
        if lengths:
            _cut_to(library, min(lengths), _section(stored, "truncation"))
        pad_id, pad_token = _pad(library, _section(stored, "padding"))
    padding = _section(stored, "padding")
    return Tokenizer(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        pad_id=pad_id,
        pad_token=pad_token,
        pad_type_id=_whole(padding.get("pad_type_id")) or 0,
        side="left" if padding.get("direction") == "Left" else "right",
        max_length=min(lengths, default=None),
        library=library,
    )


def tokenizer_beside(folder: str | os.PathLike[str] | None) -> str | None:
    """Return the path of the tokenizer beside a model, or in the folder above one that is called `onnx`."""
    path = file_beside(folder, _NAME)
    return None if path is None else str(path)


def _cut_to(library: Any, length: int, section: Mapping[str, Any]) -> None:
    """Cut texts at so many tokens, in the file's way."""
    added = library.num_special_tokens_to_add(False)
    if length <= added:
        raise ValueError(f"{length} tokens at most, and it adds {added} to every text")
    side = "left" if section.get("direction") == "Left" else "right"
    library.enable_truncation(length, stride=0, strategy="longest_first", direction=side)


def _pad(library: Any, section: Mapping[str, Any]) -> tuple[int | None, str]:
    """The number and the name of what fills up."""
    number = _whole(section.get("pad_id"))
    if number is not None:
        return number, library.id_to_token(number) or str(section.get("pad_token"))
    for token in _PADS:
        found = library.token_to_id(token)
        if found is not None:
            return found, token
    return None, ""


def _section(stored: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = stored.get(name)
    return section if isinstance(section, Mapping) else {}


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_INTEGER else None


@contextmanager
def _telling(fault: str, where: str) -> Iterator[None]:
    """Make an InputError of whatever the library raises; what ends a thread of Rust is no Exception."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{fault} ({first_line(str(error))}): {where}", hint=_HINT) from error
