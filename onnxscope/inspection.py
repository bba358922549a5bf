"""What a model says about itself, without running it: `inspect()`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from onnxscope.model import InputSpec, Model, load_model
from onnxscope.names import Names
from onnxscope.selectors import select_taps
from onnxscope.shapes import infer_types
from onnxscope.structure import Graph, Node
from onnxscope.tables import Table

__all__ = ["LayerRecord", "ModelSummary", "inspect"]


@dataclass(frozen=True)
class LayerRecord:
    """One layer as the model declares it.

    Attributes:
        layer: Its name in the source framework.
        op_type: Its operator.
        value: The value that it produces.
        shape: As declared, else as inferred; None where neither tells.
        parameters: Numbers in the tensors that its node uses.
        size_bytes: What they take in the file.
    """

    layer: str
    op_type: str
    value: str
    shape: tuple[int | str | None, ...] | None
    parameters: int
    size_bytes: int


@dataclass(frozen=True)
class ModelSummary:
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
        parameters: Numbers in all stored tensors.
        parameter_bytes: What they take.
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

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.inspect/1`, ready for JSON."""
        return {"schema": "onnxscope.inspect/1", **_plain(asdict(self))}

    def table(self) -> Table:
        """One row per layer."""
        columns = ("layer", "operator", "output shape", "parameters", "bytes", "value")
        rows = tuple(
            (each.layer, each.op_type, _shown_shape(each.shape), each.parameters, each.size_bytes, each.value)
            for each in self.layers
        )
        return Table(f"{len(rows)} layers", columns, rows)

    def header(self) -> str:
        """The lines above the table."""
        model = self.model
        opsets = ", ".join(f"{domain} {version}" for domain, version in model["opsets"].items())
        lines = [
            f"{model['name']}: {model['size_bytes']:,} bytes, {self.nodes:,} nodes, "
            f"{self.parameters:,} numbers stored in {self.parameter_bytes:,} bytes",
            f"producer  {model['producer'] or 'unknown'}; IR version {model['ir_version']}; opset {opsets}",
        ]
        if model["framework"]:
            preset = model["preprocess"] or "none recorded"
            lines.append(f"source    {model['framework']}, {model['source']}, {model['mode']}; pre-processing {preset}")
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            lines += [f"{kind:<9} {spec.name}  {spec.dtype} {_shown_shape(spec.shape)}" for spec in specs]
        if self.bodies:
            lines.append(f"bodies    {self.bodies} nested graphs (If, Loop, Scan)")
        if self.inlined_functions:
            lines.append(f"functions {self.inlined_functions}, inlined")
        return "\n".join(lines) + "\n"

    def __repr__(self) -> str:
        return self.header() + self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


def inspect(model: Any, *, select: str | Sequence[str] = ()) -> ModelSummary:
    """Describe a model without running it; its weights are not read.

    Args:
        model: A path, a `ModelProto` or a loaded `Model`.
        select: Selectors; none lists every layer that owns weights.

    Raises:
        ModelError: The model cannot be read.
        SelectorError: A selector matches nothing.
    """
    loaded = load_model(model)
    names = Names(loaded)
    selectors = [select] if isinstance(select, str) else list(select)
    layers = _selected(loaded, names, selectors) if selectors else _weighted(loaded, names)
    if any(layer.shape is None for _, layer in layers):
        layers = _with_inferred_shapes(loaded, layers)
    nodes = [node for graph in loaded.graphs.values() for node in graph.nodes]
    tensors = [tensor for graph in loaded.graphs.values() for tensor in graph.initializers.values()]
    return ModelSummary(
        model=loaded.to_dict(),
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        layers=tuple(layer for _, layer in layers),
        operators=dict(sorted(Counter(node.op_type for node in nodes).items(), key=lambda item: (-item[1], item[0]))),
        nodes=len(nodes),
        bodies=len(loaded.graphs) - 1,
        inlined_functions=loaded.inlined_functions,
        parameters=sum(math.prod(tensor.dims) for tensor in tensors),
        parameter_bytes=sum(loaded.storage.stored_bytes(tensor) for tensor in tensors),
    )


def _with_inferred_shapes(model: Model, layers: Sequence[tuple[Graph, LayerRecord]]) -> list[tuple[Graph, LayerRecord]]:
    inferred = infer_types(model)
    completed = []
    for graph, layer in layers:
        known = inferred.get(graph.path, {}).get(layer.value)
        shape = known.shape if layer.shape is None and known is not None else layer.shape
        completed.append((graph, replace(layer, shape=shape)))
    return completed


def _weighted(model: Model, names: Names) -> list[tuple[Graph, LayerRecord]]:
    layers = []
    for graph in model.graphs.values():
        for node in graph.nodes:
            if names.owns_weights(node):
                value = next(filter(None, node.outputs), "")
                layers.append((graph, _layer(model, names, names.layers[node], node.op_type, value, graph, node)))
    return layers


def _selected(model: Model, names: Names, selectors: Sequence[str]) -> list[tuple[Graph, LayerRecord]]:
    layers = []
    for tap in select_taps(names, selectors):
        graph = model.graphs[tap.path]
        owner = next(
            (
                node
                for node in names.modules.get(tap.layer, ())
                if names.owns_weights(node) and node.op_type == tap.op_type
            ),
            graph.producers.get(tap.value),
        )
        layers.append((graph, _layer(model, names, tap.layer, tap.op_type, tap.value, graph, owner)))
    return layers


def _layer(
    model: Model, names: Names, layer: str, op_type: str, value: str, graph: Graph, node: Node | None
) -> LayerRecord:
    declared = graph.types.get(value)
    stored = {}
    for operand in names.operands(node) if node is not None else ():
        if operand.origin is not None:
            tensor = graph.stored(operand.origin.value)
            if tensor is not None:
                stored[operand.origin.value] = tensor
    return LayerRecord(
        layer,
        op_type,
        value,
        declared.shape if declared else None,
        sum(math.prod(tensor.dims) for tensor in stored.values()),
        sum(model.storage.stored_bytes(tensor) for tensor in stored.values()),
    )


def _shown_shape(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return "?"
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
