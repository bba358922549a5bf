"""The table of every parameter and buffer: which initializer holds its values, bit for bit, or why none does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from torch import Tensor, nn

from onnxscope.model.provenance import ParameterRecord
from onnxscope_torch.bits import match, state_tensors
from onnxscope_torch.layers import layer_of
from onnxscope_torch.observation import Observation

__all__ = ["make_table"]

_COUNTER = "num_batches_tracked"


def make_table(
    model: onnx.ModelProto, module: nn.Module, layers: list[str], observation: Observation
) -> tuple[ParameterRecord, ...]:
    """Describe every state_dict entry, in its order, by comparing its bits with those in the model.

    Args:
        model: As exported.
        module: What was exported.
        layers: Of each node, from `node_layers`.
        observation: Of the module.
    """
    table = _Table(model=model, module=module, layers=layers, observation=observation)
    return tuple(table.records())


class _Table:
    def __init__(self, model: onnx.ModelProto, module: nn.Module, layers: list[str], observation: Observation) -> None:
        self.state: Mapping[str, Tensor] = state_tensors(module)
        self.observation = observation
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        kept = {id(tensor): name for name, tensor in self.state.items() if name in self.stored}
        self.aliases = {name: kept[id(tensor)] for name, tensor in self.state.items() if id(tensor) in kept}  # tied
        self.aliases |= {  # merged by the legacy exporter because they are equal
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type == "Identity" and node.input[0] in self.stored
        }
        nodes = list(zip(model.graph.node, layers, strict=True))
        normalizing = {layer for node, layer in nodes if node.op_type == "BatchNormalization"}
        used = {layer_of(name) for name in observation.used}
        self.folded = {
            norm: into for norm, into in observation.batch_norms.items() if norm in used and norm not in normalizing
        }
        self.read: dict[str, list[str]] = {}  # what the nodes of a layer read, in order
        for node, layer in nodes:
            names = (self.aliases.get(name, name) for name in node.input)
            self.read.setdefault(layer, []).extend(name for name in names if name in self.stored)

    def records(self) -> Iterator[ParameterRecord]:
        for name, tensor in self.state.items():
            parameter = ParameterRecord(
                name=name,
                layer=layer_of(name),
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
            )
            yield self._locate(parameter, tensor)

    def _locate(self, parameter: ParameterRecord, tensor: Tensor) -> ParameterRecord:
        """Return the record with the initializer that holds it, or with the reason why none does."""
        name, layer = parameter.name, parameter.layer
        own = self.stored.get(self.aliases.get(name, name))
        if own is not None and (same := match(tensor, own)) is not None:
            return replace(parameter, initializer=own.name, permutation=same or None)
        if name.endswith(_COUNTER):
            return replace(parameter, reason="counter")
        if layer in self.folded:
            return replace(parameter, reason=f"folded into {self.folded[layer]}.weight")
        if name not in self.observation.used:
            return replace(parameter, reason="not used by forward()")
        nearby = [self.stored[other] for other in dict.fromkeys(self.read.get(layer, ()))]
        for candidate in nearby:
            if (same := match(tensor, candidate)) is not None:
                return replace(parameter, initializer=candidate.name, permutation=same or None)
        if layer in self.folded.values():
            changed = own or next((c for c in nearby if tuple(c.dims) == tuple(tensor.shape)), None)
            if changed is not None and tuple(changed.dims) == tuple(tensor.shape):
                return replace(parameter, initializer=changed.name, folded=True)
        return replace(parameter, reason=self._loss(tensor, nearby))

    def _loss(self, tensor: Tensor, nearby: list[onnx.TensorProto]) -> str:
        equal = [other for other in nearby if other.name not in self.state and _size(other) == tensor.numel()]
        for other in equal:
            if match(tensor.flatten(), onnx.TensorProto(dims=[tensor.numel()], raw_data=other.raw_data)) is not None:
                return f"reshaped into {other.name}"
        if not tensor.any():
            return "dropped: all zeros"
        return f"folded into {equal[0].name}" if equal else "rewritten by the exporter's optimizer"


def _size(stored: onnx.TensorProto) -> int:
    return int(np.prod(stored.dims, dtype=np.int64))
