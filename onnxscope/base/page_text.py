"""How numbers, sizes and names are written on a page."""

from __future__ import annotations

from collections.abc import Sequence

from onnxscope.base.outputs import printable
from onnxscope.base.tables import format_number, shortened

__all__ = [
    "MAX_NAME",
    "bytes_text",
    "count_text",
    "label",
    "number_text",
    "ranges_text",
    "samples_text",
    "sentence",
    "shape_text",
    "tip",
]

MAX_NAME = 96
"""Characters of a name that are shown; the tool tip has more of it."""

_MAX_TIP = 1000


def ranges_text(numbers: Sequence[int]) -> str:
    """Channel numbers as people write them: `0 to 11`, or one by one."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


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
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count} B"


def shape_text(shape: Sequence[int | str | None] | None) -> str:
    """Dimensions, `?` for one that is not known; nothing where the rank is not."""
    if shape is None:
        return ""
    return " × ".join("?" if side is None else printable(str(side))[:20] for side in shape) or "scalar"


def samples_text(count: int) -> str:
    """How many samples, in words."""
    return "1 sample" if count == 1 else f"{count:,} samples"


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
