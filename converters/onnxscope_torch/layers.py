"""Which layer of the module each node belongs to, and a record of it where the exporter's own would mislead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping

import onnx
from torch import nn

from onnxscope.model.provenance import LAYER_KEY
from onnxscope_torch.bits import digest, state_tensors

__all__ = ["layer_of", "node_layers", "record_layers"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_MULTIPLYING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_CALL = re.compile(r"_\d+$")  # legacy counts the calls of one module: conv, conv_1, conv_2


def layer_of(parameter: str) -> str:
    """Return a state_dict key without the variable: `features.0` of `features.0.weight`."""
    return parameter.rpartition(".")[0]


def node_layers(model: onnx.ModelProto, module: nn.Module) -> list[str]:
    """Return the layer of each node of the main graph, `""` for the module itself.

    The exporter's scope decides, unless the node reads parameters of one other layer only: functional code such as
    multi-head attention computes with its children's weights, and a BatchNorm's scope stays on the convolution that
    it was folded into.

    Args:
        model: As exported.
        module: What was exported.
    """
    modules = {name for name, _ in module.named_modules(remove_duplicate=False)}
    owners = _owners(model.graph, _owning_layers(model, module))
    layers = []
    for node, owned in zip(model.graph.node, owners, strict=True):
        scope = _dynamo_scope(node)
        if scope is None:
            scope = _legacy_scope(node.name, modules)
        if scope not in owned:
            inner = [owner for owner in owned if owner.startswith(f"{scope}." if scope else "")]
            nearest = inner if len(inner) == 1 else list(owned)
            if len(nearest) == 1 and nearest[0]:
                scope = nearest[0]
        layers.append(scope)
    return layers


def record_layers(model: onnx.ModelProto, layers: list[str], initializers: Iterable[str]) -> None:
    """Write `layers` into the metadata of the nodes that read weights, unless scope and weight already say so."""
    stored = {name: {layer_of(name)} for name in initializers}
    for node, layer, reads in zip(model.graph.node, layers, _owners(model.graph, stored), strict=True):
        is_known = _dynamo_scope(node) == layer and reads == {layer}
        if reads and layer and node.op_type != "Identity" and not is_known:
            node.metadata_props.add(key=LAYER_KEY, value=layer)


def _owning_layers(model: onnx.ModelProto, module: nn.Module) -> dict[str, set[str]]:
    """Return for each initializer named after a parameter the layers of all parameters that it may stand for.

    Those are tied ones, and with optimization also those that the exporter merged because their values are equal.
    """
    state = state_tensors(module)
    stored = {tensor.name for tensor in model.graph.initializer}
    homeless: dict[object, set[str]] = {}
    for name in state.keys() - stored:
        homeless.setdefault(digest(state[name]), set()).add(layer_of(name))
    return {
        name: {layer_of(name)} | (homeless.get(digest(state[name]), set()) if homeless else set())
        for name in stored & state.keys()
    }


def _owners(graph: onnx.GraphProto, stored: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Return for each node the owners of the weights it reads, also through nodes that only reshape weights."""
    fixed = {tensor.name for tensor in graph.initializer}  # known without any input of the model
    known: dict[str, set[str]] = {name: set(layers) for name, layers in stored.items()}
    owners = []
    for node in graph.node:
        reads: set[str] = set()
        for name in _operands(node):
            reads |= known.get(name, set())
        owners.append(reads)
        if all(name in fixed or not name for name in node.input):
            fixed.update(node.output)
            known.update((name, reads) for name in node.output)
    return owners


def _operands(node: onnx.NodeProto) -> list[str]:
    """Return the inputs whose weights say which layer a node is: no bias, since equal biases may be merged."""
    if node.op_type == "Shape":
        return []  # it reads no values
    return list(node.input)[: 2 if node.op_type in _MULTIPLYING else None]


def _dynamo_scope(node: onnx.NodeProto) -> str | None:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes: list[str] = ast.literal_eval(entry.value)
            return scopes[-2] if len(scopes) > 1 else ""
    return None


def _legacy_scope(node_name: str, modules: set[str]) -> str:
    """Read `/layer1/layer1.0/conv1_1/Conv` as the module `layer1.0.conv1`: as far as there are such modules."""
    path, before = "", ""
    for part in node_name.split("/")[1:-1]:
        for option in (part, _CALL.sub("", part)):
            # A child of a Sequential repeats its parent's name: features, features.0.
            for tail in (option, option.removeprefix(f"{before}.")):
                candidate = f"{path}.{tail}".lstrip(".")
                if candidate in modules:
                    break
            else:
                continue
            path, before = candidate, option
            break
        else:
            return path
    return path
