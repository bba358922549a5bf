"""Small random networks of PyTorch, exported and quantized by onnxruntime's tools in every form."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

torch = pytest.importorskip("torch")
nn = torch.nn


class Encoder(nn.Module):
    """Two transformer layers with post-normalization, and a classifier of the first token."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.embed, self.position, self.heads = nn.Embedding(50, width), nn.Embedding(16, width), heads
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {name: nn.Linear(width, width) for name in ("query", "key", "value", "out")}
                | {"norm1": nn.LayerNorm(width), "norm2": nn.LayerNorm(width)}
                | {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
            )
            for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, ids):
        batch, length = ids.shape
        x = self.embed(ids) + self.position(torch.arange(length))
        for layer in self.layers:
            query, key, value = (
                layer[name](x).reshape(batch, length, self.heads, -1).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            scores = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
            x = layer["norm1"](x + layer["out"]((scores @ value).transpose(1, 2).reshape(batch, length, -1)))
            x = layer["norm2"](x + layer["fc2"](nn.functional.gelu(layer["fc1"](x))))
        return self.head(x[:, 0])


class Recurrent(nn.Module):
    """A bidirectional recurrent layer over time steps, and a classifier."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = getattr(nn, kind)(12, 16, bidirectional=True), nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.rnn(x)[0][-1])


class Mobile(nn.Module):
    """Depthwise and pointwise convolutions with three kinds of activation functions."""

    def __init__(self):
        super().__init__()

        def block(inner, outer, stride):
            return nn.Sequential(
                nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU6(),
                nn.Conv2d(inner, outer, 1, bias=False),
                nn.BatchNorm2d(outer),
                nn.Hardswish(),
            )

        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.blocks, self.fc = nn.Sequential(block(8, 16, 1), block(16, 24, 2)), nn.Linear(24, 10)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Bert(nn.Module):
    """Two layers of BERT as its own code spells them, with three tables of embeddings and a mask."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(50, width), nn.Embedding(16, width), nn.Embedding(2, width)
        self.norm, self.heads, self.size = nn.LayerNorm(width), heads, width // heads
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {name: nn.Linear(width, width) for name in ("query", "key", "value", "dense")}
                | {"norm1": nn.LayerNorm(width), "norm2": nn.LayerNorm(width)}
                | {"intermediate": nn.Linear(width, 4 * width), "output": nn.Linear(4 * width, width)}
            )
            for _ in range(2)
        )
        self.pooler = nn.Linear(width, width)

    def split(self, hidden):
        return hidden.view(hidden.size(0), hidden.size(1), self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, ids, kinds, mask):
        hidden = self.norm(self.words(ids) + self.kinds(kinds) + self.places(torch.arange(10)[None]))
        added = (1.0 - mask[:, None, None, :].to(torch.float32)) * -10000.0
        for layer in self.layers:
            query, key, value = (self.split(layer[name](hidden)) for name in ("query", "key", "value"))
            scores = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(self.size) + added, -1)
            mixed = (scores @ value).permute(0, 2, 1, 3).contiguous()
            mixed = mixed.view(mixed.size(0), mixed.size(1), self.heads * self.size)
            hidden = layer["norm1"](layer["dense"](mixed) + hidden)
            hidden = layer["norm2"](layer["output"](nn.functional.gelu(layer["intermediate"](hidden))) + hidden)
        return torch.tanh(self.pooler(hidden[:, 0]))


