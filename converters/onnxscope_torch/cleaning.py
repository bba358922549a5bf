"""Remove from an exported graph what would mislead: machine paths, doc strings, computed zero biases."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from typing import Any

import onnx

from onnxscope.converting.unread_nodes import drop_unread

__all__ = ["clean_model"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_KEPT = (_SCOPES, "pkg.torch.onnx.class_hierarchy")
_NO_SCOPE = "_empty_nn_module_stack_from_metadata_hook"  # torch.export's stand-in for "no module"
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_SHAPING = ("Cast", "CastLike", "Expand", "Identity", "Reshape", "Unsqueeze")


def clean_model(model: onnx.ModelProto) -> None:
    """Change an exporter's model in place.

    Of the metadata only the names and classes of modules stay: stack traces hold paths of this machine. Where a
    convolution has no bias, dynamo's unoptimized export computes zeros from the weight's shape; such a bias goes, and
    with it the nodes that nothing reads any more, so that the graph has what the framework's module has. Every output
    gets a name of its own.
    """
    for holder in _holders(model):
        _keep_scopes(holder.metadata_props)
        holder.doc_string = ""
    _drop_zero_biases(model.graph)
    _separate_outputs(model.graph)


def _holders(model: onnx.ModelProto) -> Iterator[Any]:
    yield model
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield graph
        yield from graph.input
        yield from graph.output
        yield from graph.value_info
        yield from graph.initializer
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                graphs.extend([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs)
    for function in model.functions:
        yield function
        yield from function.node
        yield from function.value_info


def _keep_scopes(metadata: MutableSequence[onnx.StringStringEntryProto]) -> None:
    kept = [entry for entry in metadata if entry.key in _KEPT]
    if any(entry.key == _SCOPES and _NO_SCOPE in entry.value for entry in kept):
        kept = []
    copies = [onnx.StringStringEntryProto(key=entry.key, value=entry.value) for entry in kept]
    del metadata[:]
    metadata.extend(copies)


def _drop_zero_biases(graph: onnx.GraphProto) -> None:
    producers = {name: node for node in graph.node for name in node.output}
    dropped = False
    for node in graph.node:
        if node.op_type in _CONVOLUTIONS and len(node.input) == 3 and _is_zero(node.input[2], producers):
            del node.input[2]
            dropped = True
    if dropped:
        drop_unread(graph)


def _separate_outputs(graph: onnx.GraphProto) -> None:
    """Give an output that is an input, a weight or another output a node and a name of its own."""
    taken = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    every = taken | {name for node in graph.node for name in node.output}
    for index, value in enumerate(graph.output):
        source = value.name
        if source in taken:
            value.name = f"output_{index}"
            while value.name in every:
                value.name += "_"
            every.add(value.name)
            # The optimizer of dynamo writes such a node itself, and then gives its output the input's name again.
            clash = next((node for node in graph.node if source in node.output and source in node.input), None)
            if clash is not None:
                clash.output[0] = value.name
            else:
                graph.node.add(op_type="Identity", name=f"node_{value.name}", input=[source], output=[value.name])
        taken.add(value.name)


def _is_zero(name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value is a constant zero, however shaped: follow the first inputs up to a Constant node."""
    node = producers.get(name)
    while node is not None and node.op_type in _SHAPING:
        node = producers.get(node.input[0])
    if node is None or node.op_type != "Constant":
        return False
    attribute = node.attribute[0]
    if attribute.name in ("value_float", "value_int"):
        return not (attribute.f or attribute.i)
    return attribute.name == "value" and not onnx.numpy_helper.to_array(attribute.t).any()
