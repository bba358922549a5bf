"""From tf2onnx's graph to ours: parameters as initializers, the framework's names, nothing of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from onnxscope.converting.unread_nodes import drop_unread
from onnxscope.model.graphs import walk_graphs
from onnxscope_tensorflow.export import Exported
from onnxscope_tensorflow.inputs import InputSpec

__all__ = ["attach_parameters", "clean_model"]

_BATCH = "batch"
_IR_VERSION = 10  # the first with metadata on nodes


def attach_parameters(exported: Exported) -> tuple[str | None, ...]:
    """Turn the graph inputs that stand for parameters into initializers named by the framework's path.

    Returns:
        For each parameter its initializer, None where no node reads it, and for all of them in deployed mode.
    """
    graph = exported.model.graph
    used = {name for inner in walk_graphs(graph) for node in inner.node for name in node.input}
    taken = _names(graph) - set(exported.handles)
    renamed: dict[str, str] = {}
    tensors = []
    for handle, parameter in zip(exported.handles, exported.parameters, strict=False):
        if handle in used:
            renamed[handle] = name = _unique(parameter.name, taken)
            tensors.append(numpy_helper.from_array(parameter.value(), name))
    inputs = [value for value in graph.input if value.name not in exported.handles]
    del graph.input[:]
    graph.input.extend(inputs)
    constants = list(graph.initializer)
    del graph.initializer[:]
    graph.initializer.extend([*tensors, *constants])
    _rename(graph, renamed)
    _skip_reshapes(graph, set(renamed.values()))
    handles = exported.handles or (None,) * len(exported.parameters)
    return tuple(renamed.get(handle) if handle else None for handle in handles)


def clean_model(exported: Exported) -> None:
    """Name inputs, outputs and dynamic dimensions, and drop what tf2onnx says about itself and its temporaries."""
    model, graph = exported.model, exported.model.graph
    model.ir_version = max(model.ir_version, _IR_VERSION)
    model.doc_string = graph.doc_string = ""
    graph.name = "main"
    for inner in walk_graphs(graph):
        del inner.value_info[:]  # shapes with tf2onnx's `unk__12`; shape inference gives them better
        for node in inner.node:
            node.doc_string = ""
    own = [value.name for value in (*graph.input, *graph.output)]
    taken = _names(graph) - set(own)
    wanted = [*(spec.name for spec in exported.inputs), *exported.outputs]
    _rename(graph, {old: _unique(new, taken) for old, new in zip(own, wanted, strict=True)})
    for value, spec in zip(graph.input, exported.inputs, strict=True):
        _name_dimensions(value, spec)
    for value in graph.output:
        _name_dimensions(value, None)


def _name_dimensions(value: onnx.ValueInfoProto, spec: InputSpec | None) -> None:
    if not value.type.tensor_type.HasField("shape"):
        return
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        known = spec.shape[axis] if spec else (dim.dim_value if dim.dim_value > 0 else None)
        if known is None:
            dim.dim_param = _BATCH if axis == 0 else f"{value.name}_{axis}"
        else:
            dim.dim_value = known


def _skip_reshapes(graph: onnx.GraphProto, weights: set[str]) -> None:
    """Let nodes read a bias directly that Keras reshapes to four dimensions and TensorFlow squeezes back to one."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    direct: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Squeeze" or not all(name in constants for name in node.input[1:]):
            continue
        reshape = producers.get(node.input[0])
        if reshape is None or reshape.op_type != "Reshape" or reshape.input[0] not in weights:
            continue
        weight, shape = constants[reshape.input[0]], constants.get(reshape.input[1])
        if shape is not None and _restores(weight, shape, [constants[name] for name in node.input[1:]]):
            direct[node.output[0]] = weight.name
    outputs = {value.name for value in graph.output}
    direct = {name: weight for name, weight in direct.items() if name not in outputs}
    for inner in walk_graphs(graph):
        for node in inner.node:
            node.input[:] = [direct.get(name, name) for name in node.input]
    drop_unread(graph)


def _restores(weight: onnx.TensorProto, shape: onnx.TensorProto, axes: list[onnx.TensorProto]) -> bool:
    squeezed = tuple(int(axis) for tensor in axes for axis in numpy_helper.to_array(tensor)) or None
    try:
        reshaped = np.empty(tuple(weight.dims), bool).reshape(numpy_helper.to_array(shape))
        return reshaped.squeeze(squeezed).shape == tuple(weight.dims)
    except ValueError:
        return False


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for inner in walk_graphs(graph):
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in (*inner.input, *inner.output):
            value.name = names.get(value.name, value.name)


def _names(graph: onnx.GraphProto) -> set[str]:
    return set(_all_names(graph))


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    for inner in walk_graphs(graph):
        yield from (value.name for value in (*inner.input, *inner.output))
        yield from (tensor.name for tensor in inner.initializer)
        for node in inner.node:
            yield from node.output


def _unique(name: str, taken: set[str]) -> str:
    """Return `name`, or with a number where it is taken, and take it."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}#{number}"
    taken.add(unique)
    return unique
