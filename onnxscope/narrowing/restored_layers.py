"""What a real quantized model gains where one of its layers is put back into float."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import printable
from onnxscope.comparison.compare_models import run_diff
from onnxscope.errors import InputError
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model
from onnxscope.narrowing.narrowed_layers import NarrowedLayer
from onnxscope.narrowing.narrowed_runs import work_of_nodes
from onnxscope.narrowing.quality import Quality
from onnxscope.narrowing.sample_halves import SampleBatch
from onnxscope.narrowing.segments import Segments
from onnxscope.pairing.match_values import pair_outputs
from onnxscope.runtime.tap_outputs import Unreachable

__all__ = ["LayerPair", "Restored", "pair_layers", "restore_layers"]

Array = NDArray[Any]
_NOTHING = "no layer of the quantized model can be put back into float"
_CODES = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True, eq=False)
class LayerPair:
    """A layer in both models.

    Attributes:
        layer: Of the model in float.
        data: The value of the quantized model that the layer works on, before it is rounded to codes.
        values: What leaves the layer in the quantized model, in real numbers, and the same behind codes, for others.
        most: What the largest code stands for, where the least one stands for 0: quantizers leave out a Relu or Clip
            that the limits of codes stand for. None where there are no such limits.
    """

    layer: NarrowedLayer
    data: str
    values: tuple[str, ...]
    most: float | None


def pair_layers(
    model: Model, quantized: Model, layers: Sequence[NarrowedLayer]
) -> tuple[list[LayerPair], list[Unreachable]]:
    """Find layers in a quantized model.

    Args:
        model: In float.
        quantized: What was made of it.
        layers: Of the first.

    Returns:
        Pairs, and the layers that have no counterpart in real numbers.

    Raises:
        InputError: No layer has one.
    """
    comparison = run_diff(model, quantized, None, RunOptions())
    names = {row.a.name: row.b.name for row in comparison.layers}
    nodes = {layer.value: layer.node for layer in quantized.layers if not layer.path}
    pairs, missed = [], []
    for layer in layers:
        value = names.get(layer.value) or names.get(layer.own)
        node = nodes.get(value or "")
        if value is None or node is None or value not in quantized.main.producers:
            missed.append(Unreachable(layer.own, "the quantized model has no layer that belongs to it"))
            continue
        source = _source(quantized, quantized.main, node)
        if source is None:
            missed.append(Unreachable(layer.own, "in the quantized model it works on codes of another operator"))
        else:
            pairs.append(LayerPair(layer, source[0], _leaving(quantized.main, value), source[1]))
    if not pairs:
        raise InputError(
            _NOTHING,
            hint="; ".join(f"{printable(each.name)}: {each.reason}" for each in missed[:3]),
        )
    return pairs, missed


def _source(model: Model, graph: Graph, node: Node) -> tuple[str, float | None] | None:
    """What a node works on, in front of what makes codes of it, and their limit; None of codes of another operator."""
    weights = {operand.position for operand in model.names.operands(node)}
    names = (name for place, name in enumerate(node.inputs) if name and place not in weights)
    found = next((name for name in names if name not in graph.constants), None)
    most = None
    while found is not None and (producer := graph.producers.get(found)) is not None:
        if producer.op_type not in _CODES:
            break
        if producer.op_type == "QuantizeLinear":
            most = _most(model, graph, producer)
        found = producer.inputs[0]
    producer = graph.producers.get(found or "")
    if found is None or (producer is not None and producer.operator.gives_codes is not None):
        return None
    return found, most


def _leaving(graph: Graph, value: str) -> tuple[str, ...]:
    """A value, and what is made of it again behind codes."""
    codes = [node.outputs[0] for node in graph.readers_of(value) if node.op_type == "QuantizeLinear"]
    readers = [node for name in codes for node in graph.readers_of(name)]
    return (value, *(node.outputs[0] for node in readers if node.op_type == "DequantizeLinear"))


def _most(model: Model, graph: Graph, node: Node) -> float | None:
    """What the largest code of a QuantizeLinear stands for, where the least one stands for 0."""
    stored = [graph.stored(name) for name in (*node.inputs[1:3], "")][:2]
    if stored[0] is None or stored[1] is None:
        return None
    scale, zero = (model.array(tensor) for tensor in stored if tensor is not None)
    if scale.size != 1 or zero.size != 1 or zero.dtype.kind not in "iu":
        return None
    limits = np.iinfo(zero.dtype)
    return float(scale.item()) * (limits.max - limits.min) if int(zero.item()) == limits.min else None


@dataclass(frozen=True, eq=False)
class Restored:
    """What was measured of the quantized model.

    Attributes:
        whole: How far its outputs are off.
        with_layer: How far they are with a layer put back.
        own: How far the layer itself is, fed what reaches it in the quantized model.
        unfit: Layers that cannot be put back, with the reason.
        passes: How often the samples went through either model.
    """

    whole: Quality
    with_layer: Mapping[LayerPair, Quality]
    own: Mapping[LayerPair, Quality]
    unfit: Mapping[LayerPair, str]
    passes: float


def restore_layers(
    models: tuple[Model, Model],
    pairs: Sequence[LayerPair],
    batches: Iterable[SampleBatch],
    of_second: Callable[[Mapping[str, Array]], Mapping[str, Array]],
    *,
    threads: int,
) -> Restored:
    """Put one layer at a time back into float.

    The layer in float is fed what reaches it in the quantized model, before that is rounded, and what it makes of it
    goes on there without being rounded.

    Args:
        models: In float, and quantized.
        pairs: The layers in both.
        batches: What the first is fed.
        of_second: What the second is fed of that.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Raises:
        InputError: No layer can be put back.
        RunError: onnxruntime fails.
    """
    places = {pair: (pair.layer.node, pair.layer.node.inputs.index(pair.layer.data)) for pair in pairs}
    cuts = [name for pair in pairs for name in (pair.layer.data, pair.layer.value)]
    floating = Segments(models[0], cuts, places.values(), work_of_nodes(models[0]), threads)
    cuts = [name for pair in pairs for name in (pair.data, *pair.values)]
    quantized = Segments(models[1], cuts, (), work_of_nodes(models[1]), threads, optimize=False)
    outputs = pair_outputs(*models)
    whole, samples, unfit = Quality(), 0, dict[LayerPair, str]()
    with_layer = {pair: Quality() for pair in pairs}
    own = {pair: Quality() for pair in pairs}
    for batch in batches:
        samples += batch.samples
        clean = floating.run(batch.feeds, batch.samples)
        rounded = quantized.run(of_second(batch.feeds), batch.samples)
        reference = batch.real({a: clean[a] for a, _ in outputs})
        whole.add(reference, batch.real({a: rounded[b] for a, b in outputs}))
        for pair, place in places.items():
            data, before = clean[pair.layer.data], rounded[pair.values[-1]]
            made = None
            if pair not in unfit and _is_alike(data, rounded[pair.data]):
                reached = rounded[pair.data]
                reached = reached if pair.most is None else reached.clip(0, pair.most)
                operands = {place: reached.astype(data.dtype)}
                changed = floating.rerun(clean, batch.samples, operands=operands, until=pair.layer.value)
                made = changed.get(pair.layer.value)
            if made is None or not _is_alike(made, before):
                unfit[pair] = "its values have other axes or types in the quantized model"
                continue
            own[pair].add(batch.real({"": made}), batch.real({"": before}))
            injected = dict.fromkeys(pair.values, made.astype(before.dtype))
            after = quantized.rerun(rounded, batch.samples, injected=injected)
            with_layer[pair].add(reference, batch.real({a: after.get(b, rounded[b]) for a, b in outputs}))
    found = {pair: quality for pair, quality in with_layer.items() if pair not in unfit}
    if not found:
        raise InputError(_NOTHING, hint=next(iter(unfit.values()), None))
    return Restored(whole, found, own, unfit, (floating.passes + quantized.passes) / samples)


def _is_alike(one: Array, other: Array) -> bool:
    """Whether an array may stand in place of another one."""
    return one.shape == other.shape and _is_real(one) == _is_real(other)


def _is_real(array: Array) -> bool:
    return array.dtype.kind == "f" or "float" in array.dtype.name
