"""Operators that onnxruntime's optimizer fuses, and the operators that each stands for: one function a fused operator.

A layout of onnxruntime's own (`NhwcFusedConv`, the domain `com.microsoft.nchwc`) is none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from onnxscope.model.graphs import attribute_value

__all__ = ["FUSED_DOMAIN", "NodeWriter", "expansion_of"]

FUSED_DOMAIN = "com.microsoft"
"""Of the operators that onnxruntime's optimizer makes up."""

_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
"""What `activation_params` of a FusedConv holds, in order."""


class NodeWriter:
    """Writes nodes in the place of a fused one, which keeps its name and its outputs for the last of them.

    Attributes:
        fused: The node in whose place the others stand.
        nodes: What was written.
    """

    def __init__(self, fused: NodeProto, opset: int, used: set[str], rank: Callable[[str], int | None]) -> None:
        """Begin.

        Args:
            fused: Not to be changed.
            opset: Of ONNX's own operators.
            used: Names of values that are taken; those that are made up are added.
            rank: Of a value, where it is known.
        """
        self.rank = rank
        self.fused = fused
        self.nodes: list[NodeProto] = []
        self._opset = opset
        self._used = used

    def input(self, place: int) -> str:
        """The name of one of the fused node's operands, empty where it is left out."""
        return self.fused.input[place] if place < len(self.fused.input) else ""

    def output(self, place: int) -> str:
        """The name of one of the fused node's outputs, empty where it is left out."""
        return self.fused.output[place] if place < len(self.fused.output) else ""

    def attributes(self, *left_out: str) -> dict[str, Any]:
        """The fused node's attributes, but for some."""
        return {stored.name: attribute_value(stored) for stored in self.fused.attribute if stored.name not in left_out}

    def add(self, op_type: str, inputs: Iterable[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        """Write a node and return its first output, which has a new name where none is given."""
        named = list(outputs) if outputs and outputs[0] else [self._value(op_type), *outputs[1:]]
        node = helper.make_node(op_type, list(inputs), named, domain=domain, **attributes)
        ends = named[0] == self.fused.output[0]
        node.name = self.fused.name if ends or not self.fused.name else f"{self.fused.name}/{op_type}"
        node.metadata_props.extend(self.fused.metadata_props)
        self.nodes.append(node)
        return named[0]

    def number(self, value: float) -> str:
        """Write a Constant of one number."""
        return self.add("Constant", [], value=numpy_helper.from_array(np.array(value, np.float32)))

    def function(self, op_type: str, value: str, parameters: Mapping[str, float]) -> None:
        """Write the activation function that gives the fused node's output."""
        if op_type == "Clip" and self._opset >= 11:
            limits = [self.number(parameters[side]) if side in parameters else "" for side in ("min", "max")]
            self.add(op_type, [value, *limits], self.output(0))
        else:
            self.add(op_type, [value], self.output(0), **dict[str, Any](parameters))

    def _value(self, word: str) -> str:
        base = f"{next(filter(None, self.fused.output))}/{word}"
        name, number = base, 2
        while name in self._used:
            name, number = f"{base}_{number}", number + 1
        self._used.add(name)
        return name


def expansion_of(write: NodeWriter) -> Callable[[NodeWriter], None] | None:
    """Return what writes the operators that a fused one stands for; None where it stands for itself."""
    node = write.fused
    expand = _EXPANSIONS.get((node.domain, node.op_type))
    if expand is None or not write.output(0) or (node.op_type == "FastGelu" and not write.input(1)):
        return None
    if expand is _product:
        attributes = write.attributes()
        turned = [name for name, side in zip(node.input, "AB", strict=False) if attributes.get(f"trans{side}")]
        by_batch = attributes.get("transBatchA") or attributes.get("transBatchB")
        return None if by_batch or any(write.rank(name) is None for name in turned) else expand
    return expand


def _convolution(write: NodeWriter) -> None:
    function = _text(write.attributes().get("activation"))
    parameters = write.attributes().get("activation_params") or []
    attributes = write.attributes("activation", "activation_params")
    added, last = write.input(3), write.output(0)
    value = write.add("Conv", filter(None, map(write.input, range(3))), "" if added or function else last, **attributes)
    if added:
        value = write.add("Add", [value, added], "" if function else last)
    if function:
        write.function(function, value, dict(zip(_PARAMETERS.get(function, ()), parameters, strict=False)))


def _gemm(write: NodeWriter) -> None:
    attributes = write.attributes()
    function = _text(attributes.get("activation"))
    own = {name: attributes[name] for name in ("alpha", "beta", "transA", "transB") if name in attributes}
    operands = filter(None, map(write.input, range(3)))
    value = write.add("Gemm", operands, "" if function else write.output(0), **own)
    if function:
        names = [name for name in ("alpha", "beta", "gamma") if f"activation_{name}" in attributes]
        write.function(function, value, {name: attributes[f"activation_{name}"] for name in names})


def _product(write: NodeWriter) -> None:
    attributes = write.attributes()
    operands = []
    for place, side in enumerate("AB"):
        value, rank = write.input(place), write.rank(write.input(place))
        if attributes.get(f"trans{side}") and rank is not None:
            value = write.add("Transpose", [value], perm=[*range(rank - 2), rank - 1, rank - 2])
        operands.append(value)
    alpha = attributes.get("alpha", 1.0)
    value = write.add("MatMul", operands, write.output(0) if alpha == 1 else "")
    if alpha != 1:
        write.add("Mul", [value, write.number(alpha)], write.output(0))


def _gelu(write: NodeWriter) -> None:
    """By the error function, or by a hyperbolic tangent, with a bias or without."""
    value = write.input(0)
    if write.input(1):
        value = write.add("Add", [value, write.input(1)])
    is_fast = write.fused.op_type == "FastGelu" or _text(write.attributes().get("approximate")) == "tanh"
    write.add("FastGelu" if is_fast else "Gelu", [value], write.output(0), domain=FUSED_DOMAIN)


def _hard_swish(write: NodeWriter) -> None:
    gate = write.add("HardSigmoid", [write.input(0)], alpha=1 / 6, beta=0.5)
    write.add("Mul", [write.input(0), gate], write.output(0))


def _mish(write: NodeWriter) -> None:
    gate = write.add("Tanh", [write.add("Softplus", [write.input(0)])])
    write.add("Mul", [write.input(0), gate], write.output(0))


def _gated(write: NodeWriter) -> None:
    """`x * sigmoid(alpha * x)`."""
    alpha = write.attributes().get("alpha", 1.702 if write.fused.op_type == "QuickGelu" else 1.0)
    value = write.input(0)
    scaled = value if alpha == 1 else write.add("Mul", [value, write.number(alpha)])
    write.add("Mul", [value, write.add("Sigmoid", [scaled])], write.output(0))


def _skipping_norm(write: NodeWriter) -> None:
    has_shift = write.fused.op_type == "SkipLayerNormalization"
    weights = [write.input(2), write.input(3)] if has_shift else [write.input(2)]
    value, bias = write.input(0), write.input(4 if has_shift else 3)
    if bias:
        value = write.add("Add", [value, bias])
    value = write.add("Add", [value, write.input(1)], write.output(3))
    op_type = "LayerNormalization" if has_shift else "SimplifiedLayerNormalization"
    stash: dict[str, Any] = {} if has_shift else {"stash_type": 1}
    epsilon = write.attributes().get("epsilon", 1e-12)  # what these two take where it is left out
    write.add(op_type, [value, *filter(None, weights)], *map(write.output, range(3)), axis=-1, epsilon=epsilon, **stash)


def _rms_norm(write: NodeWriter) -> None:
    """Under the name that onnxruntime has for it, which it knows in every operator set."""
    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1} | write.attributes()
    rank = write.rank(write.input(0))
    if attributes["axis"] >= 0 and rank is not None:
        attributes["axis"] -= rank
    write.add("SimplifiedLayerNormalization", write.fused.input, write.output(0), **attributes)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


_EXPANSIONS: Mapping[tuple[str, str], Callable[[NodeWriter], None]] = {
    (FUSED_DOMAIN, "FusedConv"): _convolution,
    (FUSED_DOMAIN, "FusedGemm"): _gemm,
    (FUSED_DOMAIN, "FusedMatMul"): _product,
    (FUSED_DOMAIN, "BiasGelu"): _gelu,
    (FUSED_DOMAIN, "FastGelu"): _gelu,
    ("", "Gelu"): _gelu,
    ("", "HardSwish"): _hard_swish,
    ("", "Mish"): _mish,
    (FUSED_DOMAIN, "QuickGelu"): _gated,
    ("", "Swish"): _gated,
    ("", "RMSNormalization"): _rms_norm,
    (FUSED_DOMAIN, "SkipLayerNormalization"): _skipping_norm,
    (FUSED_DOMAIN, "SkipSimplifiedLayerNormalization"): _skipping_norm,
}
