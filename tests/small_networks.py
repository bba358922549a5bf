"""A dozen small networks, each of another make, with something to feed them; used by test_noise_sweep.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto, TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Network:
    """A model and what it is fed."""

    model: ModelProto
    feeds: dict[str, np.ndarray]


def _network(text: str, stored: dict[str, Any], feeds: dict[str, np.ndarray]) -> Network:
    """A network of its text; a tuple among the stored stands for random numbers of that shape."""
    rng = np.random.default_rng(len(text))
    model = onnx.parser.parse_model(text)
    for name, values in stored.items():
        if isinstance(values, tuple):
            values = (rng.standard_normal(values) / np.sqrt(max(1, values[-1] if values else 1))).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return Network(model, feeds)


def _normal(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _positive(*shape: int, seed: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


def _bytes(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 100, shape).astype(np.int8)


def convolutions() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 3, 12, 12] x) => (float[n, 5] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            m = BatchNormalization<epsilon = 0.001>(a, scale, shift, mean, variance)
            r = Relu(m)
            p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
            c = Conv<group = 2, dilations = [2, 2]>(p, w2)
            l = LeakyRelu<alpha = 0.1>(c)
            q = AveragePool<kernel_shape = [2, 2]>(l)
            f = Flatten(q)
            y = Gemm<transB = 1, alpha = 0.5>(f, w3, b3)
        }"""
    stored = {
        "w1": (8, 3, 3, 3),
        "b1": (8,),
        "scale": _positive(8),
        "shift": (8,),
        "mean": (8,),
        "variance": _positive(8, seed=8),
        "w2": (6, 4, 3, 3),
        "w3": (5, 6),
        "b3": (5,),
    }
    return _network(text, stored, {"x": _normal(3, 3, 12, 12)})


def residual() -> Network:
    text = """<ir_version: 10, opset_import: ["": 21]>
        net (float[n, 4, 8, 8] x) => (float[n, 3] y, float[n, 8, 16, 16] z) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1)
            g = GroupNormalization<num_groups = 4>(a, scale, shift)
            h = HardSwish(g)
            c = Conv<pads = [1, 1, 1, 1]>(h, w2, b2)
            s = Add(a, c)
            e = Elu<alpha = 0.7>(s)
            z = Resize<mode = "linear">(e, , scales)
            d = ConvTranspose<strides = [2, 2]>(e, w3)
            i = InstanceNormalization(d, scale, shift)
            v = GlobalAveragePool(i)
            f = Flatten(v)
            k = MatMul(f, w4)
            j = Mul(k, gain)
            y = Softmax<axis = 1>(j)
        }"""
    stored = {
        "w1": (8, 4, 3, 3),
        "scale": _positive(8),
        "shift": (8,),
        "w2": (8, 8, 3, 3),
        "b2": (8,),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "w3": (8, 8, 2, 2),
        "w4": (8, 3),
        "gain": np.float32(2.5),
    }
    return _network(text, stored, {"x": _normal(2, 4, 8, 8)})


