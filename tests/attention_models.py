"""Small attention models: written out, fused as onnxruntime's optimizers do, and the numbers that they should give."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(17)
HEADS, WIDE = 2, 8
MICROSOFT = "com.microsoft"
PARTS = ("query", "key", "value")


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS = {f"self.{part}.weight": normal(WIDE, WIDE) for part in PARTS}
BIASES = {f"self.{part}.bias": normal(WIDE) for part in PARTS}
DENSE = {"dense.weight": normal(WIDE, 3)}
FED = {"x": normal(2, 5, WIDE)}


def parsed(nodes, stored, given="float[b, s, 8] x", results="float[b, s, k] y", opset=17):
    """A model of nodes as text, with its initializers."""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}, "{MICROSOFT}": 1]> g ({given}) => ({results}) {{ {nodes} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(values), name) for name, values in stored.items())
    return model


def named(model):
    """The same model with dotted initializers, which the text form cannot say: `a__b` stands for `a.b`."""
    for node in model.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    return model


def unfused(opset=17):
    """Self-attention as exporters write it, and a layer behind it."""
    heads = f"0, 0, {HEADS}, {WIDE // HEADS}"
    parts = " ".join(
        f"{part}_m = MatMul(x, self__{part}__weight) {part}_a = Add(self__{part}__bias, {part}_m) "
        f"{part}_r = Reshape({part}_a, heads) {part}_t = Transpose<perm = [{order}]>({part}_r)"
        for part, order in (("query", "0, 2, 1, 3"), ("key", "0, 2, 3, 1"), ("value", "0, 2, 1, 3"))
    )
    nodes = (
        f"{parts} s = MatMul(query_t, key_t) d = Div(s, root) p = Softmax<axis = -1>(d) c = MatMul(p, value_t) "
        "t = Transpose<perm = [0, 2, 1, 3]>(c) r = Reshape(t, whole) y = MatMul(r, dense__weight)"
    )
    shapes = {
        "heads": np.array([int(side) for side in heads.split(", ")]),
        "whole": np.array([0, 0, WIDE]),
        "root": np.float32((WIDE / HEADS) ** 0.5),
    }
    return named(parsed(nodes, WEIGHTS | BIASES | DENSE | shapes, opset=opset))


def packed():
    """Weight and bias of query, key and value in one."""
    return {
        "self_qkv_weight": np.concatenate(list(WEIGHTS.values()), axis=1),
        "self_qkv_bias": np.concatenate(list(BIASES.values())),
    }


def fused(domain=MICROSOFT, opset=17):
    """The same with onnxruntime's Attention."""
    nodes = (
        f"a = {domain}.Attention<num_heads = {HEADS}>(x, self_qkv_weight, self_qkv_bias) y = MatMul(a, dense__weight)"
    )
    model = named(parsed(nodes, packed() | DENSE, opset=opset))
    model.graph.node[0].name = "Attention_0"
    return model


def biased():
    """The same with the biases inside MultiHeadAttention."""
    nodes = (
        " ".join(f"{part} = MatMul(x, self__{part}__weight)" for part in PARTS)
        + f" a = {MICROSOFT}.MultiHeadAttention<num_heads = {HEADS}>(query, key, value, self_qkv_bias)"
        + " y = MatMul(a, dense__weight)"
    )
    return named(parsed(nodes, WEIGHTS | {"self_qkv_bias": packed()["self_qkv_bias"]} | DENSE))


def quantized(by_column=False):
    """A QAttention, and what its weight stands for; what it reads is quantized when the model runs."""
    weight = packed()["self_qkv_weight"]
    scale = np.abs(weight).max(axis=0 if by_column else None) / np.float32(127)
    codes = np.clip(np.round(weight / scale), -127, 127).astype(np.int8)
    zero = np.zeros(scale.shape, np.int8)
    nodes = (
        "q, qs, qz = DynamicQuantizeLinear(x) "
        f"a = {MICROSOFT}.QAttention<num_heads = {HEADS}>(q, codes, self_qkv_bias, qs, scale, , qz, zero) "
        "y = MatMul(a, dense__weight)"
    )
    stored = {
        "codes": codes,
        "scale": scale.astype(np.float32),
        "zero": zero,
        "self_qkv_bias": packed()["self_qkv_bias"],
    }
    return named(parsed(nodes, stored | DENSE)), codes * scale.astype(np.float32)


