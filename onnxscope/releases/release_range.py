"""Which releases of a package lie between two: `1.20.1..1.32.0`, in the order of versions."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.version import InvalidVersion, Version

from onnxscope.base.text import printable
from onnxscope.errors import InputError

__all__ = ["chosen_releases", "has_early_end", "read_range", "sorted_releases"]

_EXAMPLE = "for example `--release 1.20.1..1.32.0`, or `1.20.1..` up to the release that is installed"


def read_range(text: str) -> tuple[str, str]:
    """Read `FIRST..LAST`, of which one may be left out.

    Returns:
        Both ends, empty for one that is left out.

    Raises:
        InputError: It is none.
    """
    first, dots, last = text.partition("..") if isinstance(text, str) else ("", "", "")
    first, last = first.strip(), last.strip()
    try:
        versions = [Version(end) for end in (first, last) if end]
    except InvalidVersion:
        versions = []
    if not dots or not versions:
        raise InputError(f"no range of releases: {printable(str(text))[:80]!r}", hint=_EXAMPLE)
    if len(versions) == 2 and not versions[0] < versions[1]:
        raise InputError(
            f"{printable(first)} is not before {printable(last)}: nothing lies between them",
            hint="name the earlier release first",
        )
    return first, last


def has_early_end(ends: Iterable[str]) -> bool:
    """Whether one of the ends is a release before the release, which pip lists only where it is asked to."""
    return any(Version(end).is_prerelease for end in ends if end)


def sorted_releases(names: Iterable[str]) -> list[str]:
    """Releases from the first to the last by their versions; what is no version is left out."""
    versions = {}
    for name in names:
        try:
            versions[Version(name)] = name
        except InvalidVersion:
            continue
    return [versions[version] for version in sorted(versions)]


def chosen_releases(known: Iterable[str], first: str, last: str, package: str) -> list[str]:
    """Return the releases from one to another, both included.

    Args:
        known: All that can be installed.
        first: The first one; empty for the first that there is.
        last: The last one; empty for the last that there is.
        package: Whose releases, for messages.

    Raises:
        InputError: An end cannot be installed, or fewer than two releases lie between both.
    """
    releases = sorted_releases(known)
    by_version = {Version(name): place for place, name in enumerate(releases)}
    places = [0, len(releases) - 1]
    for side, end in enumerate((first, last)):
        if not end:
            continue
        if Version(end) not in by_version:
            after = sum(version < Version(end) for version in by_version)
            closest = releases[max(after - 1, 0) : after + 1]
            raise InputError(
                f"{package} {printable(end)} cannot be installed for this Python",
                hint=f"closest releases that can: {' and '.join(closest) or 'none'}",
            )
        places[side] = by_version[Version(end)]
    chosen = releases[places[0] : places[1] + 1]
    if len(chosen) < 2:
        raise InputError(
            f"{len(chosen)} release of {package} from {first or 'the first'} to {last or 'the last'}: nothing to halve",
            hint=_EXAMPLE,
        )
    return chosen