def transformer() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 6, 16] x) => (float[n, 6, 16] y) {
            l = LayerNormalization<axis = -1, epsilon = 0.0001>(x, s1, t1)
            q0 = MatMul(l, wq)  q1 = Add(q0, bq)  k0 = MatMul(l, wk)  v0 = MatMul(l, wv)
            q2 = Reshape(q1, heads)  k2 = Reshape(k0, heads)  v2 = Reshape(v0, heads)
            q3 = Transpose<perm = [0, 2, 1, 3]>(q2)
            k3 = Transpose<perm = [0, 2, 3, 1]>(k2)
            v3 = Transpose<perm = [0, 2, 1, 3]>(v2)
            d = MatMul(q3, k3)  e = Mul(d, scaling)  m = Add(e, mask)  p = Softmax<axis = -1>(m)
            o = MatMul(p, v3)  o2 = Transpose<perm = [0, 2, 1, 3]>(o)  o3 = Reshape(o2, back)
            c = MatMul(o3, wo)  r = Add(x, c)
            l2 = LayerNormalization(r, s2, t2)
            f = MatMul(l2, w1)  f2 = Add(f, b1)
            u = Div(f2, root)  w = Erf(u)  a = Add(w, one)  h = Mul(f2, a)  g = Mul(h, half)
            f3 = MatMul(g, w2)  y = Add(r, f3)
        }"""
    stored = {
        "s1": _positive(16),
        "t1": (16,),
        "wq": (16, 16),
        "bq": (16,),
        "wk": (16, 16),
        "wv": (16, 16),
        "wo": (16, 16),
        "heads": np.array([0, 0, 2, 8]),
        "back": np.array([0, 0, 16]),
        "scaling": np.float32(8**-0.5),
        "mask": np.triu(np.full((6, 6), -1e4, np.float32), 1),
        "s2": _positive(16, seed=9),
        "t2": (16,),
        "w1": (16, 32),
        "b1": (32,),
        "w2": (32, 16),
        "root": np.float32(2**0.5),
        "one": np.float32(1),
        "half": np.float32(0.5),
    }
    return _network(text, stored, {"x": _normal(3, 6, 16)})


def recurrent() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[7, n, 5] x) => (float[n, 3] y) {
            a, ah, ac = LSTM<hidden_size = 6, direction = "bidirectional">(x, w, r, b)
            t = Transpose<perm = [0, 2, 1, 3]>(a)
            u = Reshape(t, flat)
            g, gh = GRU<hidden_size = 4, linear_before_reset = 1>(u, wg, rg, bg)
            s = Squeeze(gh, zero)
            h = Tanh(s)
            y = Gemm(h, wo, bo)
        }"""
    stored = {
        "w": (2, 24, 5),
        "r": (2, 24, 6),
        "b": (2, 48),
        "flat": np.array([0, 0, 12]),
        "wg": (1, 12, 12),
        "rg": (1, 12, 4),
        "bg": (1, 24),
        "zero": np.array([0]),
        "wo": (4, 3),
        "bo": (3,),
    }
    return _network(text, stored, {"x": _normal(7, 3, 5)})


def quantized_pairs() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 3, 8, 8] x) => (float[n, 4] y) {
            xq = QuantizeLinear(x, sx, zx)  xd = DequantizeLinear(xq, sx, zx)
            wd = DequantizeLinear<axis = 0>(w1, s1, z1)
            bd = DequantizeLinear<axis = 0>(b1, sb)
            a = Conv<pads = [1, 1, 1, 1]>(xd, wd, bd)  r = Relu(a)
            rq = QuantizeLinear(r, sr, zr)  rd = DequantizeLinear(rq, sr, zr)
            p = GlobalAveragePool(rd)  f = Flatten(p)
            fq = QuantizeLinear(f, sf, zr)  fd = DequantizeLinear(fq, sf, zr)
            vd = DequantizeLinear(w2, s2, z2)
            m = MatMul(fd, vd)  y = Add(m, b2)
        }"""
    stored = {
        "sx": np.float32(0.03),
        "zx": np.uint8(128),
        "w1": _bytes(6, 3, 3, 3),
        "s1": (_positive(6) * 0.005).astype(np.float32),
        "z1": np.zeros(6, np.int8),
        "b1": np.arange(-300, 300, 100, np.int32),
        "sb": (_positive(6) * 0.005 * 0.03).astype(np.float32),
        "sr": np.float32(0.05),
        "zr": np.uint8(0),
        "sf": np.float32(0.02),
        "w2": _bytes(6, 4),
        "s2": np.float32(0.01),
        "z2": np.int8(3),
        "b2": (4,),
    }
    return _network(text, stored, {"x": _normal(2, 3, 8, 8)})


def quantized_operators() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 3, 8, 8] x) => (float[n, 4] y) {
            xq = QuantizeLinear(x, sx, zx)
            a = QLinearConv<pads = [1, 1, 1, 1]>(xq, sx, zx, w1, s1, z1, sa, za, b1)
            p = MaxPool<kernel_shape = [8, 8]>(a)
            f = Flatten(p)
            m = QLinearMatMul(f, sa, za, w2, s2, z2, sm, zm)
            y = DequantizeLinear(m, sm, zm)
        }"""
    stored = {
        "sx": np.float32(0.03),
        "zx": np.uint8(128),
        "w1": _bytes(6, 3, 3, 3),
        "s1": np.float32(0.01),
        "z1": np.int8(0),
        "sa": np.float32(0.06),
        "za": np.uint8(100),
        "b1": np.arange(-300, 300, 100, np.int32),
        "w2": _bytes(6, 4),
        "s2": np.float32(0.01),
        "z2": np.int8(1),
        "sm": np.float32(0.1),
        "zm": np.uint8(128),
    }
    return _network(text, stored, {"x": _normal(2, 3, 8, 8)})