def embedded(*, mask=True, places=False, opset=17):
    """An EmbedLayerNormalization with all that it can give, and what it is given."""
    tables = {"w": normal(9, WIDE), "p": normal(7, WIDE), "t": normal(2, WIDE), "g": normal(WIDE), "b": normal(WIDE)}
    fed = {"i": RNG.integers(0, 9, (2, 5)).astype(np.int32), "s": RNG.integers(0, 2, (2, 5)).astype(np.int32)}
    fed |= {"m": np.array([[1, 1, 0, 1, 0], [2, 1, 1, 1, 1]], np.int32)} if mask else {}
    fed |= {"k": RNG.integers(0, 7, (2, 5)).astype(np.int32)} if places else {}
    node = helper.make_node(
        "EmbedLayerNormalization",
        ["i", "s", *"wptgb", "m" if mask else "", *(["k"] if places else [])],
        ["y", "n", "e"],
        domain=MICROSOFT,
        epsilon=1e-6,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.INT32, ["b", "s"]) for name in fed],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "s", WIDE]),
            helper.make_tensor_value_info("n", TensorProto.INT32, ["b"]),
            helper.make_tensor_value_info("e", TensorProto.FLOAT, ["b", "s", WIDE]),
        ],
        [numpy_helper.from_array(values, name) for name, values in tables.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9), fed


def grouped(*, bias=False, packed_rows=True):
    """A decoder's GroupQueryAttention with a cache, behind one product or behind three; and what it is fed."""
    size, keys = 8, 1
    rng = np.random.default_rng(41)
    parts = [rng.standard_normal((WIDE, count * size)).astype(np.float32) for count in (HEADS, keys, keys)]
    shifts = [rng.standard_normal(part.shape[1]).astype(np.float32) for part in parts]
    stored = {"dense.weight": rng.standard_normal((HEADS * size, 3)).astype(np.float32)}
    names = ["qkv"] if packed_rows else list(PARTS)
    nodes = []
    for place, name in enumerate(names):
        stored[f"self.{name}.weight"] = np.concatenate(parts, axis=1) if packed_rows else parts[place]
        nodes.append(f"{name} = MatMul(x, self__{name}__weight)")
        if bias:
            stored[f"self.{name}.bias"] = np.concatenate(shifts) if packed_rows else shifts[place]
            nodes[-1] = f"{name}_m = MatMul(x, self__{name}__weight) {name} = Add({name}_m, self__{name}__bias)"
    read = "qkv, , " if packed_rows else "query, key, value"
    nodes.append(
        f"a, k, v = {MICROSOFT}.GroupQueryAttention<num_heads = {HEADS}, kv_num_heads = {keys}>"
        f"({read}, pk, pv, lengths, total) y = MatMul(a, dense__weight)"
    )
    given = "float[b, s, 8] x, float[b, 1, p, 8] pk, float[b, 1, p, 8] pv, int32[b] lengths, int32 total"
    results = "float[b, s, 3] y, float[b, 1, t, 8] k, float[b, 1, t, 8] v"
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17, "{MICROSOFT}": 1]> g ({given}) => ({results}) {{ {" ".join(nodes)} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in stored.items())
    fed = {"x": normal(2, 4, WIDE), "pk": np.zeros((2, 1, 0, 8), np.float32), "pv": np.zeros((2, 1, 0, 8), np.float32)}
    fed |= {"lengths": np.array([3, 3], np.int32), "total": np.array(4, np.int32)}
    return named(model), fed
