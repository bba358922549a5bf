"""A model in which something else stands in place of layers' values: `patch_model()`."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.errors import InputError
from onnxscope.model.loading import Model, library_files
from onnxscope.model.value_axes import batch_axis_of
from onnxscope.pairing.match_values import match_inputs, shared_constants
from onnxscope.patching.counterparts import PairedLayers, Seen, match_seen, written_as_b
from onnxscope.patching.graph_edit import GraphEdit, PatchWriter
from onnxscope.patching.replacements import Replacement, Replacements, replacements_of
from onnxscope.patching.runs import Run, Runs
from onnxscope.runtime.session import open_session
from onnxscope.runtime.tap_outputs import expose
from onnxscope.runtime.tapped_runs import numbered, reason_without_statistics, run_tapped
from onnxscope.selection.selectors import At, Tap, select_taps

__all__ = ["patch_model", "patched_pair"]

Array = NDArray[Any]
_REPEATING = frozenset({"Loop", "Scan"})
_RECORD = "`onnxscope features MODEL -s LAYER --arrays` writes arrays that fit"


@dataclass(frozen=True, eq=False)
class _Place:
    """A value that is replaced, and by what."""

    tap: Tap
    by: Replacement

    def record(self, tap: Tap, content: Array | None = None, of: str | None = None) -> dict[str, Any]:
        """What the `model` record says of it: where, by what, and what that holds."""
        digest = None if self.by.model is None else self.by.model.digest
        if content is not None:
            told = f"{content.dtype.name}\0{content.shape}\0".encode()
            digest = hashlib.sha256(told + np.ascontiguousarray(content).tobytes()).hexdigest()
        return {
            "layer": tap.layer,
            "value": tap.name,
            "by": self.by.kind,
            "source": self.by.name,
            "of": of,
            "sha256": digest,
        }


def patch_model(model: Model, replacements: Replacements, runs: Runs, *, at: At = "post", threads: int = 0) -> Model:
    """Put something else in place of the values of layers.

    Args:
        model: It is not changed.
        replacements: By selector: `zero`; `mean`, over the samples of the input, position by position; an array or the
            path of one, whose shape is the value's, or has a side of 1 or none for the samples; or another model or the
            path of one, which is fed the same and whose layers are paired with this model's as `diff` pairs them.
        runs: What the model is fed.
        at: Where a layer's value is: after (`post`) or before (`pre`) its activation function.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Returns:
        A model of the same inputs and outputs, whose nodes have the places that they had; `replaced` says what stands
        where. Everything that read the values, in bodies too, reads what stands in their place.

    Raises:
        SelectorError: A selector matches nothing.
        InputError: A source is none, does not fit the value, or the value cannot be replaced.
        ModelError: Another model cannot be read.
        RunError: onnxruntime fails.
    """
    return patched_pair(model, replacements, runs, at=at, threads=threads)[1]


def patched_pair(
    model: Model, replacements: Replacements, runs: Runs, *, at: At = "post", threads: int = 0
) -> tuple[Model, Model]:
    """Put something else in place of the values of layers, and the values themselves, to compare both.

    Arguments and errors are those of `patch_model`.

    Returns:
        A model in which the same values are computed and read apart from the nodes around them, which onnxruntime would
        fuse with them, so that numbers differ in their last digit; and what `patch_model` returns.
    """
    places = _places(model, replacements_of(replacements), at)
    few = list(itertools.islice(runs(), 2))
    if not few:
        raise InputError(f"there is no sample to run: {model.name}")
    edit = GraphEdit(model)
    records: list[dict[str, Any]] = []
    libraries = list(model.custom_ops)
    plain = [place for place in places if place.by.model is None]
    seen = observe(model, [place.tap for place in plain], few[0], threads)
    means = _means(model, [place.tap for place in plain if place.by.kind == "mean"], seen, runs, threads)
    for place in plain:
        tap, is_seen = place.tap, seen[place.tap]
        if place.by.kind == "zero":
            edit.zero(tap, is_seen.dtype)
            records.append(place.record(tap))
            continue
        content = means[tap] if place.by.kind == "mean" else _fitting(model, place, is_seen, few)
        edit.array(tap, content, is_seen.dtype)
        records.append(place.record(tap, content))
    for donor in dict.fromkeys(place.by.model for place in places):
        if donor is not None:
            of_donor = [place for place in places if place.by.model is donor]
            records += _embed(edit, model, donor, of_donor, few[0], threads)
            libraries += donor.custom_ops
    patched = model.patched(edit.proto, edit.folder, records)
    if not model.graphs.keys() <= patched.graphs.keys():  # whoever looks into that body would look into another node
        raise InputError(f"in a body, no value before a node with a body of its own can be replaced: {model.name}")
    patched.custom_ops = library_files(list(dict.fromkeys(libraries)))
    apart = GraphEdit(model)
    for tap in edit.replaced:
        apart.own(tap)
    return model.patched(apart.proto, apart.folder, ()), patched


def observe(model: Model, taps: Sequence[Tap], run: Run, threads: int) -> dict[Tap, Seen]:
    """Return what values are in one run; of one in a body, in one round.

    Raises:
        InputError: One holds no numbers in this run.
        RunError: onnxruntime fails.
    """
    if not taps:
        return {}
    by_name = numbered(dict.fromkeys(taps))
    named = {tap: replace(tap, name=name) for name, tap in by_name.items()}
    answers, tapped = run_tapped(model, list(named.values()), lambda session: session.run(run.feeds), threads=threads)
    missed = {one.name: one.reason for one in tapped.unreachable}
    seen = {}
    for name, tap in by_name.items():
        value = answers[tapped.outputs[name]] if name in tapped.outputs else None
        reason = missed.get(name) or reason_without_statistics(tap, value)
        if reason is not None or not isinstance(value, np.ndarray):
            raise InputError(f"{printable(tap.layer)!r} cannot be replaced, {reason}: {model.name}")
        rounds = sum(model.graphs[tap.path[: depth + 1]].owner_op in _REPEATING for depth in range(len(tap.path)))
        seen[tap] = Seen(value.dtype.name, value.shape[rounds:])
    return seen


def _places(model: Model, replacements: Sequence[Replacement], at: At) -> list[_Place]:
    """Every value that is replaced."""
    places: dict[tuple[Any, str], _Place] = {}
    for by in replacements:
        taps = select_taps(model, [by.layer], at=at)
        if by.kind == "array" and len(taps) > 1:
            shown = ", ".join(printable(tap.name) for tap in taps[:5])
            raise InputError(
                f"one array in place of {len(taps)} values, {shown}: {printable(by.layer)!r}",
                hint="name one of them, as value:NAME where the layer has several",
            )
        for tap in taps:
            if tap.value not in model.graphs[tap.path].producers:
                raise InputError(
                    f"nothing computes {printable(tap.value)!r}, so nothing else can stand in its place: {model.name}",
                    hint="inputs are fed: `-i` says what; weights are changed in the file",
                )
            if (tap.path, tap.value) in places:
                raise InputError(f"replaced twice: {printable(tap.name)!r}: {model.name}")
            places[tap.path, tap.value] = _Place(tap, by)
    return list(places.values())


def _fitting(model: Model, place: _Place, seen: Seen, runs: Sequence[Run]) -> Array:
    """The array that stands in place of a value.

    Raises:
        InputError: It does not fit.
    """
    tap = place.tap
    array = place.by.read(tap.value, tap.layer)
    declared = model.shape_of(model.graphs[tap.path], tap.value)
    symbols = "" if declared is None else f" ({', '.join('?' if side is None else str(side) for side in declared)})"
    gives = f"{printable(tap.layer)!r} gives {seen.dtype} {list(seen.shape)}{symbols}"
    holds = f"{place.by.name} holds {array.dtype.name} {list(array.shape)}"
    try:
        fits = np.broadcast_shapes(array.shape, seen.shape) == seen.shape
    except ValueError:
        fits = False
    if not fits:
        raise InputError(f"{gives}, and {holds}: {model.name}", hint=_RECORD)
    if array.dtype.kind in "OUSc" or not np.can_cast(array.dtype, np.dtype(seen.dtype), "same_kind"):
        raise InputError(f"{gives}, and {holds}, which it cannot become: {model.name}", hint=_RECORD)
    with np.errstate(over="ignore"):
        narrowed = array.astype(seen.dtype)
    if array.dtype.kind == "f" and not np.isfinite(narrowed[np.isfinite(array)]).all():
        raise InputError(f"{gives}, and {holds} with numbers beyond that type: {model.name}")
    axis = batch_axis_of(len(seen.shape), tap.axes) or 0
    own = array.reshape((1,) * (len(seen.shape) - array.ndim) + array.shape)
    if len(runs) > 1 and not tap.path and own.ndim > axis and own.shape[axis] == runs[0].fed != 1:
        raise InputError(
            f"{holds}, which is one run, and there are more: {model.name}",
            hint="give an array without the axis of samples, or all samples in one run: `--batch-size`",
        )
    return array


def _means(model: Model, taps: Sequence[Tap], seen: Mapping[Tap, Seen], runs: Runs, threads: int) -> dict[Tap, Array]:
    """The mean of values over the samples, in float64, with one sample.

    Raises:
        InputError: A value has no axis of samples, changes its shape, or holds no real numbers.
    """
    for tap in taps:
        where = f"{printable(tap.layer)!r}: {model.name}"
        if tap.path:
            raise InputError(f"no mean over samples inside a body: {where}", hint=f"give zero or an array; {_RECORD}")
        if "float" not in seen[tap].dtype:
            raise InputError(f"no mean of {seen[tap].dtype}: {where}", hint="give zero or an array")
    if not taps:
        return {}
    sums: dict[Tap, Array] = {}
    count = 0
    by_name = numbered(taps)
    tapped = expose(model, [replace(tap, name=name) for name, tap in by_name.items()])
    session = open_session(model, tapped.proto, threads=threads)
    for run in runs():
        if run.fed is None or run.real is None:
            raise InputError(f"the input has no axis of samples to take a mean over: {model.name}", hint=_RECORD)
        answers = session.run(run.feeds, tapped.outputs.values())
        count += run.real
        for name, tap in by_name.items():
            value = np.asarray(answers[tapped.outputs[name]])
            axis = batch_axis_of(value.ndim, tap.axes) or 0
            if value.ndim <= axis or value.shape[axis] != run.fed:
                raise InputError(
                    f"{printable(tap.layer)!r} gives {list(value.shape)}, which has no axis of {run.fed} samples: "
                    f"{model.name}",
                    hint=_RECORD,
                )
            total = run.cut(value, axis).astype(np.float64).sum(axis=axis, keepdims=True)
            if tap in sums and sums[tap].shape != total.shape:
                raise InputError(
                    f"{printable(tap.layer)!r} gives samples of two shapes, {list(sums[tap].shape)} and "
                    f"{list(total.shape)}, which have no mean: {model.name}",
                    hint="`--size` gives pictures one size; or give zero",
                )
            sums[tap] = sums[tap] + total if tap in sums else total
    return {tap: total / count for tap, total in sums.items()}


def _embed(
    edit: GraphEdit, model: Model, donor: Model, places: Sequence[_Place], run: Run, threads: int
) -> list[dict[str, Any]]:
    """Put values of another model, which runs beside this one, in place of this one's; return a record of each."""
    fed, _ = match_inputs(model.inputs, donor.inputs)
    paired = PairedLayers(model, donor)
    pairs = {place: paired.taps(place.tap) for place in places}
    mine = observe(model, [one for one, _ in pairs.values()], run, threads)
    feeds = {one.b: one.apply(run.feeds[one.a]) for one in fed}
    others = observe(donor, [other for _, other in pairs.values()], Run(feeds, run.fed, run.real), threads)
    writer = edit.writer()
    given = shared_constants(model, donor)
    for one in fed:
        value = one.a
        value = writer.node("Transpose", [value], perm=list(one.permutation)) if one.permutation else value
        given[one.b] = writer.cast(value, one.elem_type) if one.elem_type else value
    wanted = [name for _, other in pairs.values() for name in (other.value, *(other.scale or ()))]
    rename = edit.embed(donor, wanted, given)
    records = []
    for place, (tap, other) in pairs.items():
        seen = others[other], mine[tap]
        pair = match_seen((other, tap), (other.value, tap.value), seen)
        if pair is None:
            raise InputError(
                f"{printable(tap.layer)!r} gives {list(seen[1].shape)} in {model.name} and {list(seen[0].shape)} in "
                f"{donor.name}",
                hint="the two compute different things there; replace a value that both have",
            )

        def made(writer: PatchWriter, own: str, other: Tap = other, pair: Any = pair) -> str:
            value = rename(other.value)
            if other.scale is not None:
                value = writer.node("DequantizeLinear", [value, *map(rename, other.scale)])
            sides = writer.node("Shape", [own])
            # The Reshape keeps nodes on either side apart, as beside `GraphEdit.own`.
            return writer.node("Reshape", [written_as_b(writer, value, pair, lambda: sides), sides])

        edit.value(tap, made)
        records.append(place.record(tap, of=other.layer))
    return records
