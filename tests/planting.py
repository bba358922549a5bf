"""Faults to plant in a model, each in one named layer; used by test_plants.py."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from onnxscope.model.layers import Layer
from onnxscope.model.loading import load_model


def scaled(path, name, factor):
    """A stored model with one initializer multiplied by a factor."""
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return model


def train_norms(path, seed):
    """Give the BatchNorms of a stored model numbers as training leaves them."""
    model, rng = onnx.load(path), np.random.default_rng(seed)
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            count = arrays[node.input[1]].dims[0]
            numbers = (rng.uniform(0.5, 1.5, count), rng.normal(0, 0.2, count), rng.normal(0, 0.3, count))
            for name, values in zip(node.input[1:], (*numbers, rng.uniform(0.5, 2, count)), strict=True):
                arrays[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, path)


def in_half(source, single=()):
    """A stored model computed in half precision, but for the nodes that give `single`; its inputs and outputs stay."""
    model = onnx.load(source)
    graph, nodes = model.graph, list(model.graph.node)
    arrays = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    kept = {name for node in nodes if node.output[0] in single for name in node.input}
    for name in arrays.keys() - kept:
        arrays[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(arrays[name]).astype(np.float16), name))
    del graph.node[:], graph.value_info[:]

    def cast(name, to, result):
        graph.node.append(helper.make_node("Cast", [name], [result], to=to))

    for value in graph.input:
        cast(value.name, TensorProto.FLOAT16, f"{value.name}_half")
    for node in nodes:
        is_single = node.output[0] in single
        for i, name in enumerate(node.input):
            if name and name not in {tensor.name for tensor in graph.initializer}:
                node.input[i] = f"{name}_half"
                if is_single:
                    cast(f"{name}_half", TensorProto.FLOAT, f"{name}_single")
                    node.input[i] = f"{name}_single"
        (output,) = node.output
        node.output[0] = f"{output}_full" if is_single else f"{output}_half"
        graph.node.append(node)
        if is_single:
            cast(f"{output}_full", TensorProto.FLOAT16, f"{output}_half")
    for value in graph.output:
        cast(f"{value.name}_half", TensorProto.FLOAT, value.name)
    return model


def overflowing_half():
    """Convolutions in float16, of which one gives infinities on ordinary inputs; no operator between them rounds."""
    rng = np.random.default_rng(6)
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 18]>
        net (float16[batch, 3, 50, 50] x) => (float16[batch, 4, 50, 50] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, first)
            b = Conv<pads = [1, 1, 1, 1]>(a, second)
            y = Conv<pads = [1, 1, 1, 1]>(b, third)
        }""")
    for name, channels, scale in (("first", 3, 30), ("second", 4, 60), ("third", 4, 0.001)):
        weights = (rng.normal(size=(4, channels, 3, 3)) * scale).astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    return model


HALF_INPUT = np.random.default_rng(7).normal(size=(3, 3, 50, 50)).astype(np.float16)


def raw_values(model, names, feeds):
    """What onnxruntime returns of a model in which the values are declared as outputs."""
    import onnxruntime

    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for name in names:
        if name not in {value.name for value in plain.graph.output}:
            plain.graph.output.add().name = name
    return onnxruntime.InferenceSession(plain.SerializeToString()).run(list(names), feeds)


def insert_norms(source, target):
    """Store a copy of a model without BatchNorms that has one behind every convolution, each of which has a bias."""
    model = onnx.load(source)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    channels = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer}
    for number, node in enumerate(nodes):
        if node.op_type != "Conv":
            model.graph.node.append(node)
            continue
        names = [f"inserted_{number}.{role}" for role in ("weight", "bias", "running_mean", "running_var")]
        for name, value in zip(names, (1, 0, 0, 1), strict=True):
            array = np.full(channels[node.input[2]], value, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        output, node.output[0] = node.output[0], f"{node.output[0]}_plain"
        norm = helper.make_node("BatchNormalization", [node.output[0], *names], [output])
        model.graph.node.extend([node, norm])
    onnx.save(model, target)


class Plot:
    """A copy of a model, and its layers."""

    def __init__(self, source):
        self.model = onnx.load(source)
        loaded = load_model(source)
        self._names = loaded.names
        self.layers = [layer for layer in loaded.layers if layer.kind in ("Conv", "Linear")]
        self.opset = next(entry.version for entry in self.model.opset_import if not entry.domain)

    def node(self, layer: Layer):
        """The layer's node in the copy."""
        return next(node for node in self.model.graph.node if layer.node.outputs[0] in node.output)

    def change(self, layer: Layer, change):
        """Replace a layer's weight by what `change` makes of it, outputs first."""
        operand = next(each for each in self._names.operands(layer.node) if each.role == "weight")
        (tensor,) = (each for each in self.model.graph.initializer if each.name == operand.origin.value)
        order = operand.origin.permutation or tuple(range(len(tensor.dims)))
        values = numpy_helper.to_array(tensor).transpose(order)
        outputs_last = layer.kind == "Linear" and not layer.node.attribute("transB")
        values = change((values.T if outputs_last else values).copy())
        values = (values.T if outputs_last else values).transpose(np.argsort(order))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name))

    def insert_behind(self, name, *steps):
        """Put nodes between a value and all that read it; a step is an operator, its constant or None, attributes."""
        place = next(i for i, node in enumerate(self.model.graph.node) if name in node.output)
        value = name
        added = []
        for number, (kind, constant, attributes) in enumerate(steps):
            inputs = [value]
            if constant is not None:
                inputs.append(f"planted_constant_{number}")
                self.model.graph.initializer.append(numpy_helper.from_array(np.float32(constant), inputs[1]))
            value = f"planted_{number}"
            added.append(helper.make_node(kind, inputs, [value], **attributes))
        for node in self.model.graph.node:
            for i, read in enumerate(node.input):
                if read == name:
                    node.input[i] = value
        for i, node in enumerate(added):
            self.model.graph.node.insert(place + 1 + i, node)


