"""Small networks of PyTorch, quantized in every way: each layer's signal-to-noise ratio, against plain onnxruntime.

The quantizers keep the names of the tensors, so that plain onnxruntime can be asked for the same tensor of both files:
as it is, or as the real numbers behind the codes that stand for it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
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

import onnxscope

torch = pytest.importorskip("torch")
nn = torch.nn

ALLOWED = 0.5  # dB
FORMS = [
    "dynamic",
    "dynamic by channel",
    "QDQ",
    "QDQ by channel",
    "QOperator",
    "16 bits",
    "float8",
    "int4",
    "int4 blocks",
]


REFUSED = {("encoder", "float8"), ("mobile", "QOperator")}
"""What onnxruntime's quantizer ends with an exception for (1.32)."""


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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The exported file and its data, by the network's name."""
    made: dict[str, tuple[Path, np.ndarray]] = {}

    def export(name: str) -> tuple[Path, np.ndarray]:
        if name not in made:
            torch.manual_seed(0)
            make, data, axis = NETWORKS[name]
            network, x = make().eval(), data()
            path = tmp_path_factory.mktemp(name) / f"{name}.onnx"
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
            made[name] = path, x.numpy()
        return made[name]

    return export


def quantized(source: Path, x: np.ndarray, form: str) -> Path:
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


def values(proto: onnx.ModelProto, names: list[str], x: np.ndarray, level="ORT_DISABLE_ALL") -> dict[str, np.ndarray]:
    """Values by plain onnxruntime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    declared = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in declared)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def held(proto: onnx.ModelProto, tensor: str, x: np.ndarray) -> Iterator[np.ndarray]:
    """What the quantized model holds of a tensor: as it is, and as the real numbers behind its codes.

    Its optimizer multiplies codes where the file multiplies real numbers, which rounds otherwise.
    """
    produced = {name for node in proto.graph.node for name in node.output}
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        if tensor in produced:
            yield values(proto, [tensor], x, level)[tensor]
    for name in (f"{tensor}_quantized", f"{tensor}_QuantizeLinear_Output"):
        scale, zero_point = stored.get(f"{tensor}_scale"), stored.get(f"{tensor}_zero_point")
        if name in produced and scale is not None and zero_point is not None and zero_point.dtype.kind in "iu":
            codes = values(proto, [name], x)[name].astype(np.float64)
            yield (codes - zero_point) * scale
    if f"{tensor}_DequantizeLinear_Output" in produced:
        yield values(proto, [f"{tensor}_DequantizeLinear_Output"], x)[f"{tensor}_DequantizeLinear_Output"]


def decibels(reference: np.ndarray, other: np.ndarray) -> float:
    gap = np.square(reference.astype(np.float64) - other).sum()
    return float(-10 * np.log10(gap / np.square(reference.astype(np.float64)).sum())) if gap else np.inf


QUICK = {("encoder", "dynamic"), ("encoder", "int4"), ("lstm", "dynamic"), ("mobile", "QDQ by channel")}
CASES = [
    pytest.param(network, form, marks=[] if (network, form) in QUICK else [pytest.mark.acceptance])
    for network in NETWORKS
    for form in FORMS
    if (network, form) not in REFUSED
]


@pytest.mark.parametrize(("network", "form"), CASES)
def test_every_layer_has_the_ratio_of_plain_onnxruntime(network, form, exported):
    source, x = exported(network)
    target = quantized(source, x, form)
    axis = NETWORKS[network][2]
    compared = onnxscope.diff(source, target, x, batch_size=len(np.moveaxis(x, axis, 0)), batch_axis={"x": axis})
    proto, copy = onnx.load(source), onnx.load(target)
    assert not compared.only_a
    assert not compared.only_b
    wrong = {}
    for row in compared.layers:
        assert row.entire is not None, row.a.layer
        reference = values(proto, [row.a.name], x)[row.a.name]
        ratios = [decibels(reference, other) for other in held(copy, row.a.name, x) if other.shape == reference.shape]
        shown = np.inf if row.entire.sqnr_db is None else row.entire.sqnr_db
        if ratios and not any(abs(shown - ratio) < ALLOWED or shown == ratio for ratio in ratios):
            wrong[row.a.layer] = shown, ratios
    assert not wrong
