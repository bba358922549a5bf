"""Small networks of PyTorch, quantized in every way: each layer's signal-to-noise ratio, against plain onnxruntime.

The quantizers keep the names of the tensors, so that plain onnxruntime can be asked for the same tensor of both files:
as it is, or as the real numbers behind the codes that stand for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from quantized_networks import NETWORKS, export, quantized

import onnxscope

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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The exported file and its data, by the network's name."""
    made: dict[str, tuple[Path, np.ndarray]] = {}

    def one(name: str) -> tuple[Path, np.ndarray]:
        if name not in made:
            made[name] = export(name, tmp_path_factory.mktemp(name))
        return made[name]

    return one


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
