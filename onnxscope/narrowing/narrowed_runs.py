"""One model, run with some of its layers narrowed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxscope.errors import InputError
from onnxscope.model.graphs import Node
from onnxscope.model.loading import Model
from onnxscope.narrowing.formats import Format, Scheme, narrow_values, narrow_weight, scheme_of
from onnxscope.narrowing.narrowed_layers import NarrowedLayer, Of, as_fed
from onnxscope.narrowing.sample_halves import SampleBatch
from onnxscope.narrowing.segments import OperandPlace, Segments
from onnxscope.narrowing.value_ranges import Range, RangeRule, observe_clipping, observe_ranges
from onnxscope.selection.costs import Costs

__all__ = ["MustRun", "NarrowedRuns", "work_of_nodes"]

Array = NDArray[Any]
MustRun = Literal["", "clips", "coherent"]
"""Why an error is no noise: it takes away what is beyond a range, or goes with the values."""
_USUAL_SIZE = 64  # of open dimensions, for what nodes cost
_KEPT_BYTES = 256 << 20  # of narrowed weights
_CLIPPED_SHARE = 0.1  # of an error; more of it is no noise
_NOISE = {"float16": 1e-2, "bfloat16": 5e-2}  # half precision would round a smaller one off
_USUAL_NOISE = 1e-3


@dataclass
class _Kept:
    """Narrowed weights, as far as there is room."""

    arrays: dict[tuple[Node, str], list[Array]] = field(default_factory=dict)
    size_bytes: int = 0

    def keep(self, key: tuple[Node, str], arrays: list[Array]) -> None:
        size = sum(array.nbytes for array in arrays)
        if self.size_bytes + size <= _KEPT_BYTES:
            self.arrays[key] = arrays
            self.size_bytes += size


class NarrowedRuns:
    """Runs a model with any of its layers in any format.

    Attributes:
        model: The model.
        layers: Those that can be narrowed.
        of: What of them is narrowed.
        scheme: What shares a scale in a weight, None for what is usual.
        segments: The model, cut at what is looked at.
        ranges: Of the values that are narrowed, once `observe` has seen them.
    """

    def __init__(
        self, model: Model, layers: Sequence[NarrowedLayer], *, of: Of, scheme: Scheme | None, threads: int
    ) -> None:
        """Cut the model; nothing is run yet.

        Args:
            model: It is not changed.
            layers: Those that can be narrowed.
            of: What of them is narrowed: `both` is the weights, what the layer works on, and what leaves it. Whoever
                else reads these values reads them narrowed, as in what onnxruntime's quantizer writes.
            scheme: What shares a scale in a weight.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        """
        self.model, self.layers, self.of, self.scheme = model, layers, of, scheme
        self.ranges: Mapping[str, Range] = {}
        self._kept = _Kept()
        cuts = [self.looked_at(layer) for layer in layers]
        opened: list[OperandPlace] = []
        if of != "activations":
            opened += [(layer.node, operand.position) for layer in layers for operand in layer.operands]
        if of == "both":
            cuts += [layer.data for layer in layers]
        self.segments = Segments(model, cuts, opened, work_of_nodes(model), threads)

    def looked_at(self, layer: NarrowedLayer) -> str:
        """Where the error of a layer is measured: its own output where weights are narrowed, else what leaves it."""
        return layer.own if self.of == "weights" else layer.value

    @property
    def narrowed_values(self) -> list[str]:
        """The values that need a range."""
        return list(dict.fromkeys(value for layer in self.layers for value in self._values_of(layer)))

    def share_behind(self, layer: NarrowedLayer) -> float:
        """What a run with this layer narrowed takes, as a share of a run of the model."""
        nodes = () if self.of == "activations" else (layer.node,)
        return self.segments.share_behind(nodes, self._values_of(layer))

    def _values_of(self, layer: NarrowedLayer) -> tuple[str, ...]:
        """The values of a layer that are narrowed; what a narrowed table gives is narrowed already."""
        if self.of == "weights":
            return ()
        if self.of == "activations":
            return (layer.value,)
        return (layer.data,) if layer.node.operator.looks_up else (layer.data, layer.value)

    def observe(self, batches: Iterable[SampleBatch], others: Iterable[SampleBatch], rule: RangeRule) -> None:
        """Find the ranges of what is narrowed by some samples, and what they clip of others.

        Args:
            batches: Those that ranges are from; they are walked over once or twice.
            others: Those that errors are measured on.
            rule: How.

        Raises:
            RunError: onnxruntime fails.
        """
        if self.narrowed_values:
            found = observe_ranges(self._values, batches, self.narrowed_values, rule)
            self.ranges = observe_clipping(self._values, others, found)

    def _values(self, batch: SampleBatch) -> dict[str, Array]:
        return batch.real(self.segments.run(batch.feeds, batch.samples))

    def run(
        self,
        clean: Mapping[str, Array],
        samples: int,
        layers: Collection[NarrowedLayer],
        form: Format,
        *,
        until: str | None = None,
    ) -> dict[str, Array]:
        """Run with some layers narrowed, and return what that changes, by name.

        Args:
            clean: What the segments gave of it.
            samples: How many samples that are.
            layers: Which ones.
            form: The format.
            until: Run no further than what gives this value.

        Raises:
            RunError: onnxruntime fails.
        """
        operands: dict[OperandPlace, Array | Callable[[Array], Array]] = {}
        replaced: dict[str, Callable[[Array], Array]] = {}
        for layer in layers:
            if self.of != "activations":
                for operand, weight in zip(layer.operands, self.weights(layer, form), strict=True):
                    operands[layer.node, operand.position] = weight
            replaced.update((value, self._narrowing(value, form)) for value in self._values_of(layer))
        return self.segments.rerun(clean, samples, operands=operands, replaced=replaced, until=until)

    def run_with_noise(
        self, clean: Mapping[str, Array], samples: int, layer: NarrowedLayer, *, seed: int
    ) -> dict[str, Array]:
        """Run with a layer that is a little off, and return what that changes, by name.

        Normal noise of a thousandth of their root mean square is added to what is narrowed of it: weights, or what
        leaves it. What errors of weights make of a value is no white noise, as they are the same at every place.

        Args:
            clean: What the segments gave of it.
            samples: How many samples that are.
            layer: Which one.
            seed: Of the noise; the same in every run.

        Raises:
            RunError: onnxruntime fails.
        """
        operands: dict[OperandPlace, Array | Callable[[Array], Array]] = {}
        replaced: dict[str, Callable[[Array], Array]] = {}
        if self.of != "activations":
            operands |= {
                (layer.node, weight.position): _with_noise(
                    weight.values, np.random.default_rng((seed, weight.position))
                )
                for weight in layer.weights(self.model)
            }
        if self.of != "weights":
            replaced[layer.value] = lambda value: _with_noise(value, np.random.default_rng(seed))
        return self.segments.rerun(clean, samples, operands=operands, replaced=replaced)

    def outputs(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs among some values, without constants."""
        return {name: values[name] for name in self.model.main.outputs if name in values}

    def weights(self, layer: NarrowedLayer, form: Format) -> list[Array]:
        """What a format leaves of a layer's weights, in their own element types."""
        key = layer.node, form.name
        found = self._kept.arrays.get(key)
        if found is None:
            scheme = scheme_of(form, self.scheme)
            found = [
                as_fed(narrow_weight(weight.values, form, scheme, weight.channel_axis), weight.values)
                for weight in layer.weights(self.model)
            ]
            self._kept.keep(key, found)
        return found

    def changes_nothing(self, layer: NarrowedLayer, form: Format) -> bool:
        """Whether a format holds all of a layer's weights as they are, and nothing else is narrowed."""
        if self.of != "weights":
            return False
        pairs = zip(self.weights(layer, form), layer.weights(self.model), strict=True)
        return all(np.array_equal(narrowed, weight.values) for narrowed, weight in pairs)

    def must_run(self, layer: NarrowedLayer, form: Format, own_noise: float) -> MustRun:
        """Why noise does not stand for what a format does to a layer, empty where it does.

        Args:
            layer: Which one.
            form: The format.
            own_noise: Mean square of its error at the layer.
        """
        if not form.scaled:
            return ""
        clipped = max((self.ranges[value].clipped_power for value in self._values_of(layer)), default=0.0)
        if clipped > _CLIPPED_SHARE * own_noise:
            return "clips"
        if form.is_coherent or (self.of != "activations" and scheme_of(form, self.scheme) == "channel"):
            return "coherent"
        return ""

    def _narrowing(self, name: str, form: Format) -> Callable[[Array], Array]:
        known = self.ranges.get(name)
        if known is None:
            raise InputError(f"no range is known of {name!r}")

        def narrowed(value: Array) -> Array:
            if value.dtype.kind in "iub":
                return value
            return as_fed(narrow_values(value, form, known.low, known.high), value)

        return narrowed


def work_of_nodes(model: Model) -> Callable[[Node], float]:
    """Return what tells the multiply-adds of a node for a sample, and a little for every node."""
    costs = Costs(model)
    if costs.open_dims:
        costs = Costs(model, dict.fromkeys(costs.open_dims, _USUAL_SIZE))
    return lambda node: float(costs.of(node) or 0) + 1.0


def _with_noise(values: Array, generator: np.random.Generator) -> Array:
    """Numbers with normal noise."""
    exact = values.astype(np.float64)
    finite = exact[np.isfinite(exact)]
    size = float(np.sqrt(np.square(finite).mean())) if finite.size else 0.0
    noise = generator.standard_normal(exact.shape) * (size * _NOISE.get(values.dtype.name, _USUAL_NOISE))
    return as_fed(exact + noise, values)
