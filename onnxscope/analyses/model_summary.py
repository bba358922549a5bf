"""What there is to say of a model as a whole and layer by layer, as `inspect()` finds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from onnxscope.analyses.estimators import Estimator
from onnxscope.base.results import Record, facts
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, not_finite_text, printable, shape_text
from onnxscope.model.stored_model import InputSpec
from onnxscope.operators.table import operator_of
from onnxscope.runtime.unstable_nodes import UnstableNode
from onnxscope.timing.layer_times import LayerTime, Timing

__all__ = ["CostRecord", "LayerRecord", "ModelSummary"]

_OTHER_ORDERS = {4: "PyTorch's and Keras's is i, f, c, o", 3: "PyTorch's is r, z, h"}  # by the number of gates
_LEAST = ("value", "output bytes", "bits", "bytes")
_LISTED = 5  # nodes that the lines above the table name


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


def _shown_shape(shape: tuple[int | str | None, ...] | None) -> str:
    return "?" if shape is None else shape_text(shape)


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
