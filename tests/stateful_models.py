"""Small models whose outputs feed their inputs, and the same in torch; used by tests of stepping."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS, WIDTH = 13, 8


def _array(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHTS = {
    "table": _array(1, WORDS, WIDTH),
    "places": _array(2, 40, WIDTH),
    "vocabulary": _array(9, WIDTH, WORDS),
    **{name: _array(3 + index, WIDTH, WIDTH) for index, name in enumerate(("wq", "wk", "wv", "wo"))},
}


def decoder(cache: bool = True, **weights: np.ndarray) -> onnx.ModelProto:
    """A decoder of one layer and one head, with a key-value cache or without."""
    past = """, float[batch, 1, past, 8] past_key, float[batch, 1, past, 8] past_value"""
    present = """, float[batch, 1, total, 8] present_key, float[batch, 1, total, 8] present_value"""
    joined = """
        present_key = Concat <axis = 2> (past_key, k)
        present_value = Concat <axis = 2> (past_value, v)"""
    names = ("present_key", "present_value") if cache else ("k", "v")
    text = f"""<ir_version: 10, opset_import: ["": 21]>
    decoder (int64[batch, seq] input_ids, int64[batch, total] attention_mask, int64[batch, seq] position_ids
        {past if cache else ""}) => (float[batch, seq, 13] logits{present if cache else ""})
        <int64[1] head = {{1}}, int64[1] last = {{-1}}, int64 zero = {{0}}, int64 one = {{1}}, int64 nothing = {{0}},
        float low = {{-10000.0}}, float scale = {{0.35355338}}, float none = {{0.0}}, int64[1] second = {{1}}> {{
        e = Gather (table, input_ids)
        p = Gather (places, position_ids)
        h = Add (e, p)
        q0 = MatMul (h, wq)
        q = Unsqueeze (q0, head)
        k0 = MatMul (h, wk)
        k = Unsqueeze (k0, head)
        v0 = MatMul (h, wv)
        v = Unsqueeze (v0, head)
        {joined if cache else ""}
        kt = Transpose <perm = [0, 1, 3, 2]> ({names[0]})
        s0 = MatMul (q, kt)
        s1 = Mul (s0, scale)
        shape = Shape (attention_mask)
        count1 = Gather (shape, second)
        count = Squeeze (count1)
        keys = Range (zero, count, one)
        at = Unsqueeze (position_ids, last)
        later = Greater (keys, at)
        bias0 = Where (later, low, none)
        bias1 = Unsqueeze (bias0, head)
        s2 = Add (s1, bias1)
        unseen0 = Equal (attention_mask, nothing)
        unseen1 = Unsqueeze (unseen0, head)
        unseen = Unsqueeze (unseen1, head)
        bias2 = Where (unseen, low, none)
        s3 = Add (s2, bias2)
        a = Softmax <axis = -1> (s3)
        o0 = MatMul (a, {names[1]})
        o1 = Squeeze (o0, head)
        o2 = MatMul (o1, wo)
        o = Add (h, o2)
        logits = MatMul (o, vocabulary)
    }}"""
    model = onnx.parser.parse_model(text)
    _rename(model.graph)
    for name, weight in {**WEIGHTS, **weights}.items():
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


def _rename(graph: onnx.GraphProto) -> None:
    """The names that exporters give, which onnx's text cannot say."""
    names = {
        f"{kind}_{part}": f"{longer}.0.{part}"
        for kind, longer in (("past", "past_key_values"), ("present", "present"))
        for part in ("key", "value")
    }
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for lists in (node.input, node.output):
            lists[:] = [names.get(name, name) for name in lists]


def torch_logits(tokens: list[int], **weights: np.ndarray) -> torch.Tensor:
    """What the decoder gives for all tokens at once, by torch and without a cache."""
    held = {name: torch.from_numpy(weight) for name, weight in {**WEIGHTS, **weights}.items()}
    h = held["table"][tokens] + held["places"][: len(tokens)]
    scores = (h @ held["wq"]) @ (h @ held["wk"]).T / WIDTH**0.5
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
    return (h + scores.softmax(-1) @ (h @ held["wv"]) @ held["wo"]) @ held["vocabulary"]


