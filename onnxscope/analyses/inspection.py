"""What a model says about itself, without running it, and where asked what takes the time of a run: `inspect()`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

from onnx import TensorProto

from onnxscope.analyses.estimators import Estimator, describe_estimator
from onnxscope.analyses.odd_numbers import Odd, find_odd_numbers
from onnxscope.base import option_types
from onnxscope.base.results import Record, facts
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, not_finite_text, printable, shape_text
from onnxscope.errors import InputError
from onnxscope.model.encodings import encoding_of
from onnxscope.model.graphs import Graph, Node, Step
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.model.stored_model import InputSpec
from onnxscope.operators.table import operator_of
from onnxscope.runtime.unstable_nodes import UnstableNode, find_unstable
from onnxscope.selection.costs import Costs
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.selection.known_shapes import known_shapes
from onnxscope.selection.selectors import At, select_layers
from onnxscope.selection.sizes import name_sizes
from onnxscope.timing.layer_times import LayerTime, Timing
from onnxscope.timing.time_model import REPEATS, time_model

__all__ = ["CostRecord", "LayerRecord", "ModelSummary", "inspect", "run_inspect"]

_OTHER_ORDERS = {4: "PyTorch's and Keras's is i, f, c, o", 3: "PyTorch's is r, z, h"}  # by the number of gates
_LEAST = ("value", "output bytes", "bits", "bytes")
_LISTED = 5  # nodes that the lines above the table name

_Shapes = Mapping[tuple[Step, ...], Mapping[str, tuple[int | str | None, ...]]]


@dataclass(frozen=True)
class LayerRecord:
    """One layer as the model declares it.

    Attributes:
        layer: Its name in the source framework.
        op_type: Its operator.
        value: The value that it produces.
        shape: As declared, else as inferred; None where neither tells.
        parameters: Numbers in the tensors that its node uses: real ones, however many of them share a byte.
        size_bytes: What they take in the file.
        multiply_accumulates: For one sample, see `Costs`; None for operators that do not multiply and add, and where
            a size is not known.
        nan_count: NaN among these numbers; None where they were not looked at.
        inf_count: Infinities of either sign, likewise.
        bits: Of a code of its weight, the fewest of several; None where no weight of it is quantized.
        output_bytes: What its value takes in one run; None where a size is not known.
        estimator: The trees, coefficients or support vectors in its node's attributes; None where there are none.
        time: What it takes of a run; None where nothing was measured, and where another one's time holds its.
        timed_in: The layer whose time holds its: onnxruntime runs both as one node. None for none.
    """

    layer: str
    op_type: str
    value: str
    shape: tuple[int | str | None, ...] | None
    parameters: int
    size_bytes: int
    multiply_accumulates: int | None = None
    nan_count: int | None = None
    inf_count: int | None = None
    bits: int | None = None
    output_bytes: int | None = None
    estimator: Estimator | None = None
    time: LayerTime | None = None
    timed_in: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; what was not measured is left out."""
        record: dict[str, Any] = _plain(asdict(replace(self, time=None)))
        del record["time"], record["timed_in"]
        if self.time is not None:
            record |= {"ms": self.time.ms, "time_share": round(self.time.share, 6)}
        return record if self.timed_in is None else {**record, "timed_in": self.timed_in}


@dataclass(frozen=True)
class CostRecord:
    """What a model costs, all its layers together.

    Attributes:
        dims: The sizes that symbolic dimensions were given, or taken to have.
        multiply_accumulates: Of all nodes for which they are known, for one sample or for one run of these sizes.
        between_values: Those among them of products of two activations: attention's scores and what these weigh.
        known: Nodes of which they are known.
        nodes: Nodes that multiply and add.
        open_dims: Symbolic dimensions of inputs without a size.
        cache_bytes_per_token: What a key-value cache takes for each further token of a sequence, None without one.
    """

    dims: dict[str, int]
    multiply_accumulates: int
    between_values: int
    known: int
    nodes: int
    open_dims: tuple[str, ...]
    cache_bytes_per_token: int | None

    def text(self) -> str:
        """What there is to say of them, in one line; empty for a model that does not multiply."""
        if not self.nodes:
            return ""
        sizes = ", ".join(f"{name}={size}" for name, size in self.dims.items())
        line = f"{self.multiply_accumulates:,}" if self.known else "not known"
        line += f" with {sizes}" if sizes and self.known else ""
        if self.between_values:
            line += f"; {self.between_values:,} of them in products of two activations"
        if self.known < self.nodes:
            line += f"; known for {self.known} of {counted(self.nodes, 'layer')}"
            line += f", --dim {self.open_dims[0]}=SIZE says more" if self.open_dims else ""
        return line


