"""What a user asks for with `--provider`, read into one record: nothing of onnxruntime is needed for it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from onnxscope.base.files import open_regular
from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.providers.plug_ins import PlugIn, plug_in_of, plug_ins

__all__ = ["CPU", "DEFAULT_RUNNING", "Optimization", "Provider", "Running", "read_optimization", "read_provider"]

Optimization = Literal["all", "extended", "basic", "none"]
"""How much onnxruntime may fuse and fold, by its own levels."""

_FORM = re.compile(r"(?P<name>.*?)(?::(?P<options>[^:=,\\/]+=.*))?", re.DOTALL)
_LIBRARY = re.compile(r"\.(so(\.\d+)*|dylib|dll)$")
_SUFFIX = "ExecutionProvider"
# onnxruntime's own, so that a record says the same however somebody has spelt it; others are taken as they are given.
_OWN = (
    *("ACL", "ArmNN", "Azure", "CANN", "CoreML", "CPU", "CUDA", "DML", "Dnnl", "JS", "MIGraphX", "Nnapi"),
    *("NvTensorRTRTX", "OpenVINO", "QNN", "RKNPU", "ROCM", "SNPE", "Tensorrt", "TVM", "VitisAI", "VSINPU"),
    *("WebGpu", "WebNN", "Xnnpack"),
)
_EXAMPLE = "for example `--provider CPU`, `--provider OpenVINO:KEY=VALUE`, or the path of a plug-in's library"


@dataclass(frozen=True)
class Provider:
    """An execution provider that was asked for.

    Attributes:
        name: onnxruntime's name of it, as far as that can be known before it is loaded: the name of the file for a
            library.
        options: What it is given, by name.
        library: The plug-in's library, resolved; None for one that onnxruntime brings.
        version: Of the plug-in's package; None where there is none.
    """

    name: str
    options: tuple[tuple[str, str], ...] = ()
    library: Path | None = None
    version: str | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether it is onnxruntime's own code for the processor."""
        return self.name == f"CPU{_SUFFIX}" and self.library is None

    @property
    def is_default(self) -> bool:
        """Whether it is what onnxruntime takes where nobody asks."""
        return self == CPU

    @property
    def text(self) -> str:
        """For people."""
        given = ", ".join(f"{name}={value}" for name, value in self.options)
        return printable(f"{self.name} with {given}" if given else self.name)

    def to_dict(self) -> dict[str, Any]:
        """What results record of it."""
        record: dict[str, Any] = {"name": self.name, "options": dict(self.options)}
        if self.version is not None:
            record["version"] = self.version
        if self.library is not None:
            with open(self.library, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            record["library"] = {"name": self.library.name, "sha256": digest}
        return record


CPU = Provider(f"CPU{_SUFFIX}")


@dataclass(frozen=True)
class Running:
    """How onnxruntime runs a model.

    Attributes:
        provider: On what.
        optimization: How much it may fuse and fold.
        threads: Within an operator; None for what is asked of a run.
    """

    provider: Provider = CPU
    optimization: Optimization = "all"
    threads: int | None = None

    @property
    def is_default(self) -> bool:
        """Whether it runs as onnxruntime does where nobody asks for anything."""
        return self == DEFAULT_RUNNING

    @property
    def text(self) -> str:
        """For people."""
        parts = [self.provider.text]
        parts += [] if self.optimization == "all" else [f"optimization {self.optimization}"]
        parts += [] if self.threads is None else [f"{self.threads} thread{'' if self.threads == 1 else 's'}"]
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """What results record of it."""
        record: dict[str, Any] = {"provider": self.provider.to_dict()}
        record |= {} if self.optimization == "all" else {"optimization": self.optimization}
        return record | ({} if self.threads is None else {"threads": self.threads})


DEFAULT_RUNNING = Running()


def read_provider(given: str | os.PathLike[str]) -> Provider:
    """Read what `--provider` was given: `NAME[:K=V,…]`.

    Args:
        given: onnxruntime's name of a provider, with or without `ExecutionProvider`; a Python package that brings a
            plug-in, or the provider that an installed one brings; or the path of a plug-in's library. Commas within
            brackets, braces or quotes part no options, so that JSON can be given.

    Raises:
        InputError: It is none of these, a package brings no plug-in, or there is no such library.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None or not match["name"].strip():
        raise InputError(f"no execution provider: {printable(repr(given))[:80]}", hint=_EXAMPLE)
    name, options = match["name"].strip(), _options(match["options"] or "", str(text))
    if _LIBRARY.search(name) or os.sep in name or (os.altsep and os.altsep in name):
        open_regular(name, hint="`--provider` names a provider, a Python package, or a plug-in's library").close()
        library = Path(name).resolve()
        return Provider(library.name, options, library)
    own = {short.lower(): f"{short}{_SUFFIX}" for short in _OWN}
    key = name.lower().removesuffix(_SUFFIX.lower())
    found = _installed(key) or (None if key in own else plug_in_of(name))
    if found is None:
        return Provider(own.get(key, name), options)
    chosen = next((one for one in found.providers if _short(one) == key), found.providers[0])
    return Provider(chosen, options, found.library, found.version)


def read_optimization(given: str) -> Optimization:
    """Read a level of optimization.

    Raises:
        InputError: There is no such level.
    """
    for level in get_args(Optimization):
        if given == level:
            return level  # type: ignore[no-any-return]
    raise InputError(
        f"no level of optimization: {printable(str(given))!r}", hint=f"one of {', '.join(get_args(Optimization))}"
    )


def _installed(key: str) -> PlugIn | None:
    """The installed plug-in that brings a provider, by its short name in small letters."""
    return next((plug_in for plug_in in plug_ins() if key in map(_short, plug_in.providers)), None)


def _short(name: str) -> str:
    return name.lower().removesuffix(_SUFFIX.lower())


def _options(text: str, given: str) -> tuple[tuple[str, str], ...]:
    options: dict[str, str] = {}
    for part in _parts(text) if text else ():
        name, found, value = part.partition("=")
        name = name.strip()
        if not name or not found or "\0" in part:
            raise InputError(
                f"no option KEY=VALUE of an execution provider: {printable(part)[:80]!r} in {printable(given)[:80]!r}",
                hint=_EXAMPLE,
            )
        if name in options:
            raise InputError(
                f"two values of the option {printable(name)[:80]!r} of an execution provider: {printable(given)[:80]!r}"
            )
        options[name] = value.strip()
    return tuple(options.items())


def _parts(text: str) -> list[str]:
    """Cut at commas, but for those within brackets, braces and quotes."""
    parts, depth, quoted, escaped = [""], 0, False, False
    for character in text:
        if character == "," and not depth and not quoted:
            parts.append("")
            continue
        parts[-1] += character
        if escaped:
            escaped = False
        elif character == "\\" and quoted:
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted:
            depth = max(depth + (character in "[{") - (character in "]}"), 0)
    return parts
