"""A copy of the second model in which layers compute what the first one's do, as each run asks for.

    x -> B's nodes of a layer -> own -+
      -> A's nodes, A's weights ------+-> Where(switch) -> the layer's value -> whatever reads it

A value that is replaced wipes out all that came before it, so that the last layer alone would carry any difference.
Here the nodes are exchanged, and fed with what the second model holds there. One session serves every choice of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import printable
from onnxscope.comparison.layer_difference import LayerDifference
from onnxscope.comparison.result import Comparison, Undecided
from onnxscope.errors import InputError
from onnxscope.extracting.chosen_part import part_before
from onnxscope.model.loading import library_files
from onnxscope.pairing.match_values import Counterpart, shared_constants
from onnxscope.pairing.model_layers import ModelLayers, values_alike
from onnxscope.patching.counterparts import Seen, match_seen, written_as_b
from onnxscope.patching.graph_edit import GraphEdit, PatchWriter
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.session import open_session
from onnxscope.selection.selectors import Tap

__all__ = ["Exchange", "ExchangedModel", "find_exchanges"]

Array = NDArray[Any]
_CHOSEN = {  # the element types that onnxruntime's Where takes on a CPU, and in which of them others are held
    **{name: name for name in ("float32", "float64", "int32", "int64", "uint8")},
    **dict.fromkeys(("float16", "bfloat16"), "float32"),
    **dict.fromkeys(("bool", "int8", "int16", "uint16"), "int32"),
    "uint32": "int64",
}


Pair = tuple[Tap, Tap]
"""Taps at values of both models that belong together."""


@dataclass(frozen=True, eq=False)
class Exchange:
    """A layer of the second model that may compute what the first one's does.

    Attributes:
        row: Of the comparison.
        values: Taps at what both give: where they are compared first, then at further outputs of their nodes.
        inputs: Inputs of the first model that its nodes read.
        reads: For each value of the first model that they read beside these, taps there and at the second's.
    """

    row: LayerDifference
    values: tuple[Pair, ...]
    inputs: tuple[str, ...]
    reads: Mapping[str, Pair]


def find_exchanges(
    comparison: Comparison, sides: tuple[ModelLayers, ModelLayers], rows: Sequence[LayerDifference]
) -> tuple[list[Exchange], list[Undecided]]:
    """Find out which layers can be exchanged.

    Args:
        comparison: Of both models, all layers of it.
        sides: Both, in the form in which they are compared.
        rows: The layers and outputs that are asked for.

    Returns:
        Those that can, and why the others cannot.
    """
    known = {row: _pairs(sides, row) for row in comparison.layers if row.entire is not None and not row.incomparable}
    barred = {row.a.name: row.a.layer for row in comparison.layers if row.incomparable}
    found: list[Exchange] = []
    others: list[Undecided] = []
    for row in rows:
        values = known.get(row) or _pairs(sides, row)
        if not values or row.entire is None or row.incomparable:
            reason = row.reason or "it lies in a body, or is no node of the file"
        else:
            given = {tap.value for tap, _ in values}, {tap.value for _, tap in values}
            stops = {
                pair[0].value: pair
                for pairs in known.values()
                for pair in pairs
                if pair[0].value not in given[0] and pair[1].value not in given[1]
            }
            exchange = _exchange(sides, row, values, stops, barred)
            if isinstance(exchange, Exchange):
                found.append(exchange)
                continue
            reason = exchange
        others.append(Undecided(row.a.layer, row.a.name, reason))
    return found, others


def _exchange(
    sides: tuple[ModelLayers, ModelLayers],
    row: LayerDifference,
    values: tuple[Pair, ...],
    stops: Mapping[str, Pair],
    barred: Mapping[str, str],
) -> Exchange | str:
    """How a layer is exchanged, or why it cannot be; `barred` are values that layers with no counterpart give."""
    a, b = sides[0].model.main, sides[1].model.main
    parts = [part_before(sides[0].model, tap.value, stops) for tap, _ in values]
    inside = [output for part in parts for node in part.nodes for output in node.outputs if output in barred]
    if inside:
        return f"the first model's is computed from {printable(barred[inside[0]])}, which has another shape"
    read = [name for part in parts for name in part.inputs]
    reads = {name: stops[name] for name in read if name in stops}
    place = min(b.position(b.producers[own.value]) for _, own in values)
    late = [name for name, (_, own) in reads.items() if b.position(b.producers[own.value]) >= place]
    if late:
        return f"the first model's reads {printable(late[0])!r}, which the second computes later"
    return Exchange(row, values, tuple(dict.fromkeys(name for name in read if name in a.inputs)), reads)


def _pairs(sides: tuple[ModelLayers, ModelLayers], row: LayerDifference) -> tuple[Pair, ...]:
    """Where a row's layers are compared, then further outputs of their nodes; none of what lies in a body."""
    names = row.a.name, row.b.name
    layers = [
        next((layer for layer in side.layers if not layer.path and layer.value == name), None)
        for side, name in zip(sides, names, strict=True)
    ]
    first, second = layers
    if first is None or second is None or row.op_type == "Output":
        taps = [
            side.value_tap(name, name, layer, row.op_type)
            for side, name, layer in zip(sides, names, (row.a.layer, row.b.layer), strict=True)
        ]
        pairs = [(taps[0], taps[1])]
    else:
        x, y = values_alike(sides, (first, second))
        nodes = first.node, second.node
        is_one = len(nodes[0].outputs) == 1 or nodes[0].op_type != nodes[1].op_type
        further = () if is_one else zip(nodes[0].outputs, nodes[1].outputs, strict=False)
        values = [(x, y), *((left, right) for left, right in further if left and right and left != x and right != y)]
        pairs = [(sides[0].tap(first, x, x), sides[1].tap(second, y, y)) for x, y in values]
    is_computed = all(tap.value in side.model.main.producers for tap, side in zip(pairs[0], sides, strict=True))
    return tuple(pairs) if is_computed else ()


