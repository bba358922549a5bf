"""How names, numbers and sizes are written for people: printable, short, and never more exact than they are."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence

__all__ = [
    "COMMAND_START",
    "MAX_NAME",
    "as_typed",
    "bytes_text",
    "count_text",
    "counted",
    "first_line",
    "format_number",
    "is_safe_stem",
    "label",
    "not_finite_text",
    "number_text",
    "output_text",
    "plain_shapes",
    "printable",
    "ranges_text",
    "safe_stem",
    "samples_text",
    "sentence",
    "shape_text",
    "shortened",
    "tip",
]

MAX_NAME = 96
"""Characters of a name that a page shows; the tool tip has more of it."""

COMMAND_START = re.compile(r"^( *):(?=:)|#(?=#\w*\[)")
"""The character that makes a command of CI of what follows; before it, where it stands at the start, the spaces."""

MAX_HINT = 300
"""Characters of an error's hint that says what a model takes."""

_TIMES = " × "
_SHAPE = re.compile(rf"(?<![^\s,;:()])[^\s,;:()]+(?:{_TIMES}[^\s,;:()]+)+")
_MAX_TIP = 1000
_MAX_STEM_BYTES = 60
_MAX_READ = 4096  # characters of a name that a stem is made from
_NOT_SHOWN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_OWN_STEM = re.compile(r"([0-9]{3,9})_(.+)", re.DOTALL)


def printable(text: str) -> str:
    """Replace what a terminal or a log would do something about, so that they show nothing but text.

    That is every control, format and surrogate character, and the first character of what the machines of CI take for
    commands: `::` at the start of a line, `##[` and `##vso[` anywhere.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return COMMAND_START.sub(lambda match: f"{match[1] or ''}\\x{ord(match[0][-1]):02x}", text)


def as_typed(text: str) -> str:
    """Return a word as a shell takes it, printable: for a command in a message."""
    return shlex.quote(printable(text))


def first_line(error: Exception | Warning | str) -> str:
    """Return the first line of a foreign exception's message, printable and of at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0][:200])


def safe_stem(name: str, index: int) -> str:
    """Return a file name stem for something that a model named: the index, then at most 60 bytes of harmless UTF-8.

    Letters and digits of every script stay, composed, and with a letter its marks, such as vowels. A run of anything
    else is one underscore: separators, controls, what turns the direction of writing, what is not seen.
    """
    stem: list[str] = []
    takes_mark = False
    for c in unicodedata.normalize("NFC", name[:_MAX_READ]):
        is_letter = c.isalnum() and not _NOT_SHOWN.match(c)
        takes_mark = is_letter or (takes_mark and unicodedata.category(c) in ("Mn", "Mc") and not _NOT_SHOWN.match(c))
        if takes_mark or c in "._-":
            stem.append(c)
        elif not stem or stem[-1] != "":
            stem += ["_", ""]  # the empty text is where a run began
    text = "".join(stem).encode()[:_MAX_STEM_BYTES].decode(errors="ignore").strip("._")
    return f"{index:03d}_{text or 'unnamed'}"


def is_safe_stem(stem: str) -> bool:
    """Whether `safe_stem` could have made a file name's stem."""
    parts = _OWN_STEM.fullmatch(stem)
    return parts is not None and safe_stem(parts[2], int(parts[1])) == stem


def shortened(text: str, limit: int) -> str:
    """Cut the middle out of a text of more than `limit` characters: names of layers differ at their ends."""
    if len(text) <= limit:
        return text
    kept = limit - 1
    return f"{text[: kept - kept // 2 - kept % 2]}…{text[-(kept // 2 + kept % 2) :]}"


def output_text(name: str) -> str:
    """Return an output's name for a sentence: `output y`; where the name says that it is one, the name alone."""
    return label(name) if "output" in name.casefold() else f"output {label(name)}"


def not_finite_text(nan: int | None, inf: int | None) -> str:
    """Return a table's mark for numbers that are not finite: `NaN 2, inf 1`; nothing where there is none."""
    return ", ".join(f"{word} {count:,}" for word, count in (("NaN", nan), ("inf", inf)) if count)


def format_number(number: float) -> str:
    """Return a number with five significant digits; one that is not zero never shows as 0."""
    return f"{number:.5g}"


def number_text(number: float | None) -> str:
    """Four significant digits, a dash for nothing; a number that is not zero never shows as 0."""
    if number is None:
        return "–"
    return f"{number:.4g}".replace("-", "−") if number else "0"


def count_text(number: float) -> str:
    """A large count in three digits: `4.09 G`."""
    for power, suffix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {suffix}"
    return format_number(number)


def bytes_text(count: int) -> str:
    """A size in three digits, decimal: `102 MB`."""
    for power, unit in ((15, "PB"), (12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} B"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """How many of something, in words: `1 layer`, `1,000 layers`; `plural` is for nouns that do not end with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def samples_text(count: int) -> str:
    """How many samples, in words."""
    return counted(count, "sample")


def ranges_text(numbers: Sequence[int]) -> str:
    """Channel numbers as people write them: `0 to 11`, or one by one."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def shape_text(shape: Sequence[int | str | None] | None, *, is_plain: bool = False, max_side: int = 24) -> str:
    """Return how many elements each axis has: `batch × 3 × 224 × 224`; nothing where the rank is not known.

    Args:
        shape: A size, a name, or None, which is shown as `?`, for each axis.
        is_plain: Whether it is for an error, a program, or what cannot show that sign: `[batch, 3, 224, 224]`.
        max_side: Characters of a name; JSON has what a longer one is computed by. A size is always whole.
    """
    if shape is None:
        return ""
    sides = ["?" if side is None else _side(side, max_side) for side in shape]
    if not sides:
        return "scalar"
    return f"[{', '.join(sides)}]" if is_plain else _TIMES.join(sides)


def plain_shapes(text: str) -> str:
    """Write the shapes in a text as `[batch, 3]`, for what cannot show the other sign."""
    return _SHAPE.sub(lambda found: f"[{found[0].replace(_TIMES, ', ')}]", text)


def _side(side: int | str, longest: int) -> str:
    if not isinstance(side, str):
        return f"{side}"
    is_name = side.isidentifier()  # and no formula, of which a part says nothing
    return shortened(side, longest) if is_name else printable(side) if len(side) <= longest else "…"


def label(name: str) -> str:
    """A name as it is shown: printable, and with its middle cut out where it is long."""
    text = printable(name[: 2 * _MAX_TIP])
    if len(text) <= MAX_NAME and len(name) <= 2 * _MAX_TIP:
        return text
    half = MAX_NAME // 2
    return f"{text[: half - 1]}…{printable(name[-half:])[-half:]}"


def sentence(text: str) -> str:
    """Some lines of text: printable, and with the middle cut out where names in it are long."""
    return shortened(printable(text), _MAX_TIP)


def tip(name: str) -> str:
    """The start of a name for a tool tip, printable."""
    return printable(name[:_MAX_TIP])