def dynamically_quantized() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 12] x) => (float[n, 4] y) {
            q, s, z = DynamicQuantizeLinear(x)
            i = MatMulInteger(q, w1, z, z1)
            c = Cast<to = 1>(i)  k = Mul(s, s1)  a = Mul(c, k)  b = Add(a, b1)
            h = Sigmoid(b)
            y = Gemm(h, w2, b2)
        }"""
    stored = {
        "w1": _bytes(12, 8),
        "z1": np.int8(2),
        "s1": np.float32(0.01),
        "b1": (8,),
        "w2": (8, 4),
        "b2": (4,),
    }
    return _network(text, stored, {"x": _normal(1, 12)})


def half_precision() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float16[n, 3, 8, 8] x) => (float16[n, 4] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            r = Clip(a, low, high)
            c = Conv(r, w2)
            t = Tanh(c)
            p = GlobalAveragePool(t)
            f = Flatten(p)
            m = MatMul(f, w3)
            y = Add(m, b3)
        }"""
    shapes = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "w3": (6, 4), "b3": (4,)}
    stored = {name: (_normal(*shape, seed=len(shape)) * 0.3).astype(np.float16) for name, shape in shapes.items()}
    stored |= {"low": np.float16(-0.5), "high": np.float16(2)}
    return _network(text, stored, {"x": _normal(2, 3, 8, 8).astype(np.float16)})


def bodies() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[1, 6] x) => (float[1, 4] y) {
            m = ReduceMean<keepdims = 0>(x)
            c = Greater(m, limit)
            h = If(c) <
                then_branch = yes () => (float[1, 6] u) { u0 = MatMul(x, w1)  u1 = Add(u0, b1)  u = Relu(u1) },
                else_branch = no () => (float[1, 6] v) { v0 = MatMul(x, w2)  v = LeakyRelu<alpha = 0.2>(v0) }>
            go = Constant<value = bool {1}>()
            steps = Constant<value = int64 {3}>()
            s = Loop(steps, go, h) <
                body = turn (int64 i, bool on, float[1, 6] before) => (bool more, float[1, 6] after) {
                    more = Identity(on)
                    t0 = MatMul(before, w3)
                    t1 = Tanh(t0)
                    k = Constant<value = float {0.7}>()
                    t2 = Mul(t1, k)
                    after = Add(t2, before)
                }>
            y = Gemm(s, w4, b4)
        }"""
    stored = {
        "limit": np.float32(-5),
        "w1": (6, 6),
        "b1": (6,),
        "w2": (6, 6),
        "w3": (6, 6),
        "w4": (6, 4),
        "b4": (4,),
    }
    return _network(text, stored, {"x": _normal(1, 6)})


def trees() -> Network:
    rng = np.random.default_rng(11)
    count, features, classes = 5, 4, 3
    numbers: dict[str, list[Any]] = {name: [] for name in ("trees", "ids", "features", "values", "modes", "yes", "no")}
    leaves: dict[str, list[Any]] = {name: [] for name in ("trees", "ids", "classes", "weights")}
    for tree in range(count):
        for node in range(7):
            is_leaf = node > 2
            row = (
                tree,
                node,
                0 if is_leaf else int(rng.integers(features)),
                0.0 if is_leaf else float(rng.normal()),
                "LEAF" if is_leaf else "BRANCH_LEQ",
                0 if is_leaf else 2 * node + 1,
                0 if is_leaf else 2 * node + 2,
            )
            for name, value in zip(numbers, row, strict=True):
                numbers[name].append(value)
            for label in range(classes) if is_leaf else ():
                for name, value in zip(leaves, (tree, node, label, float(rng.uniform())), strict=True):
                    leaves[name].append(value)
    ensemble = helper.make_node(
        "TreeEnsembleClassifier",
        ["s"],
        ["label", "chances"],
        domain="ai.onnx.ml",
        nodes_treeids=numbers["trees"],
        nodes_nodeids=numbers["ids"],
        nodes_featureids=numbers["features"],
        nodes_values=numbers["values"],
        nodes_modes=numbers["modes"],
        nodes_truenodeids=numbers["yes"],
        nodes_falsenodeids=numbers["no"],
        class_treeids=leaves["trees"],
        class_nodeids=leaves["ids"],
        class_ids=leaves["classes"],
        class_weights=leaves["weights"],
        classlabels_int64s=list(range(classes)),
        post_transform="SOFTMAX",
    )
    scaler = helper.make_node(
        "Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.1, -0.2, 0.3, 0.0], scale=[1.0, 2.0, 0.5, 1.5]
    )
    named = helper.make_node("ZipMap", ["chances"], ["map"], domain="ai.onnx.ml", classlabels_int64s=list(range(3)))
    key = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        [scaler, ensemble, named],
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", features])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_value_info("map", helper.make_sequence_type_proto(key)),
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return Network(helper.make_model(graph, opset_imports=imports, ir_version=8), {"x": _normal(40, features)})


def embeddings() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (int64[n, 6] ids, int64[n, 2] kinds) => (float[n, 3] y, int64[n] best) {
            a = Gather(table, ids)
            p = Add(a, positions)
            m = ReduceMean<axes = [1], keepdims = 0>(p)
            k = Gather(types, kinds)
            s = ReduceSum<keepdims = 0>(k, one)
            c = Concat<axis = 1>(m, s)
            h = Gemm(c, w1, b1)
            r = PRelu(h, slope)
            g = MatMul(r, w2)
            y = LogSoftmax<axis = 1>(g)
            best = ArgMax<axis = 1, keepdims = 0>(y)
        }"""
    stored = {
        "table": (20, 8),
        "positions": (1, 6, 8),
        "types": (4, 5),
        "one": np.array([1]),
        "w1": (13, 10),
        "b1": (10,),
        "slope": _positive(10),
        "w2": (10, 3),
    }
    rng = np.random.default_rng(13)
    return _network(text, stored, {"ids": rng.integers(0, 20, (9, 6)), "kinds": rng.integers(0, 4, (9, 2))})


