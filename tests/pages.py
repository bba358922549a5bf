"""Pages as a parser sees them, and models whose pages are worth a look."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LIKE_SELECTORS = ["re:x", "re:x[", "a[0]"]  # names of values that would mean something else as selectors
VOID = {"meta", "img", "input", "path", "br", "hr", "link"}


class Parsed(HTMLParser):
    """Every element with its attributes, the text of each, and whether all that was opened is closed in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self._open = [], [], []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(data for tag, data in self.texts if tag not in ("style", "script"))


def network(names, channels=8, side=6, seed=3):
    """A chain of 3x3 convolutions with ReLU whose layers are called as given; node and value carry the name too."""
    rng = np.random.default_rng(seed)
    nodes, weights, previous, before = [], [], "image", 3
    for place, name in enumerate(names):
        values = rng.normal(0, 0.3, (channels, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"weight of {name}"))
        nodes.append(helper.make_node("Conv", [previous, f"weight of {name}"], [f"{place} {name}"], name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"{place} {name}"], [f"relu {place} {name}"]))
        previous, before = f"relu {place} {name}", channels
    shape = ["N", channels, side, side]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info(previous, TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def called(name):
    """Two convolutions: the value of the first has a name, that of the second is `a0`."""
    rng = np.random.default_rng(4)
    model = network(["first", "second"])
    graph = model.graph
    del graph.node[:], graph.initializer[:]
    for place, (before, value, shape) in enumerate([("image", name, (8, 3, 1, 1)), (name, "a0", (8, 8, 1, 1))]):
        weight = rng.normal(0.1, 0.3, shape).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weight, f"w{place}"))
        graph.node.append(helper.make_node("Conv", [before, f"w{place}"], [value], ("first", "second")[place]))
    graph.node.append(helper.make_node("Neg", ["a0"], [graph.output[0].name]))
    onnx.checker.check_model(model)
    return model
