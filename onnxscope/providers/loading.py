"""The execution providers that onnxruntime has here, and how a session is told to use one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxscope.base.text import first_line, printable
from onnxscope.errors import InputError, RunError
from onnxscope.providers.plug_ins import plug_ins
from onnxscope.providers.provider import Provider
from onnxscope.providers.refusals import ends_process, library_reason

__all__ = ["Chosen", "add_provider", "available", "choose"]

_SUFFIX = "ExecutionProvider"
_DEVICE = "device"  # our own option, which says on which kind of device; the provider does not see it
_LOADING = "import sys, onnxruntime; onnxruntime.register_execution_provider_library('tried', sys.argv[1])"
_registered: dict[Path, frozenset[str]] = {}


@dataclass(frozen=True)
class Chosen:
    """A provider as onnxruntime has it.

    Attributes:
        name: onnxruntime's.
        options: What it is given.
        devices: Of a plug-in, what it runs on; empty for a provider of onnxruntime's own.
    """

    name: str
    options: Mapping[str, str]
    devices: tuple[Any, ...] = ()


def choose(provider: Provider) -> Chosen:
    """Find a provider, and load the plug-in that it is from, whose code runs.

    Raises:
        InputError: There is none of that name, or no such device.
        RunError: The library is no plug-in for this onnxruntime.
    """
    import onnxruntime

    options = dict(provider.options)
    if provider.library is None:
        names = onnxruntime.get_available_providers()
        name = next((own for own in names if _short(own) == _short(provider.name)), None)
        if name is None:
            raise InputError(f"no execution provider is called '{printable(provider.name)}'", hint=available_text())
        if options and provider.is_cpu:
            raise InputError(f"{name} takes no options: {printable(', '.join(options))[:80]}", hint="leave them out")
        return Chosen(name, options)
    onnxruntime.set_default_logger_severity(4)  # what a plug-in cannot do it says in the error, too
    names = _register(provider.library)
    wanted = provider.name if provider.name in names else min(names, key=len)
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == wanted]
    kind = options.pop(_DEVICE, None)
    kinds = [device.device.type.name for device in devices]
    if kind is not None:
        devices = [device for device, own in zip(devices, kinds, strict=True) if own.lower() == kind.lower()]
    if not devices:
        shown = ", ".join(dict.fromkeys(kinds)) or "none"
        raise InputError(
            f"{printable(wanted)} has no device {printable(str(kind))!r} here", hint=f"it has: {printable(shown)}"
        )
    return Chosen(wanted, options, (devices[0],))


def add_provider(options: Any, chosen: Chosen) -> list[Any]:
    """Have sessions made with these options use a provider; returns what `InferenceSession` takes as `providers`.

    Raises:
        RunError: The provider refuses what it is given.
    """
    if not chosen.devices:
        names = [chosen.name, *(["CPUExecutionProvider"] if chosen.name != "CPUExecutionProvider" else [])]
        return [(chosen.name, dict(chosen.options)), *names[1:]] if chosen.options else names
    try:
        options.add_provider_for_devices(list(chosen.devices), dict(chosen.options))
    except Exception as error:  # onnxruntime raises many unrelated classes
        raise RunError(f"{chosen.name} refuses its options ({first_line(error)})", hint=available_text()) from error
    return []


def available() -> list[tuple[str, str]]:
    """Return what there is: each provider's name and where it is from, the packages of plug-ins included."""
    import onnxruntime

    brought = frozenset().union(*_registered.values()) if _registered else frozenset()
    rows = [(name, "onnxruntime") for name in onnxruntime.get_available_providers() if name not in brought]
    for plug_in in plug_ins():
        version = f" {plug_in.version}" if plug_in.version else ""
        rows += [(name, f"{plug_in.package}{version}") for name in plug_in.providers]
    return rows


def available_text() -> str:
    """Name what there is, for a hint."""
    shown = [name if origin == "onnxruntime" else f"{name} ({origin})" for name, origin in available()]
    return f"available: {printable(', '.join(shown))}; a plug-in is named by its package or its library's path"


def _register(library: Path) -> frozenset[str]:
    """Load a plug-in's library once, and return the names of the providers in it."""
    import onnxruntime

    if library in _registered:
        return _registered[library]
    # What was installed for this need not be tried.
    if all(plug_in.library != library for plug_in in plug_ins()) and ends_process(_LOADING, library):
        raise _no_plug_in(library, "it ends the process that loads it")
    before = {device.ep_name for device in onnxruntime.get_ep_devices()}
    try:
        onnxruntime.register_execution_provider_library(f"onnxscope {library}", str(library))
    except Exception as error:  # see above
        raise _no_plug_in(library, library_reason(error, library)) from error
    found = _names_of(library, onnxruntime.get_ep_devices(), before)
    if not found:
        raise _no_plug_in(library, "its provider finds no device here")
    _registered[library] = found
    return found


def _names_of(library: Path, devices: Sequence[Any], before: set[str]) -> frozenset[str]:
    """The providers that a library has brought; where others of the same name are there already, by its path."""
    new = {device.ep_name for device in devices} - before
    return frozenset(new) or frozenset(
        device.ep_name for device in devices if device.ep_metadata.get("library_path") == str(library)
    )


def _no_plug_in(library: Path, reason: str) -> RunError:
    return RunError(
        f"not a plug-in of execution providers ({reason}): {printable(str(library))}", hint=available_text()
    )


def _short(name: str) -> str:
    return name.lower().removesuffix(_SUFFIX.lower())
