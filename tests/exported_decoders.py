"""A decoder with a key-value cache in torch, and its files by both exporters of torch; used by tests of stepping."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

WORDS, WIDTH, HEADS, LAYERS = 13, 8, 2, 2
INPUTS = ["input_ids", "attention_mask", "position_ids"]
PAST = [f"past_key_values.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
PRESENT = [name.replace("past_key_values", "present") for name in PAST]


class Block(torch.nn.Module):
    """Attention over what was and is, and a small network behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = torch.nn.Linear(WIDTH, WIDTH)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(WIDTH, 16), torch.nn.GELU(), torch.nn.Linear(16, WIDTH))

    def forward(self, x, bias, key, value):
        batch, length, _ = x.shape
        heads = (batch, length, HEADS, WIDTH // HEADS)
        q, k, v = (part(x).reshape(heads).transpose(1, 2) for part in (self.q, self.k, self.v))
        key, value = torch.cat([key, k], 2), torch.cat([value, v], 2)
        shares = (q @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + bias).softmax(-1)
        x = x + self.out((shares @ value).transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.mlp(x), key, value


class Decoder(torch.nn.Module):
    """Logits of the tokens given, with the keys and values of all."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(WORDS, WIDTH)
        self.places = torch.nn.Embedding(32, WIDTH)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = torch.nn.Linear(WIDTH, WORDS)

    def forward(self, input_ids, attention_mask, position_ids, past):
        x = self.table(input_ids) + self.places(position_ids)
        # Places are counted by the mask, so that what fills up on the left has none.
        places = attention_mask.cumsum(1) - 1
        later = places[:, None, :] > position_ids[:, :, None]
        unseen = (later | (attention_mask == 0)[:, None, :])[:, None]
        bias = unseen.to(x.dtype) * -10000.0
        present = []
        for place, block in enumerate(self.blocks):
            x, key, value = block(x, bias, past[2 * place], past[2 * place + 1])
            present += [key, value]
        return (self.head(x), *present)


def torch_decoder(seed: int = 0) -> Decoder:
    """The same one for the same seed."""
    torch.manual_seed(seed)
    return Decoder().eval().requires_grad_(False)


def full_logits(decoder: Decoder, tokens: list[int]) -> torch.Tensor:
    """Of (tokens, words), all at once and without a cache."""
    ids, empty = torch.tensor([tokens]), [torch.zeros(1, HEADS, 0, WIDTH // HEADS)] * len(PAST)
    with torch.no_grad():
        return decoder(ids, torch.ones_like(ids), torch.arange(len(tokens))[None], empty)[0][0]


def greedy(decoder: Decoder, tokens: list[int], count: int) -> list[int]:
    """So many tokens that follow, everything computed anew each time."""
    given = list(tokens)
    for _ in range(count):
        given.append(int(full_logits(decoder, given)[-1].argmax()))
    return given[len(tokens) :]


def export(decoder: Decoder, path: Path, *, dynamo: bool) -> None:
    """Write its file, with the names that exporters give."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own parts
        _export(decoder, path, dynamo)


def _export(decoder: Decoder, path: Path, dynamo: bool) -> None:
    # Of each its own tensor: what is one object here becomes one input in the file.
    ids, places = torch.ones(2, 3, dtype=torch.int64), torch.arange(3).repeat(2, 1)
    past = [torch.zeros(2, HEADS, 4, WIDTH // HEADS) for _ in PAST]
    arguments = (ids, torch.ones(2, 7, dtype=torch.int64), places, past)
    names = {"input_names": [*INPUTS, *PAST], "output_names": ["logits", *PRESENT]}
    if dynamo:
        batch, length, before = (torch.export.Dim(name, min=1) for name in ("batch", "seq", "past"))
        shapes = {
            "input_ids": {0: batch, 1: length},
            "attention_mask": {0: batch, 1: torch.export.Dim.DYNAMIC},
            "position_ids": {0: batch, 1: length},
            "past": [{0: batch, 2: before}] * len(PAST),
        }
        torch.onnx.export(decoder, arguments, path, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        return
    axes = {"input_ids": {0: "batch", 1: "sequence_length"}, "position_ids": {0: "batch", 1: "sequence_length"}}
    axes |= {"attention_mask": {0: "batch", 1: "total_sequence_length"}, "logits": {0: "batch", 1: "sequence_length"}}
    axes |= {name: {0: "batch", 2: "past_sequence_length"} for name in PAST}
    axes |= {name: {0: "batch", 2: "total_sequence_length"} for name in PRESENT}
    torch.onnx.export(decoder, arguments, str(path), dynamo=False, dynamic_axes=axes, opset_version=17, **names)