class ExchangedModel:
    """The second model, with both computations of some layers.

    Attributes:
        exchanges: The layers that can be exchanged.
        others: Those that turned out not to, and why.
        runs: How often it was run.
    """

    def __init__(
        self,
        sides: tuple[ModelLayers, ModelLayers],
        found: Sequence[Exchange],
        feeds: tuple[Mapping[str, Array], Mapping[str, Array]],
        options: RunOptions,
    ) -> None:
        """Build it, for what both models are fed in one run.

        Raises:
            InputError: The second model's operator set is too old.
            RunError: onnxruntime fails.
        """
        self._sides, self._feeds = sides, feeds
        taps = [
            list(dict.fromkeys(pair[side] for each in found for pair in (*each.values, *each.reads.values())))
            for side in (0, 1)
        ]
        self._pilots = [Pilot(side.model, some, options) for side, some in zip(sides, taps, strict=True)]
        for pilot, fed in zip(self._pilots, feeds, strict=True):
            pilot.run(fed)
        first, second = (side.model for side in sides)
        self._edit = GraphEdit(second)
        self._constants = shared_constants(second, first)
        self._fed: dict[str, Array] = {}
        self.exchanges: list[Exchange] = []
        self.others: list[Undecided] = []
        self.runs = 0
        for each in found:
            reason = self._append(each)
            if reason is None:
                self.exchanges.append(each)
            else:
                self.others.append(Undecided(each.row.a.layer, each.row.a.name, reason))
        model = second.patched(self._edit.proto, self._edit.folder, ())
        model.custom_ops = library_files(list(dict.fromkeys([*first.custom_ops, *second.custom_ops])))
        self._session = open_session(model, threads=options.threads)

    def run(self, chosen: Collection[int], outputs: Collection[str]) -> dict[str, Any]:
        """Return outputs of the second model where the chosen exchanges are made, given by their places."""
        self.runs += 1
        switches = {self._switch(place): np.array(place in chosen) for place in range(len(self.exchanges))}
        return self._session.run({**self._feeds[1], **self._fed, **switches}, outputs)

    def _switch(self, place: int) -> str:
        return f"{self._edit.prefix}switch_{place}"

    def _append(self, each: Exchange) -> str | None:
        """Append one exchange, or say why it cannot be made."""
        writer = self._edit.writer()
        given = dict(self._constants)
        results: list[tuple[Pair, Counterpart]] = []
        for theirs, own in each.values:
            result = self._matched((0, theirs), (1, own))
            if isinstance(result, str):
                return result
            if result.dtype_b not in _CHOSEN:
                return f"onnxruntime cannot choose between values of {result.dtype_b}"
            results.append(((theirs, own), result))
        codes: dict[str, tuple[str, tuple[str, ...]]] = {}
        for name, (theirs, own) in each.reads.items():
            pair = self._matched((1, own), (0, theirs))
            if isinstance(pair, str):
                return f"of what it reads, {pair}"
            value = written_as_b(writer, _real(writer, own, own.value), pair, partial(writer.integers, pair.shape_b))
            if theirs.scale is not None:
                codes[f"{self._edit.prefix}codes_{len(self.exchanges)}_{len(codes)}"] = value, theirs.scale
            given[name] = value if theirs.scale is None else list(codes)[-1]
        given |= {name: self._input(name) for name in each.inputs}
        wanted = [name for theirs, _ in each.values for name in (theirs.value, *(theirs.scale or ()))]
        wanted += [name for _, scale in codes.values() for name in scale]
        try:
            rename = self._edit.embed(self._sides[0].model, wanted, given)
        except InputError as error:
            return str(error)
        for name, (value, scale) in codes.items():
            writer.give("QuantizeLinear", [value, *map(rename, scale)], name)
        switch = self._switch(len(self.exchanges))
        self._edit.proto.graph.input.append(onnx.helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
        for (theirs, own), result in results:
            self._edit.value(own, _Choice(switch, theirs, own, rename, result))
        return None

    def _matched(self, a: tuple[int, Tap], b: tuple[int, Tap]) -> Counterpart | str:
        """How one value becomes another, each given with the side that it is of; or why it does not."""
        seen = []
        for side, tap in (a, b):
            pilot = self._pilots[side]
            if tap not in pilot.shapes:
                return f"{printable(tap.value)!r} holds no numbers: {pilot.reasons.get(tap, 'it is not computed')}"
            seen.append(Seen(pilot.kinds[tap], pilot.shapes[tap]))
        pair = match_seen((a[1], b[1]), (a[1].value, b[1].value), (seen[0], seen[1]))
        if pair is None:
            shapes = {side: list(one.shape) for one, (side, _) in zip(seen, (a, b), strict=True)}
            return f"{printable(a[1].layer)!r} gives {shapes[0]} in the first model and {shapes[1]} in the second"
        return pair

    def _input(self, name: str) -> str:
        """An input of the first model, which is fed beside those of the second."""
        own = f"{self._edit.prefix}fed_{name}"
        if own not in self._fed:
            self._fed[own] = self._feeds[0][name]
            value = next(value for value in self._sides[0].model.proto.graph.input if value.name == name)
            self._edit.proto.graph.input.add().CopyFrom(value)
            self._edit.proto.graph.input[-1].name = own
        return own


@dataclass(frozen=True)
class _Choice:
    """Writes what is the first model's value or the second's own.

    Attributes:
        switch: The name of the input that says which.
        theirs: Where the first model has it.
        own: Where the second has it.
        rename: Under which name a value of the first stands in the graph.
        pair: How the first's becomes the second's.
    """

    switch: str
    theirs: Tap
    own: Tap
    rename: Callable[[str], str]
    pair: Counterpart

    def __call__(self, writer: PatchWriter, value: str) -> str:
        other = self.rename(self.theirs.value)
        if self.theirs.scale is not None:
            other = writer.node("DequantizeLinear", [other, *map(self.rename, self.theirs.scale)])
        other = written_as_b(writer, other, self.pair, lambda: writer.node("Shape", [value]))
        return _chosen(writer, self.switch, other, _real(writer, self.own, value), self.pair.dtype_b)


def _real(writer: PatchWriter, tap: Tap, value: str) -> str:
    """The real numbers that a value of the second model stands for."""
    return value if tap.scale is None else writer.node("DequantizeLinear", [value, *tap.scale])


def _chosen(writer: PatchWriter, switch: str, other: str, own: str, dtype: str) -> str:
    """Append what is the one value or the other."""
    held = _CHOSEN[dtype]
    if held != dtype:
        elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(held))
        other, own = writer.cast(other, elem_type), writer.cast(own, elem_type)
    value = writer.node("Where", [switch, other, own])
    return value if held == dtype else writer.cast(value, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