def one_weight(plot, layer, rng):
    def change(values):
        place = rng.integers(values.size)
        values.flat[place] += 3 * values.std()
        return values

    plot.change(layer, change)


def two_channels_swapped(plot, layer, rng):
    def change(values):
        first, second = rng.choice(len(values), 2, replace=False)
        values[[first, second]] = values[[second, first]]
        return values

    plot.change(layer, change)


def kernel_transposed(plot, layer, rng):
    plot.change(layer, lambda values: values.swapaxes(-1, -2))


def quantized_badly(plot, layer, rng):
    def change(values):
        step = np.abs(values).max() / 3  # three bits for all channels together
        return np.round(values / step) * step

    plot.change(layer, change)


def padding_moved(plot, layer, rng):
    for attribute in plot.node(layer).attribute:
        if attribute.name == "pads":
            before, after = list(attribute.ints[:2]), list(attribute.ints[2:])
            attribute.ints[:] = [*(x + 1 for x in before), *(x - 1 for x in after)]


def normalisation_skipped(plot, layer, rng):
    norm = next(node for node in plot.model.graph.node if layer.norm.outputs[0] in node.output)
    for node in plot.model.graph.node:
        for i, read in enumerate(node.input):
            if read == norm.output[0]:
                node.input[i] = norm.input[0]
    plot.model.graph.node.remove(norm)


def other_epsilon(plot, layer, rng):
    """What folding with another epsilon does: the scale of every channel."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in plot.model.graph.initializer}
    variance, gamma = arrays[layer.norm.inputs[4]].astype(np.float64), arrays[layer.norm.inputs[1]].astype(np.float64)
    mean, beta = arrays[layer.norm.inputs[3]].astype(np.float64), arrays[layer.norm.inputs[2]].astype(np.float64)
    scale = gamma / np.sqrt(variance + 1e-3)
    normalisation_skipped(plot, layer, rng)
    plot.change(layer, lambda values: values * scale.reshape(-1, *[1] * (values.ndim - 1)))
    node = plot.node(layer)
    bias = arrays[node.input[2]] if len(node.input) > 2 else 0.0
    folded = (beta + (bias - mean) * scale).astype(np.float32)
    plot.model.graph.initializer.append(numpy_helper.from_array(folded, "planted_bias"))
    node.input[2:] = ["planted_bias"]


def half_overflow(plot, layer, rng):
    up, down = ("Mul", 1e6, {}), ("Div", 1e6, {})
    through = (("Cast", None, {"to": TensorProto.FLOAT16}), ("Cast", None, {"to": TensorProto.FLOAT}))
    plot.insert_behind(layer.norm.outputs[0] if layer.norm else layer.node.outputs[0], up, *through, down)


def possible(kind, layer):
    """Whether a fault can be planted in a layer and would be one there."""
    if kind is padding_moved:
        return bool(layer.node.attribute("pads")) and min(layer.node.attribute("pads")) > 0
    if kind in (normalisation_skipped, other_epsilon):
        return layer.norm is not None
    if kind is kernel_transposed:
        return layer.kind == "Conv" and len(layer.shape) == 4
    return True


NORM_KINDS = (normalisation_skipped, other_epsilon)
KINDS = (
    one_weight,
    two_channels_swapped,
    kernel_transposed,
    quantized_badly,
    padding_moved,
    normalisation_skipped,
    other_epsilon,
    half_overflow,
)
