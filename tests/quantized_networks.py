"""Small random networks of PyTorch, exported and quantized by onnxruntime's tools in every form."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
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


NETWORKS = {
    "encoder": (Encoder, lambda: torch.randint(0, 50, (16, 10)), 0),
    "lstm": (lambda: Recurrent("LSTM"), lambda: torch.randn(7, 8, 12), 1),
    "gru": (lambda: Recurrent("GRU"), lambda: torch.randn(7, 8, 12), 1),
    "mobile": (Mobile, lambda: torch.randn(8, 3, 24, 24), 0),
}


class Reader(CalibrationDataReader):
    def __init__(self, x):
        self._batches = iter([{"x": x}])

    def get_next(self):
        return next(self._batches, None)


def export(name: str, folder: Path) -> tuple[Path, np.ndarray]:
    """The exported file of a network, and its data."""
    torch.manual_seed(0)
    make, data, axis = NETWORKS[name]
    network, x = make().eval(), data()
    path = folder / f"{name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (x,),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamo=False,
            opset_version=21,
            dynamic_axes={"x": {axis: "batch"}},
        )
    return path, x.numpy()


def quantized(source: Path, x: np.ndarray, form: str) -> Path:
    """The network in another form, beside the exported file; without the log of the quantizers."""
    target = source.with_name(f"{form}.onnx")
    per_channel = form.endswith("channel")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if form.startswith("dynamic"):
                quantize_dynamic(source, target, per_channel=per_channel, reduce_range=True)  # see quantized_copies
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
                    Reader(x),
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
