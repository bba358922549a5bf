"""A tokenizer that is trained on a paragraph, and models that take text."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer

PARAGRAPH = (
    "A model reads text as numbers. What makes numbers of text is a tokenizer, and each model has its own. "
    "The words that it knows stand in a table, and a word that it does not know is one of them too."
)
SPECIAL = ("[UNK]", "[PAD]", "[CLS]", "[SEP]")
VOCABULARY = 64


def trained(*, pad=True, side="right", cut=None, pads=SPECIAL):
    """Words of a paragraph by their numbers, between `[CLS]` and `[SEP]`."""
    tokenizer = Tokenizer(WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.train_from_iterator([PARAGRAPH], WordLevelTrainer(vocab_size=VOCABULARY, special_tokens=list(pads)))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    if pad:
        tokenizer.enable_padding(direction=side, pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    if cut is not None:
        tokenizer.enable_truncation(cut)
    return tokenizer


def model_of(inputs, body, **arrays):
    """A model of these inputs, its operators and its weights."""
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({inputs}) => (float[batch, seq, 4] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    generator = np.random.default_rng(19)
    table = generator.normal(size=(VOCABULARY, 4)).astype(np.float32)
    for name, array in {"table": table, **arrays}.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


IDS = "int64[batch, seq] input_ids"
MASKED = f"{IDS}, int64[batch, seq] attention_mask"
EMBEDDING = "y = Gather (table, input_ids)"
WEIGHED = """e = Gather (table, input_ids)  f = Cast <to = 1> (attention_mask)
    last = Constant <value_ints = [2]> ()  u = Unsqueeze (f, last)  y = Mul (e, u)"""

HEADS, WIDTH = 2, 4
ENCODER = """
    e = Gather (table, input_ids)
    q = MatMul (e, wq)  k = MatMul (e, wk)  v = MatMul (e, wv)
    heads = Constant <value_ints = [0, 0, 2, 2]> ()
    qs = Reshape (q, heads)  qh = Transpose <perm = [0, 2, 1, 3]> (qs)
    ks = Reshape (k, heads)  kh = Transpose <perm = [0, 2, 3, 1]> (ks)
    vs = Reshape (v, heads)  vh = Transpose <perm = [0, 2, 1, 3]> (vs)
    scores = MatMul (qh, kh)
    middle = Constant <value_ints = [1, 2]> ()
    keep = Cast <to = 9> (attention_mask)  keeps = Unsqueeze (keep, middle)
    nothing = Constant <value_float = -inf> ()
    masked = Where (keeps, scores, nothing)
    shares = Softmax (masked)
    ch = MatMul (shares, vh)  cs = Transpose <perm = [0, 2, 1, 3]> (ch)
    joined = Constant <value_ints = [0, 0, 4]> ()
    context = Reshape (cs, joined)
    hidden = MatMul (context, wo)  y = Relu (hidden)
    last = Constant <value_ints = [2]> ()  first = Constant <value_ints = [1]> ()
    weight = Cast <to = 1> (attention_mask)  weights = Unsqueeze (weight, last)
    weighed = Mul (y, weights)  total = ReduceSum <keepdims = 0> (weighed, first)
    count = ReduceSum (weight, first)
    pooled = Div (total, count)"""
"""Attention of two heads, and a mean over the tokens that a mask keeps."""


def encoder(inputs=MASKED):
    """An encoder of tokens; its outputs are `y` of every token, and `pooled`."""
    generator = np.random.default_rng(20)
    weights = {name: generator.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("wq", "wk", "wv", "wo")}
    proto = model_of(inputs, ENCODER, **weights)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("pooled", 1, ["batch", WIDTH]))
    return proto
