"""Names that a selector matches: globs, regular expressions, and what to say where nothing does."""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from onnxscope.base.text import printable
from onnxscope.errors import SelectorError

__all__ = ["KINDS", "Matcher", "kinds_hint", "matcher", "nothing_matches", "select_names", "split_selectors"]

Matcher = Callable[[str], bool]

KINDS = ("op", "node", "value", "rank", "re")
"""What may stand before the colon of a selector."""

_KIND = re.compile(r"([A-Za-z_]+):(.+)")
_ALIASES = {**{kind: kind for kind in KINDS}, "type": "op", "op_type": "op", "operator": "op", "name": "node"}
_MAX_COMPARED = 5000  # names looked at for a hint; comparing is slow


def matcher(pattern: str) -> Matcher:
    """Compile a glob, or `re:` with a regular expression, into a test of whole names.

    Raises:
        SelectorError: The regular expression cannot be compiled.
    """
    if pattern.startswith("re:"):
        try:
            compiled = re.compile(pattern[3:])
        except (re.error, RecursionError, OverflowError) as error:  # nested too deeply, repeated too often
            raise SelectorError(f"not a regular expression ({error}): '{printable(pattern)}'") from error
        return lambda name: compiled.fullmatch(name) is not None
    if any(character in pattern for character in "*?["):
        # A name may itself hold brackets, so the literal text always matches too.
        return lambda name: name == pattern or fnmatch.fnmatchcase(name, pattern)
    return lambda name: name == pattern


def select_names(
    candidates: Sequence[Sequence[str]],
    selectors: Sequence[str],
    *,
    where: str,
    facets: Sequence[Mapping[str, str]] = (),
    otherwise: Callable[[str, bool], set[int]] | None = None,
) -> list[int]:
    """Choose among things that have several names, such as weights by parameter, layer and initializer.

    Args:
        candidates: The names of each thing.
        selectors: Selectors. A name that is a scope chooses everything below it. None at all, or exclusions alone,
            start from everything.
        where: The model's name, for messages.
        facets: What `op:`, `node:` and `rank:` see of each thing, by prefix; without it these are part of a name.
        otherwise: What a selector chooses, or excludes, that matches none of the names. It may exclude nothing.

    Returns:
        Indices of the chosen ones, ascending.

    Raises:
        SelectorError: A selector is malformed or matches nothing.
    """
    everything = set(range(len(candidates)))

    def resolve(selector: str, *, excluding: bool = False) -> set[int]:
        kind, _, pattern = selector.partition(":")
        if facets and kind in ("op", "node", "rank"):
            matches = matcher(pattern)
            hits = {index for index in everything if matches(facets[index].get(kind, ""))}
        else:
            matches = matcher(selector.removeprefix("value:"))
            hits = {index for index in everything if any(map(matches, candidates[index]))}
        if not hits:
            scopes = (selector + ".", selector + "/")
            hits = {index for index in everything if any(name.startswith(scopes) for name in candidates[index])}
        if not hits and otherwise is not None:
            hits = otherwise(selector, excluding)
            if excluding:
                return hits
        if not hits:
            raise nothing_matches(selector, {name: None for names in candidates for name in names}, where)
        return hits

    chosen, excluded = split_selectors(selectors)
    included = set().union(*map(resolve, chosen)) if chosen else everything
    return sorted(included.difference(*(resolve(selector, excluding=True) for selector in excluded)))


def split_selectors(selectors: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what is chosen, and what is excluded, without the `!` in front.

    Raises:
        SelectorError: One of them is empty.
    """
    for selector in selectors:
        if not selector.removeprefix("!"):
            raise SelectorError(f"an empty selector: {selector!r}", hint="name a layer, or use op:Conv")
    return (
        [selector for selector in selectors if not selector.startswith("!")],
        [selector[1:] for selector in selectors if selector.startswith("!")],
    )


def nothing_matches(selector: str, known: Iterable[str], where: str) -> SelectorError:
    """Return the error that lists the names closest to a selector, or the kinds of selectors where it is of none.

    Args:
        selector: What matches nothing.
        known: What there is.
        where: The model's name.
    """
    hint = kinds_hint(selector)
    if hint is not None:
        kind = selector.partition(":")[0]
        fault = f"no kind of selector is called '{printable(kind)}', and no name is '{printable(selector)}': {where}"
        return SelectorError(fault, hint=hint)
    names = list(itertools.islice(known, _MAX_COMPARED))
    lowered = selector.lower()
    contained = [name for name in names if lowered in name.lower()]
    closest = list(dict.fromkeys([*difflib.get_close_matches(selector, names, n=4, cutoff=0.5), *contained]))[:4]
    hint = f"closest names: {', '.join(map(printable, closest))}; " if closest else ""
    return SelectorError(
        f"nothing matches the selector '{printable(selector)}': {where}",
        hint=f"{hint}`onnxscope inspect {where}` lists the layers",
    )


def kinds_hint(selector: str) -> str | None:
    """Return which kinds of selectors there are, where one starts with a kind that does not exist; else None."""
    kind = _KIND.match(selector.removeprefix("!"))
    if kind is None or kind[1] in KINDS:
        return None
    closest = difflib.get_close_matches(kind[1], _ALIASES, n=1, cutoff=0.5)
    meant = f"{_ALIASES[closest[0]]}:{printable(kind[2])}? " if closest else ""
    return f"{meant}the kinds are {', '.join(f'{kind}:' for kind in KINDS)}"
