"""Activation functions that are spelled out: told by their values, whichever operators they are made of.

A closed group of elementwise operators on one value and on constants is evaluated at a few points; where it gives what
a known function gives there, it is that function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.model.activation_functions import activation_group
from onnxscope.model.graphs import Graph, Node
from onnxscope.model.loading import Model

__all__ = ["MAY_BEND", "FoundFunction", "function_from"]

Array = NDArray[Any]
_POINTS = np.concatenate([np.linspace(-8, 8, 41), [-30.0, 30.0]])
_ROUNDING = 3e-7  # of constants that are stored as float32

MAY_BEND = frozenset({"Erf", "Tanh", "Exp", "Clip", "HardSigmoid", "Relu"})
"""Operators in the middle of what may be a function that is spelled out."""


def _erf(x: Array) -> Array:
    return np.array([math.erf(number) for number in x.ravel()]).reshape(x.shape)


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def _clip(x: Array, low: Array | float = -math.inf, high: Array | float = math.inf) -> Array:
    return np.minimum(np.maximum(x, low), high)


_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "Gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "FastGelu": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "HardSwish": lambda x: x * _clip(x / 6 + 0.5, 0, 1),
    "Swish": lambda x: x * _sigmoid(x),
    "Mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
}
_OPERATORS: Mapping[str, Callable[..., Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Erf": _erf,
    "Tanh": np.tanh,
    "Exp": np.exp,
    "Log": np.log,
    "Sigmoid": _sigmoid,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Relu": lambda x: np.maximum(x, 0),
    "Max": np.maximum,
    "Min": np.minimum,
    "Identity": lambda x: x,
}


@dataclass(frozen=True)
class FoundFunction:
    """A function that is spelled out.

    Attributes:
        name: Which one.
        nodes: What it is made of, the last last.
        product: A node behind it that holds its constant factor too, None where the function is whole.
    """

    name: str
    nodes: list[Node]
    product: Node | None


def function_from(
    model: Model, graph: Graph, value: str, factor_behind: Callable[[Graph, str], tuple[Node, float] | None]
) -> FoundFunction | None:
    """Return the function of a value that is spelled out behind it; None where there is none, or it is one operator.

    Args:
        model: Whose graph it is.
        graph: Where it is looked for.
        value: What the function reads.
        factor_behind: Returns the node behind a value that multiplies it, among other things, and by how much.
    """
    nodes = activation_group(graph, value)
    if nodes is None or len(nodes) < 2:
        return None
    values: dict[str, Array] = {value: _POINTS}
    with np.errstate(all="ignore"):
        for node in nodes:
            operands = [values[name] if name in values else _constant(model, graph, name) for name in node.inputs]
            result = _evaluated(node, operands)
            if result is None:
                return None
            values[node.outputs[0]] = result
        end = nodes[-1].outputs[0]
        name = _named(values[end])
        if name is not None:
            return FoundFunction(name, nodes, None)
        behind = factor_behind(graph, end)
        name = None if behind is None else _named(values[end] * behind[1])
    return None if name is None or behind is None else FoundFunction(name, nodes, behind[0])


def _named(found: Array) -> str | None:
    """The function that gives some numbers at the points."""
    for name, function in _FUNCTIONS.items():
        if np.allclose(found, function(_POINTS), rtol=_ROUNDING, atol=_ROUNDING):
            return name
    return None


def _evaluated(node: Node, operands: list[Array | None]) -> Array | None:
    present = [operand for operand in operands if operand is not None]
    if node.op_type == "HardSigmoid":
        alpha, beta = node.attribute("alpha"), node.attribute("beta")
        return _clip((0.2 if alpha is None else alpha) * present[0] + (0.5 if beta is None else beta), 0, 1)
    if node.op_type == "Clip" and operands[0] is not None:
        sides = [node.attribute("min"), node.attribute("max")]
        for place in (1, 2):
            if place < len(node.inputs) and node.inputs[place]:
                if operands[place] is None:
                    return None
                sides[place - 1] = operands[place]
        low, high = (-math.inf if sides[0] is None else sides[0], math.inf if sides[1] is None else sides[1])
        return _clip(operands[0], low, high)
    operator = _OPERATORS.get(node.op_type)
    if operator is None or len(present) != len(operands) or any(stored for stored in node.proto.attribute):
        return None
    return operator(*present)


def _constant(model: Model, graph: Graph, name: str) -> Array | None:
    """A scalar that is stored."""
    tensor = graph.stored(name)
    if tensor is None:
        node = graph.producers.get(name)
        literal = None if node is None else node.attribute("value_float")
        return None if literal is None else np.array(literal, np.float64)
    if math.prod(tensor.dims) != 1:
        return None
    return model.array(tensor).astype(np.float64).reshape(())