@dataclass(frozen=True)
class ModelSummary(Record):
    """A model's inputs, outputs, layers and size.

    Attributes:
        model: The `model` record.
        inputs: What must be fed.
        outputs: The declared outputs.
        layers: Layers that own weights, or those that were selected, in execution order.
        operators: How many nodes each operator has, bodies included, the most frequent first.
        nodes: Nodes altogether, bodies included.
        bodies: Nested graphs (If, Loop, Scan).
        inlined_functions: Local functions that were inlined.
        parameters: Numbers in all stored tensors, initializers and constants; a local function's count once.
        parameter_bytes: What they take.
        unstable: Nodes that are random or carry state, with what they reach.
        costs: What the whole model costs, whatever was selected.
        timing: What takes the time of a run; None where nobody asked.
    """

    model: dict[str, Any]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[InputSpec, ...]
    layers: tuple[LayerRecord, ...]
    operators: dict[str, int]
    nodes: int
    bodies: int
    inlined_functions: int
    parameters: int
    parameter_bytes: int
    unstable: tuple[UnstableNode, ...] = ()
    costs: CostRecord = CostRecord({}, 0, 0, 0, 0, (), None)
    timing: Timing | None = None

    frame_keys = ("layers",)

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.inspect/1`, ready for JSON."""
        record = _plain(asdict(replace(self, unstable=(), layers=(), timing=None)))
        record |= {"layers": [layer.to_dict() for layer in self.layers]}
        record |= {"unstable": [node.to_dict() for node in self.unstable]}
        del record["timing"]
        timing = {} if self.timing is None else {"timing": self.timing.to_dict()}
        return {"schema": "onnxscope.inspect/1", **record, **timing}

    def table(self) -> Table:
        """One row per layer."""
        columns = ("layer", "operator", "output shape", "parameters", "bytes", "multiply-adds", "output bytes", "value")
        rows = tuple(
            (
                layer.layer,
                layer.op_type,
                "?" if layer.shape is None else layer.shape,
                layer.parameters,
                layer.size_bytes,
                layer.multiply_accumulates,
                layer.output_bytes,
                layer.value,
            )
            for layer in self.layers
        )
        counts = ((row.parameters, row.size_bytes, row.multiply_accumulates, row.output_bytes) for row in self.layers)
        sums = [sum(filter(None, column)) or None for column in zip(*counts, strict=True)]
        total = ("total", None, None, *sums, None) if len(rows) > 1 else ()
        marks = [not_finite_text(layer.nan_count, layer.inf_count) for layer in self.layers]
        bits = ["" if layer.bits is None else f"{layer.bits}" for layer in self.layers]
        table = Table(counted(len(rows), "layer"), columns, rows, _LEAST, total=total).with_marks("bits", bits)
        table = table.with_marks("not finite", marks)
        return table if self.timing is None else self._timed(table)

    def _timed(self, table: Table) -> Table:
        """The table with what each layer takes of a run."""
        columns = ("ms", "share %", "multiply-adds a second")
        place = table.columns.index("value")
        rows: list[tuple[Cell, ...]] = []
        for layer, row in zip(self.layers, table.rows, strict=True):
            cells: tuple[Cell, ...] = (f"in {layer.timed_in}" if layer.timed_in else None, None, None)
            rows.append((*row[:place], *(cells if layer.time is None else layer.time.cells()), *row[place:]))
        heads = (*table.columns[:place], *columns, *table.columns[place:])
        total: tuple[Cell, ...] = ()
        if table.total:
            times = [layer.time for layer in self.layers if layer.time is not None]
            sums = sum(time.ms for time in times), round(100 * sum(time.share for time in times), 2), None
            total = (*table.total[:place], *sums, *table.total[place:])
        return replace(table, columns=heads, rows=tuple(rows), total=total)

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say above the table, as pairs of a word and a line."""
        model = self.model
        opsets = ", ".join(f"{domain} {version}" for domain, version in model["opsets"].items())
        size = (
            f"{model['size_bytes']:,} bytes, {self.nodes:,} nodes, "
            f"{self.parameters:,} numbers stored in {self.parameter_bytes:,} bytes"
        )
        producer = f"{model['producer'] or 'unknown'}; IR version {model['ir_version']}; opset {opsets}"
        pairs = [(model["name"], size), ("producer", producer)]
        if model["framework"]:
            preset = model["preprocess"] or "none recorded"
            source = f"{model['framework']}, {model['source']}, {model['mode']}; pre-processing {preset}"
            pairs.append(("source", source))
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            pairs += [(kind, f"{spec.name}  {spec.dtype} {_shown_shape(spec.shape)}") for spec in specs]
        if self.costs.text():
            pairs.append(("multiply-adds", self.costs.text()))
        if self.timing is not None:
            pairs.append(("time", self.timing.text()))
            pairs += [("memory", text) for text in (self.timing.memory_text(),) if text]
        if self.costs.cache_bytes_per_token:
            pairs.append(("cache", f"{self.costs.cache_bytes_per_token:,} bytes for each token of a sequence"))
        pairs += [("gates", f"{kind} holds its gates in ONNX's order, {order}") for kind, order in self._gates()]
        learned = [layer for layer in self.layers if layer.estimator is not None]
        pairs += [(layer.layer, layer.estimator.text()) for layer in learned[:_LISTED] if layer.estimator]
        if self.bodies:
            pairs.append(("bodies", f"{self.bodies} nested graphs (If, Loop, Scan)"))
        if any(layer.nan_count is None for layer in self.layers):
            pairs.append(("numbers", "NaN and infinities were not looked for in all of them; `weights` counts them"))
        if self.inlined_functions:
            pairs.append(("functions", f"{self.inlined_functions}, inlined"))
        pairs += [(node.kind, node.message) for node in self.unstable[:_LISTED]]
        if len(self.unstable) > _LISTED:
            pairs.append(("", f"{len(self.unstable) - _LISTED:,} more nodes like these; --format json lists them"))
        return pairs

    def _gates(self) -> list[tuple[str, str]]:
        """The operators of recurrent layers with the order of their gates, and PyTorch's where that is another one."""
        orders = {layer.op_type: operator_of(layer.op_type).gates for layer in self.layers}
        return [(kind, f"{', '.join(gates)} ({_OTHER_ORDERS[len(gates)]})") for kind, gates in orders.items() if gates]

    def header(self) -> str:
        """The lines above the table."""
        (name, size), *others = self.facts()
        lines = [f"{name}: {size}", *(f"{word:<9} {line}" for word, line in others)]
        return "\n".join(map(printable, lines)) + "\n"

    def html_parts(self) -> tuple[str, ...]:
        """What there is to say of the model as a whole, and its layers."""
        (name, size), *others = self.facts()
        return facts(name, [("size", size), *others]), self.table().html()

    def __repr__(self) -> str:
        return self.header() + self.table().text()


@option_types.checked
def inspect(
    model: Any,
    inputs: Any = None,
    *,
    select: str | Sequence[str] = (),
    at: At = "post",
    dims: Mapping[str, int] | None = None,
    time: bool = False,
    repeats: int = REPEATS,
    threads: int = 0,
    custom_ops: CustomOps = (),
    **feeding: Unpack[FeedingOptions],
) -> ModelSummary:
    """Describe a model, without running it where no time is asked for.

    Its weights are looked at for NaN and infinities alone, up to 256 MB.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        inputs: What it is run on where time is measured, as for `features`.
        select: Selectors; none lists every layer that owns weights.
        at: Whether the value of a selected layer is the one after (`post`) or before (`pre`) its activation function.
        dims: Sizes of open dimensions, by name or as `INPUT:AXIS`, for shapes, multiply-adds and bytes.
        time: Whether the model is run, to say what each layer takes.
        repeats: How many runs are measured, after two that are not; the median counts.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        custom_ops: Libraries of custom operators that onnxruntime loads; their code runs.
        feeding: How what is given becomes the model's inputs, where it is run: see `FeedingOptions`.

    Raises:
        ModelError: The model cannot be read.
        InputError: It has no such dimension; or it is to be run, and the inputs do not fit.
        SelectorError: A selector matches nothing.
        RunError: onnxruntime fails.
    """
    if not time:
        loaded, sizes = name_sizes(load_model(model, custom_ops=custom_ops), dims or {})
        return run_inspect(loaded, select=select, at=at, dims=sizes)
    if inputs is None:
        raise InputError("nothing is fed, so nothing takes time", hint="name an input; `random` will do")
    options = RunOptions(**feeding, threads=threads)
    loaded, options = load_to_run(model, options, inputs, custom_ops=custom_ops, dims=dims)
    timing = time_model(loaded, inputs, options, repeats=repeats)
    return run_inspect(loaded, select=select, at=at, dims=name_sizes(loaded, dims or {})[1], timing=timing)


def run_inspect(
    loaded: Model,
    *,
    select: str | Sequence[str] = (),
    at: At = "post",
    dims: Mapping[str, int] | None = None,
    read: bool = True,
    timing: Timing | None = None,
) -> ModelSummary:
    """Describe a model without running it; see `inspect`.

    Args:
        loaded: The model.
        select: As for `inspect`.
        at: As for `inspect`.
        dims: As for `inspect`.
        read: Whether weights are looked at for what is not finite.
        timing: What takes the time of a run of this model; None where that was not measured.

    Raises:
        InputError: The model has no such dimension.
        SelectorError: A selector matches nothing.
    """
    selectors = [select] if isinstance(select, str) else list(select)
    declared: list[tuple[Node | None, LayerRecord]] = []
    if selectors:
        for node, (tap,) in select_layers(loaded, selectors, at=at):
            layer = _layer(loaded, tap.layer, tap.op_type, tap.value, loaded.graphs[tap.path], node)
            declared.append((node, layer))
    else:
        for node in loaded.names.weighted:
            value = next(filter(None, node.outputs), "")
            layer = _layer(loaded, loaded.names.layers[node], node.op_type, value, loaded.graphs[node.path], node)
            declared.append((node, layer))
    costs = Costs(loaded, dims)
    shapes: _Shapes = {}
    if any(layer.shape is None for _, layer in declared):
        shapes = {
            path: known_shapes(loaded, graph, loaded.types.get(path, graph.types))
            for path, graph in loaded.graphs.items()
        }
    layers = [_completed(loaded, node, layer, costs, shapes, bound=bool(dims)) for node, layer in declared]
    if read:
        layers = _with_odd_numbers(loaded, [node for node, _ in declared], layers)
    if timing is not None:
        layers = [_timed(layer, node, timing) for (node, _), layer in zip(declared, layers, strict=True)]
    nodes = [node for graph in loaded.graphs.values() for node in graph.nodes]
    return ModelSummary(
        model=loaded.to_dict(),
        inputs=loaded.declared_inputs,
        outputs=loaded.outputs,
        layers=tuple(layers),
        operators=dict(sorted(Counter(node.op_type for node in nodes).items(), key=lambda item: (-item[1], item[0]))),
        nodes=len(nodes),
        bodies=len(loaded.graphs) - 1,
        inlined_functions=loaded.inlined_functions,
        parameters=loaded.stored_count,
        parameter_bytes=loaded.stored_bytes,
        unstable=find_unstable(loaded),
        costs=_costs(loaded, costs, nodes),
        timing=timing,
    )


def _timed(layer: LayerRecord, node: Node | None, timing: Timing) -> LayerRecord:
    """The record with what its node takes of a run, or whose time holds that."""
    time = None if node is None else timing.of(node)
    holder = None if node is None or time is not None else timing.holder(node)
    return replace(layer, time=time, timed_in=None if holder is None else holder.layer)


def _completed(
    model: Model, node: Node | None, layer: LayerRecord, costs: Costs, shapes: _Shapes, *, bound: bool
) -> LayerRecord:
    """The record with the shape that was inferred, or that is bound to sizes, and the cost that follows from it."""
    graph = model.main if node is None else model.graphs[node.path]
    shape = shapes.get(graph.path, {}).get(layer.value) if layer.shape is None else layer.shape
    sizes = costs.shape(graph.path, layer.value)
    return replace(
        layer,
        shape=sizes if bound and sizes is not None else shape,
        multiply_accumulates=None if node is None else costs.of(node),
        output_bytes=costs.value_bytes(graph.path, layer.value),
    )


def _costs(model: Model, costs: Costs, nodes: Sequence[Node]) -> CostRecord:
    """What all nodes cost together."""
    weighted = set(model.names.weighted)
    found = [(node, costs.of(node)) for node in nodes if costs.counts(node)]
    return CostRecord(
        dims=costs.dims,
        multiply_accumulates=sum(cost or 0 for _, cost in found),
        between_values=sum(cost or 0 for node, cost in found if node not in weighted),
        known=sum(cost is not None for _, cost in found),
        nodes=len(found),
        open_dims=costs.open_dims,
        cache_bytes_per_token=costs.cache_bytes(),
    )


def _with_odd_numbers(model: Model, nodes: Sequence[Node | None], layers: Sequence[LayerRecord]) -> list[LayerRecord]:
    """The records with what is not finite in the tensors of each node."""
    stored = [[] if node is None else list(_stored(model, node).values()) for node in nodes]
    counts = find_odd_numbers(model, (tensor for tensors in stored for tensor in tensors))

    def total(tensors: Sequence[TensorProto]) -> tuple[int | None, int | None]:
        odd: list[Odd] = [counts[id(tensor)] for tensor in tensors if id(tensor) in counts]
        if len(odd) < len(tensors):
            return None, None
        return sum(nan for nan, _ in odd), sum(inf for _, inf in odd)

    totals = [total(tensors) for tensors in stored]
    return [replace(layer, nan_count=nan, inf_count=inf) for layer, (nan, inf) in zip(layers, totals, strict=True)]


def _stored(model: Model, node: Node) -> dict[str, TensorProto]:
    """The stored tensors that a node uses, by name."""
    graph = model.graphs[node.path]
    values = [operand.origin.value for operand in model.names.operands(node) if operand.origin is not None]
    tensors = {value: graph.stored(value) for value in values}
    return {value: tensor for value, tensor in tensors.items() if tensor is not None}


def _layer(model: Model, layer: str, op_type: str, value: str, graph: Graph, node: Node | None) -> LayerRecord:
    declared = graph.types.get(value)
    stored = {} if node is None else _stored(model, node)
    sizes = {name: math.prod(tensor.dims) for name, tensor in stored.items()}
    bits = []
    for operand in model.names.operands(node) if node is not None else ():
        encoding = encoding_of(graph, operand)
        if encoding is not None and operand.origin is not None:
            sizes[operand.origin.value] = math.prod(encoding.shape)
            bits += [encoding.bits] if operand.role.startswith("weight") else []
    estimator = None if node is None else describe_estimator(node)
    return LayerRecord(
        layer=layer,
        op_type=op_type,
        value=value,
        shape=declared.shape if declared else None,
        parameters=sum(sizes.values()) + (sum(estimator.numbers.values()) if estimator else 0),
        size_bytes=sum(model.storage.stored_bytes(tensor) for tensor in stored.values())
        + (estimator.size_bytes if estimator else 0),
        bits=min(bits, default=None),
        estimator=estimator,
    )


def _shown_shape(shape: tuple[int | str | None, ...] | None) -> str:
    return "?" if shape is None else shape_text(shape)


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