def function_calls() -> Network:
    text = """<ir_version: 9, opset_import: ["": 17, "own": 1]>
        net (float[n, 6] x) => (float[n, 3] y) {
            a = own.block<slope: float = 0.3>(x, w1, b1)
            b = own.block<slope: float = 0.05>(a, w2, b2)
            c = Add(a, b)
            y = Gemm(c, w3, b3)
        }
        <domain: "own", opset_import: ["": 17]>
        block <slope> (input, weight, bias) => (output) {
            m = MatMul(input, weight)
            s = Add(m, bias)
            l = LeakyRelu<alpha: float = @slope>(s)
            k = Constant<value = float {1.5}>()
            output = Mul(l, k)
        }"""
    stored = {"w1": (6, 6), "b1": (6,), "w2": (6, 6), "b2": (6,), "w3": (6, 3), "b3": (3,)}
    return _network(text, stored, {"x": _normal(5, 6)})


def signals() -> Network:
    text = """<ir_version: 8, opset_import: ["": 17]>
        net (float[n, 1, 64] x) => (float[n, 4, 5] values, int64[n, 4, 5] places) {
            p = Pad<mode = "reflect">(x, edges)
            a = Conv<strides = [2], pads = [3, 3]>(p, w1, b1)
            s = Slice(a, starts, ends, axes)
            t = Sigmoid(s)  g = Mul(s, t)
            c = Conv<pads = [2, 0]>(g, w2)
            h = HardSigmoid<alpha = 0.3, beta = 0.4>(c)
            m = ReduceMax<axes = [1], keepdims = 1>(h)
            e = Sub(h, m)  q = Pow(e, two)  k = Clip(q, low, high)
            u = Where(mask, k, e)
            values, places = TopK<axis = 2>(u, five)
        }"""
    stored = {
        "edges": np.array([0, 0, 4, 0, 0, 4]),
        "w1": (8, 1, 7),
        "b1": (8,),
        "starts": np.array([2]),
        "ends": np.array([30]),
        "axes": np.array([2]),
        "w2": (4, 8, 3),
        "two": np.float32(2),
        "low": np.float32(0.01),
        "high": np.float32(5),
        "mask": np.array([True, False, True, True]).reshape(4, 1),
        "five": np.array([5]),
    }
    return _network(text, stored, {"x": _normal(3, 1, 64)})


NETWORKS = (
    convolutions,
    residual,
    transformer,
    recurrent,
    quantized_pairs,
    quantized_operators,
    dynamically_quantized,
    half_precision,
    bodies,
    trees,
    embeddings,
    function_calls,
    signals,
)
