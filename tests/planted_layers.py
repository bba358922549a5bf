"""Networks of many layers, and copies with faults in some of them; used by tests of what carries a difference."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper


def _network(head, lines, stored, seed):
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {head} {{ {" ".join(lines)} }}')
    rng = np.random.default_rng(seed)
    for name, values in stored.items():
        if isinstance(values, tuple):
            rows = int(np.prod(values[1:])) if len(values) == 4 else values[-2]
            values = (rng.standard_normal(values) * np.sqrt(1.5 / rows)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return model


def chain(depth, seed):
    """Convolutions one behind the other."""
    lines, stored = [], {}
    for place in range(depth):
        read = f"r{place - 1}" if place else "x"
        lines.append(f"[conv{place}] c{place} = Conv <pads = [1, 1, 1, 1]> ({read}, w{place})")
        lines.append(f"r{place} = LeakyRelu <alpha = 0.2> (c{place})")
        stored[f"w{place}"] = (6, 6 if place else 3, 3, 3)
    lines.append(f"p = GlobalAveragePool(r{depth - 1}) y = Flatten(p)")
    x = np.random.default_rng(seed).standard_normal((3, 3, 8, 8)).astype(np.float32)
    return _network("net (float[N, 3, 8, 8] x) => (float[N, 6] y)", lines, stored, seed), {"x": x}


def residual(depth, seed):
    """Pairs of convolutions, around each of which the value passes by."""
    lines, stored = ["[conv0] s0 = Conv <pads = [1, 1, 1, 1]> (x, w0)"], {"w0": (6, 3, 3, 3)}
    for place in range(1, depth, 2):
        first, second, before = place, place + 1, (place - 1) // 2
        lines.append(f"[conv{first}] c{first} = Conv <pads = [1, 1, 1, 1]> (s{before}, w{first})")
        lines.append(f"r{first} = Relu(c{first})")
        lines.append(f"[conv{second}] c{second} = Conv <pads = [1, 1, 1, 1]> (r{first}, w{second})")
        lines.append(f"s{before + 1} = Add(c{second}, s{before})")
        stored |= {f"w{first}": (6, 6, 3, 3), f"w{second}": (6, 6, 3, 3)}
    lines.append(f"p = GlobalAveragePool(s{(depth - 1) // 2}) y = Flatten(p)")
    x = np.random.default_rng(seed).standard_normal((3, 3, 8, 8)).astype(np.float32)
    return _network("net (float[N, 3, 8, 8] x) => (float[N, 6] y)", lines, stored, seed), {"x": x}


def encoder(depth, seed):
    """Blocks of attention and of two matrices; a depth of six for each."""
    lines, stored, before = [], {"root": np.float32(8**-0.5), "s": np.ones(8, np.float32)}, "x"
    for block in range(depth // 6):
        q, k, v, o, f, g = (f"{block * 6 + part}" for part in range(6))
        lines.append(f"n{q} = LayerNormalization({before}, s)")
        lines += [f"[dense{one}] m{one} = MatMul(n{q}, w{one})" for one in (q, k, v)]
        lines.append(f"t{k} = Transpose <perm = [0, 2, 1]> (m{k}) d{k} = MatMul(m{q}, t{k}) e{k} = Mul(d{k}, root)")
        lines.append(f"a{k} = Softmax(e{k}) h{k} = MatMul(a{k}, m{v}) [dense{o}] m{o} = MatMul(h{k}, w{o})")
        lines.append(f"b{o} = Add({before}, m{o}) n{f} = LayerNormalization(b{o}, s)")
        lines.append(f"[dense{f}] m{f} = MatMul(n{f}, w{f}) r{f} = Relu(m{f}) [dense{g}] m{g} = MatMul(r{f}, w{g})")
        lines.append(f"b{g} = Add(b{o}, m{g})")
        before = f"b{g}"
        stored |= {f"w{one}": (8, 8) for one in (q, k, v, o)} | {f"w{f}": (8, 16), f"w{g}": (16, 8)}
    lines.append(f"y = Identity({before})")
    x = np.random.default_rng(seed).standard_normal((2, 5, 8)).astype(np.float32)
    return _network("net (float[N, T, 8] x) => (float[N, T, 8] y)", lines, stored, seed), {"x": x}


def recurrent(depth, seed):
    """LSTMs one behind the other, of the last of which the state is read."""
    lines, stored, before = [], {"one": np.array([1]), "first": np.array([0])}, "x"
    for place in range(depth):
        lines.append(f"[lstm{place}] l{place}, h{place} = LSTM <hidden_size = 6> ({before}, w{place}, r{place})")
        lines.append(f"q{place} = Squeeze(l{place}, one)")
        before = f"q{place}"
        rng = np.random.default_rng(seed * 100 + place)
        stored[f"w{place}"] = rng.standard_normal((1, 24, 6)).astype(np.float32)
        stored[f"r{place}"] = (rng.standard_normal((1, 24, 6)) * 0.5).astype(np.float32)
    lines.append(f"y = Squeeze(h{depth - 1}, first)")
    x = np.random.default_rng(seed).standard_normal((5, 3, 6)).astype(np.float32)
    return _network("net (float[T, N, 6] x) => (float[N, 6] y)", lines, stored, seed), {"x": x}


NETWORKS = {"conv": chain, "res": residual, "dense": encoder, "lstm": recurrent}
_KINDS = ("noise", "scaled", "swapped", "few bits")


def with_fault(model, place, seed):
    """A copy with a fault in the weight of one layer."""
    rng = np.random.default_rng(seed * 1000 + place)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(one for one in copy.graph.initializer if one.name == f"w{place}")
    weight = numpy_helper.to_array(tensor).copy()
    kind = _KINDS[rng.integers(len(_KINDS))]
    if kind == "noise":
        weight += 0.3 * weight.std() * rng.standard_normal(weight.shape).astype(np.float32)
    elif kind == "scaled":
        weight *= np.float32(1.3)
    elif kind == "swapped":
        axis = 1 if weight.ndim == 3 else weight.ndim - 1 if weight.ndim == 2 else 0
        rows = np.moveaxis(weight, axis, 0)
        rows[[1, 2]] = rows[[2, 1]]
    else:
        step = np.abs(weight).max() / 2
        weight = (np.round(weight / step) * step).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), tensor.name))
    return copy


def carried(model, places, seed, feeds):
    """For each subset of the faults the share of the difference that it carries, by running the other faults alone.

    A model in which these layers compute what they do in the first one is the one that has the other faults.
    """

    def answer(faults):
        faulty = model
        for place in faults:
            faulty = with_fault(faulty, place, seed)
        (y,) = onnxruntime.InferenceSession(faulty.SerializeToString()).run(None, feeds)
        return y.astype(np.float64)

    reference = answer(())
    whole = np.linalg.norm(answer(places) - reference)
    subsets = itertools.chain.from_iterable(itertools.combinations(places, n) for n in range(len(places) + 1))
    return {
        frozenset(chosen): 1 - np.linalg.norm(answer([p for p in places if p not in chosen]) - reference) / whole
        for chosen in subsets
    }
