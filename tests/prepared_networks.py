"""Small networks that are trained on prepared parts of scikit-learn's two photographs, and parts of another one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 32
# Of 0..255, in RGB: what is divided by, what is taken away, what is divided by then.
SCALES = {
    "imagenet": (255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": (255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": (255, (0, 0, 0), (1, 1, 1)),
    "caffe": (1, (123.68, 116.779, 103.939), (1, 1, 1)),
    "none": (1, (0, 0, 0), (1, 1, 1)),
}


def prepared(pixels, scale, order):
    """Pixels (N, H, W, 3) as a network takes them, computed without the program."""
    divisor, mean, std = SCALES[scale]
    values = (pixels.astype(np.float64) / divisor - mean) / std
    values = values[..., ::-1] if order == "BGR" else values
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2).astype(np.float32))


@cache
def photographs():
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


@cache
def other_photograph():
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(path) as image:
        return image.convert("RGB")


def parts_of_another(seed, count=4):
    """Square parts of the other photograph, as pictures."""
    random = np.random.default_rng(seed)
    photograph, parts = other_photograph(), []
    for _ in range(count):
        side = int(random.integers(150, 500))
        left, top = (int(random.integers(0, whole - side + 1)) for whole in photograph.size)
        parts.append(photograph.crop((left, top, left + side, top + side)))
    return parts


def resized(parts):
    """What the networks see of square parts: pixels (N, SIDE, SIDE, 3)."""
    return np.stack([np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for part in parts])


@cache
def patches(count=600):
    """Square parts of both photographs as networks see them, and which of them each is of."""
    random = np.random.default_rng(0)
    pixels, labels = [], []
    for _ in range(count):
        label = int(random.integers(2))
        photograph, side = photographs()[label], int(random.integers(120, 420))
        top, left = (int(random.integers(0, whole - side + 1)) for whole in photograph.shape[:2])
        pixels.append(Image.fromarray(photograph[top : top + side, left : left + side]))
        labels.append(label)
    return resized(pixels), np.array(labels)


def trained(seed, scale, order, steps=60):
    """A network of PyTorch whose running statistics are of patches prepared so."""
    import torch
    from torch import nn

    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width, kernel, stride = (int(random.choice(sizes)) for sizes in ((6, 8, 12, 16), (3, 5), (1, 2)))
    network = nn.Sequential(
        nn.Conv2d(3, width, kernel, stride, kernel // 2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    pixels, labels = patches()
    inputs, targets = torch.from_numpy(prepared(pixels, scale, order)), torch.from_numpy(labels)
    for _ in range(steps):
        chosen = torch.from_numpy(random.integers(0, len(labels), 32))
        loss = nn.functional.cross_entropy(network(inputs[chosen]), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def exported(network, *, folded=False, sides=(SIDE, SIDE)):
    """The network in ONNX, its BatchNormalizations kept or folded into the convolutions."""
    nodes, stored, value = [], [], "x"

    def store(name, array):
        stored.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    layers = list(network)
    for place, layer in enumerate(layers):
        kind, name = type(layer).__name__, f"l{place}"
        if kind == "Conv2d":
            weight, bias = (part.detach().numpy().astype(np.float64) for part in (layer.weight, layer.bias))
            if folded:
                norm = layers[place + 1]
                mean, variance, gain, shift = (
                    part.detach().numpy().astype(np.float64)
                    for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
                )
                factor = gain / np.sqrt(variance + norm.eps)
                weight, bias = weight * factor[:, None, None, None], (bias - mean) * factor + shift
            reads = [value, store(f"{name}.weight", weight), store(f"{name}.bias", bias)]
            pad = layer.padding[0]
            nodes.append(helper.make_node("Conv", reads, [name], name=name, strides=layer.stride, pads=[pad] * 4))
        elif kind == "BatchNorm2d" and not folded:
            parts = {"weight": layer.weight, "bias": layer.bias, "mean": layer.running_mean, "var": layer.running_var}
            reads = [value, *[store(f"{name}.{key}", part.detach().numpy()) for key, part in parts.items()]]
            nodes.append(helper.make_node("BatchNormalization", reads, [name], name=name, epsilon=layer.eps))
        elif kind == "Linear":
            reads = [
                value,
                *[store(f"{name}.{key}", getattr(layer, key).detach().numpy()) for key in ("weight", "bias")],
            ]
            nodes.append(helper.make_node("Gemm", reads, [name], name=name, transB=1))
        elif kind in ("ReLU", "AdaptiveAvgPool2d", "Flatten"):
            operator = {"ReLU": "Relu", "AdaptiveAvgPool2d": "GlobalAveragePool", "Flatten": "Flatten"}[kind]
            nodes.append(helper.make_node(operator, [value], [name], name=name))
        else:
            continue
        value = name
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *sides])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", 2])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def outputs_of(network, pixels, scale, order):
    """What the network itself answers."""
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(prepared(pixels, scale, order))).numpy()


def checked(model):
    onnx.checker.check_model(model)
    return model