class Decoder(nn.Module):
    """Two transformer layers with pre-normalization behind a key-value cache, as GPT-2 has them, and a tied head."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.wte, self.wpe, self.heads = nn.Embedding(50, width), nn.Embedding(32, width), heads
        self.h = nn.ModuleList(
            nn.ModuleDict(
                {"ln_1": nn.LayerNorm(width), "ln_2": nn.LayerNorm(width)}
                | {"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)}
                | {"c_fc": nn.Linear(width, 4 * width), "c_out": nn.Linear(4 * width, width)}
            )
            for _ in range(2)
        )
        self.ln_f = nn.LayerNorm(width)

    def forward(self, ids, past):
        batch, length = ids.shape
        before = past.shape[-2]
        hidden = self.wte(ids) + self.wpe(torch.arange(before, before + length))
        seen = torch.ones(before + length, before + length).tril()[before:] > 0
        present = []
        for layer, cache in zip(self.h, past, strict=True):
            query, key, value = (
                part.reshape(batch, length, self.heads, -1).transpose(1, 2)
                for part in layer["c_attn"](layer["ln_1"](hidden)).chunk(3, -1)
            )
            key, value = torch.cat([cache[0], key], -2), torch.cat([cache[1], value], -2)
            present.append(torch.stack([key, value]))
            scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~seen, -1e4)
            mixed = (torch.softmax(scores, -1) @ value).transpose(1, 2).reshape(batch, length, -1)
            hidden = hidden + layer["c_proj"](mixed)
            raised = nn.functional.gelu(layer["c_fc"](layer["ln_2"](hidden)), approximate="tanh")
            hidden = hidden + layer["c_out"](raised)
        return self.ln_f(hidden) @ self.wte.weight.T, torch.stack(present)


class Vision(nn.Module):
    """Patches, a class token, two transformer layers with pre-normalization and one product for all of q, k and v."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.patch_embed, self.heads = nn.Conv2d(3, width, 4, 4), heads
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width) / 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {"norm1": nn.LayerNorm(width), "norm2": nn.LayerNorm(width)}
                | {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
                | {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
            )
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        hidden = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        for block in self.blocks:
            parts = block["qkv"](block["norm1"](hidden)).reshape(len(x), 17, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            scores = torch.softmax(parts[0] @ parts[1].transpose(-1, -2) / parts.shape[-1] ** 0.5, -1)
            hidden = hidden + block["proj"]((scores @ parts[2]).transpose(1, 2).reshape(len(x), 17, -1))
            hidden = hidden + block["fc2"](nn.functional.gelu(block["fc1"](block["norm2"](hidden))))
        return self.head(self.norm(hidden)[:, 0])


class Bridged(nn.Module):
    """A U-Net: convolutions down and up with a bridge between them, and attention over the places at the bottom."""

    def __init__(self, width=16):
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.norm_in, self.norm_mid = nn.GroupNorm(4, width), nn.GroupNorm(4, 2 * width)
        self.to_qkv, self.to_out = nn.Conv2d(2 * width, 6 * width, 1), nn.Conv2d(2 * width, 2 * width, 1)
        self.up, self.merge = nn.ConvTranspose2d(2 * width, width, 2, 2), nn.Conv2d(2 * width, width, 3, 1, 1)
        self.leave = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        high = nn.functional.silu(self.norm_in(self.enter(x)))
        low = nn.functional.silu(self.down(high))
        batch, channels, side, _ = low.shape
        query, key, value = self.to_qkv(self.norm_mid(low)).flatten(2).chunk(3, 1)
        scores = torch.softmax(query.transpose(1, 2) @ key / channels**0.5, -1)
        low = low + self.to_out((value @ scores.transpose(1, 2)).reshape(batch, channels, side, side))
        return self.leave(nn.functional.relu(self.merge(torch.cat([self.up(low), high], 1))))


def _masked():
    mask = torch.ones(12, 10, dtype=torch.int64)
    mask[::2, 7:] = 0
    return torch.randint(0, 50, (12, 10)), torch.randint(0, 2, (12, 10)), mask


def _cached():
    return torch.randint(0, 50, (12, 6)), torch.randn(2, 2, 12, 4, 5, 8) / 2


NETWORKS = {
    "encoder": (Encoder, lambda: torch.randint(0, 50, (16, 10)), {"x": 0}),
    "bert": (Bert, _masked, {"x": 0, "kinds": 0, "mask": 0}),
    "decoder": (Decoder, _cached, {"x": 0, "past": 2}),
    "vision": (Vision, lambda: torch.randn(12, 3, 16, 16), {"x": 0}),
    "bridged": (Bridged, lambda: torch.randn(8, 3, 12, 12), {"x": 0}),
    "lstm": (lambda: Recurrent("LSTM"), lambda: torch.randn(7, 8, 12), {"x": 1}),
    "gru": (lambda: Recurrent("GRU"), lambda: torch.randn(7, 8, 12), {"x": 1}),
    "mobile": (Mobile, lambda: torch.randn(8, 3, 24, 24), {"x": 0}),
}
"""What makes a network, its inputs, and the axis of samples of each."""

Feeds = dict[str, np.ndarray]


def export(name: str, folder: Path, opset: int = 21) -> tuple[Path, Feeds]:
    """The exported file of a network, and its data."""
    torch.manual_seed(0)
    make, data, axes = NETWORKS[name]
    network, inputs = make().eval(), data()
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    path = folder / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            inputs,
            path,
            input_names=list(axes),
            output_names=["y", "present"][: 1 + ("past" in axes)],
            dynamo=False,
            opset_version=opset,
            dynamic_axes={name: {axis: "batch"} for name, axis in axes.items()},
        )
    return path, {name: array.numpy() for name, array in zip(axes, inputs, strict=True)}


def run_options(name: str, feeds: Feeds) -> dict[str, object]:
    """What tells `diff` that all samples are one batch."""
    axes = NETWORKS[name][2]
    return {"batch_size": feeds["x"].shape[axes["x"]], "batch_axis": axes}


class Reader(CalibrationDataReader):
    def __init__(self, feeds):
        self._batches = iter([feeds])

    def get_next(self):
        return next(self._batches, None)


def quantized(source: Path, feeds: Feeds, form: str) -> Path:
    """The network in another form, beside the exported file; without the log of the quantizers."""
    target = source.with_name(f"{form}.onnx")
    per_channel = form.endswith("channel")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if form.startswith("dynamic"):
                types = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # for operators whose types are not inferred
                quantize_dynamic(  # see quantized_copies
                    source, target, per_channel=per_channel, reduce_range=True, extra_options=types
                )
            elif form == "float16":
                from onnxruntime.transformers.float16 import convert_float_to_float16

                onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
            elif form == "bfloat16":
                onnx.save(with_brief_weights(onnx.load(source)), target)
            elif form.startswith("int4"):
                from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

                spelled = QuantFormat.QDQ if form.endswith("blocks") else QuantFormat.QOperator
                quantizer = MatMulNBitsQuantizer(
                    onnx.load(source), block_size=16, is_symmetric=not form.endswith("blocks"), quant_format=spelled
                )
                quantizer.process()
                onnx.save(quantizer.model.model, target)
            else:
                kinds = {"16 bits": (QuantType.QUInt16, QuantType.QInt8), "float8": (QuantType.QFLOAT8E4M3FN,) * 2}
                activations, weights = kinds.get(form, (QuantType.QUInt8, QuantType.QInt8))
                quantize_static(
                    str(source),
                    str(target),
                    Reader(feeds),
                    quant_format=QuantFormat.QOperator if form == "QOperator" else QuantFormat.QDQ,
                    per_channel=per_channel,
                    reduce_range=form not in kinds,
                    activation_type=activations,
                    weight_type=weights,
                    calibrate_method=CalibrationMethod.Distribution if form == "float8" else CalibrationMethod.MinMax,
                )
    finally:
        logging.disable(logging.NOTSET)
    return target


def with_brief_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with weights in bfloat16, which are cast for operators that have no kernel of that type."""
    for tensor in proto.graph.initializer:
        array, name = numpy_helper.to_array(tensor), tensor.name
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(ml_dtypes.bfloat16), f"{name}_bf16"))
            proto.graph.node.insert(0, onnx.helper.make_node("Cast", [tensor.name], [name], f"cast_{name}", to=1))
    return proto