def torch_greedy(tokens: list[int], count: int, **weights: np.ndarray) -> list[int]:
    """So many tokens that follow, each the likeliest one, everything computed anew each time."""
    given = list(tokens)
    for _ in range(count):
        given.append(int(torch_logits(given, **weights)[-1].argmax()))
    return given[len(tokens) :]


def numpy_logits(tokens: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the decoder gives for all tokens, by numpy in float64, with all keys and values."""
    held = {name: weight.astype(np.float64) for name, weight in WEIGHTS.items()}
    h = held["table"][tokens] + held["places"][: len(tokens)]
    keys, values = h @ held["wk"], h @ held["wv"]
    scores = (h @ held["wq"]) @ keys.T / WIDTH**0.5
    scores = np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return (h + shares @ values @ held["wo"]) @ held["vocabulary"], keys, values


def numpy_lstm(cell: torch.nn.LSTM, frames: np.ndarray, h: np.ndarray, c: np.ndarray) -> np.ndarray:
    """What `recurrent` gives for (steps, inputs) from these cells of (width,), by numpy in float64."""
    weights = {name: value.detach().numpy().astype(np.float64) for name, value in cell.named_parameters()}
    steps = []
    for frame in frames.astype(np.float64):
        gates = weights["weight_ih_l0"] @ frame + weights["weight_hh_l0"] @ h
        i, f, g, o = (gates + weights["bias_ih_l0"] + weights["bias_hh_l0"]).reshape(4, -1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        steps.append(h)
    return np.stack(steps)


def recurrent(width: int = 6, inputs: int = 4, *, rate: bool = False) -> tuple[onnx.ModelProto, torch.nn.LSTM]:
    """An LSTM that takes one frame of (batch, inputs) with its cells, and torch's of the same weights."""
    torch.manual_seed(0)
    cell = torch.nn.LSTM(inputs, width)
    order = [0, 3, 1, 2]  # torch's i f g o become ONNX's i o f c

    def gates(weight: torch.Tensor) -> np.ndarray:
        blocks = weight.detach().numpy().reshape(4, width, -1)
        return np.ascontiguousarray(blocks[order].reshape(4 * width, -1))

    weights = {
        "W": gates(cell.weight_ih_l0)[None],
        "R": gates(cell.weight_hh_l0)[None],
        "B": np.concatenate([gates(cell.bias_ih_l0), gates(cell.bias_hh_l0)]).reshape(1, -1),
        "first": np.array([0]),
        "second": np.array([1]),
    }
    kind = onnx.TensorProto.FLOAT
    values = [("frame", ["batch", inputs]), ("h", [1, "batch", width]), ("c", [1, "batch", width])]
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["frame", "first"], ["x"]),
            helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y4", "hn", "cn"], hidden_size=width),
            helper.make_node("Squeeze", ["y4", "second"], ["y3"]),
            helper.make_node("Squeeze", ["y3", "first"], ["y"]),
        ],
        "cell",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in values]
        + ([helper.make_tensor_value_info("sr", onnx.TensorProto.INT64, [])] if rate else []),
        [
            helper.make_tensor_value_info("y", kind, ["batch", width]),
            helper.make_tensor_value_info("hn", kind, [1, "batch", width]),
            helper.make_tensor_value_info("cn", kind, [1, "batch", width]),
        ],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), cell


WORDS_OF_IT = ("[UNK]", "[PAD]", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "no")
"""What a tokenizer for `decoder` calls its thirteen tokens."""


def small_tokenizer() -> Tokenizer:
    """Words by their numbers."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS_OF_IT)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(pad_id=1, pad_token="[PAD]")
    return tokenizer
