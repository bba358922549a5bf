"""Models whose layers look alike, and are told apart by where they stand: over time steps, and in branches."""

from __future__ import annotations

import numpy as np
from compared_models import parsed
from onnx import AttributeProto, ModelProto, helper, numpy_helper

STEPS = 6
STEP_INPUT = np.random.default_rng(3).standard_normal((5, STEPS, 4), np.float32)


def unrolled(order=range(STEPS), *, changed=None, reads=None, names=True):
    """One dense layer for each of several time steps.

    Args:
        order: In which the steps are stored.
        changed: The step that has a weight of its own.
        reads: A step, and which one it reads in place of itself.
        names: Whether weights and nodes have names.
    """
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((4, 3), np.float32), rng.standard_normal(3, np.float32)
    other = weight.copy()
    other[0, 0] += 1
    text = '<ir_version: 9, opset_import: ["": 18]> net (float[n, 6, 4] x) => (float[n, 6, 3] y) {}'
    places = {f"at{step}": np.array(step if reads is None or step != reads[0] else reads[1]) for step in range(STEPS)}
    shared = "dense.weight" if names else "onnx::MatMul_9"
    stored = {shared: weight, "dense.bias": bias, "axes": np.array([1]), **({} if changed is None else {"odd": other})}
    model = parsed(text, **stored, **places)
    for step in order:
        operand = "odd" if step == changed else shared
        model.graph.node.extend(
            [
                helper.make_node("Gather", ["x", f"at{step}"], [f"g{step}"], axis=1),
                helper.make_node(
                    "MatMul", [f"g{step}", operand], [f"m{step}"], f"/dense/MatMul_{step}" if names else ""
                ),
                helper.make_node("Add", [f"m{step}", "dense.bias"], [f"a{step}"]),
                helper.make_node("Relu", [f"a{step}"], [f"r{step}"]),
                helper.make_node("Unsqueeze", [f"r{step}", "axes"], [f"u{step}"]),
            ]
        )
    model.graph.node.append(helper.make_node("Concat", [f"u{step}" for step in range(STEPS)], ["y"], axis=1))
    return model


_KERNELS = {"wa": (4, 3), "wb": (4, 4), "wc": (4, 3), "wd": (4, 4), "we": (4, 4)}
_BRANCHES = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[n, 3, 5] x, bool c, bool d) => (float[n, 4, 5] y) {
        y = If (c) <
            then_branch = t () => (float[n, 4, 5] p) { a = Conv(x, wa) r = Relu(a) p = Conv(r, wb) },
            else_branch = e () => (float[n, 4, 5] q) { b = Conv(x, wc) s = Tanh(b)
                q = If (d) <
                    then_branch = u () => (float[n, 4, 5] v) { v = Conv(s, wd) },
                    else_branch = o () => (float[n, 4, 5] w) { w = Conv(s, we) }> }>
    }"""


def branching(*, named=True, inside=False, **changes):
    """Convolutions in the branches of an If and of an If in one of them.

    Args:
        named: Whether the weights have names of their own.
        inside: Whether the branches store the weights.
        changes: Numbers that stand for some of the weights.
    """
    rng = np.random.default_rng(2)
    stored = {name: rng.standard_normal((*sides, 1), np.float32) for name, sides in _KERNELS.items()} | changes
    called = {name: name if named else f"onnx::Conv_{place}" for place, name in enumerate(reversed(stored))}
    model = parsed(_BRANCHES)
    tensors = {called[name]: numpy_helper.from_array(values, called[name]) for name, values in stored.items()}

    def fill(graph):
        for node in graph.node:
            for place, value in enumerate(node.input):
                node.input[place] = called.get(value, value)
            if inside:
                graph.initializer.extend(tensors[value] for value in node.input if value in tensors)
            for attribute in node.attribute:
                fill(attribute.g)

    fill(model.graph)
    if not inside:
        model.graph.initializer.extend(tensors.values())
    return model


def other_order(model):
    """A copy in which every node has its attributes, and so its bodies, in the other order."""
    copy = ModelProto()
    copy.CopyFrom(model)

    def turn(graph):
        for node in graph.node:
            attributes = list(node.attribute)
            for attribute in attributes:
                if attribute.type == AttributeProto.GRAPH:
                    turn(attribute.g)
            del node.attribute[:]
            node.attribute.extend(reversed(attributes))

    turn(copy.graph)
    return copy


def branch_weights(**places):
    """Some of the weights of `branching`, by the name of the one that has those numbers there."""
    rng = np.random.default_rng(2)
    stored = {name: rng.standard_normal((*sides, 1), np.float32) for name, sides in _KERNELS.items()}
    return {name: stored[source] for name, source in places.items()}


def branch_input(c, d):
    """What takes one of the ways."""
    x = np.random.default_rng(4).standard_normal((2, 3, 5), np.float32)
    return {"x": x, "c": np.array(c), "d": np.array(d)}
