"""Small networks whose values are no images: attention, a recurrent layer, a spectrogram and a volume."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto, numpy_helper


def stored(text: str, weights: dict[str, np.ndarray]) -> ModelProto:
    """A model of its text with these initializers."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    return model


def random(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention(heads: int = 2, width: int = 8, masked: bool = True) -> ModelProto:
    """Self-attention over x[n, t, width] with its scale and mask; `s` are its scores, `p` their shares."""
    size = width // heads
    mask = "s = Add(d, mask)" if masked else "s = Identity(d)"
    text = f"""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[n, t, {width}] x) => (float[n, t, {width}] y) {{
            q0 = MatMul(x, wq)  q1 = Reshape(q0, split)  q = Transpose<perm = [0, 2, 1, 3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape(k0, split)  k = Transpose<perm = [0, 2, 3, 1]>(k1)
            v0 = MatMul(x, wv)  v1 = Reshape(v0, split)  v = Transpose<perm = [0, 2, 1, 3]>(v1)
            m = MatMul(q, k)  d = Div(m, root)  {mask}
            p = Softmax<axis = -1>(s)
            c = MatMul(p, v)  c1 = Transpose<perm = [0, 2, 1, 3]>(c)  c2 = Reshape(c1, join)
            y = MatMul(c2, wo)
        }}"""
    weights = {name: random(width, width, seed=place) for place, name in enumerate(("wq", "wk", "wv", "wo"))}
    weights |= {"split": np.array([0, 0, heads, size]), "join": np.array([0, 0, width])}
    weights |= {"root": np.float32(np.sqrt(size)), "mask": np.zeros((1, 1, 1, 1), np.float32)}
    return stored(text, weights)


def recurrent(operator: str = "LSTM", layout: int = 0, direction: str = "bidirectional") -> ModelProto:
    """x[time, n, 5] (or [n, time, 5]) through six hidden numbers; `a` are those of every step."""
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator], 2 if direction == "bidirectional" else 1
    shape = "n, 7, 5" if layout else "7, n, 5"
    text = f"""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[{shape}] x) => (float[b, c, d, e] a) {{
            a, h = {operator}<hidden_size = 6, direction = "{direction}", layout = {layout}>(x, w, r)
        }}"""
    return stored(text, {"w": random(directions, gates * 6, 5), "r": random(directions, gates * 6, 6)})


def convolution(*kernel: int, channels: int = 3, inputs: int = 2) -> ModelProto:
    """One convolution over as many axes as its kernel has."""
    places = ", ".join(f"s{axis}" for axis in range(len(kernel)))
    text = f"""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[n, {inputs}, {places}] x) => (float[n, {channels}, {places}] y) {{
            y = Conv<auto_pad = "SAME_UPPER">(x, w)
        }}"""
    return stored(text, {"w": random(channels, inputs, *kernel)})
