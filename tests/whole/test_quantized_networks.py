"""Small networks of PyTorch, quantized in every way: each layer's signal-to-noise ratio, against plain onnxruntime.

The quantizers keep the names of the tensors, so that plain onnxruntime can be asked for the same tensor of both files:
as it is, or as the real numbers behind the codes that stand for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from quantized_networks import Feeds, export, quantized, run_options

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
    "float16",
    "bfloat16",
]


MATRIX = ("encoder", "decoder", "vision", "bridged", "lstm", "gru", "mobile")
_NO_HISTOGRAM = "the calibration of float8 has no mean for tensors that are no floating-point numbers"
REFUSED = {
    **{(name, "float8"): _NO_HISTOGRAM for name in ("encoder", "decoder", "vision", "bridged")},
    ("mobile", "QOperator"): "it looks for the stored numbers of a bias that an Identity hands on",
}
"""What onnxruntime's quantizer ends with an exception for (1.32), with its reason."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The exported file and its data, by the network's name."""
    made: dict[str, tuple[Path, Feeds]] = {}

    def one(name: str) -> tuple[Path, Feeds]:
        if name not in made:
            made[name] = export(name, tmp_path_factory.mktemp(name))
        return made[name]

    return one


def values(proto: onnx.ModelProto, names: list[str], feeds: Feeds, level="ORT_DISABLE_ALL") -> dict[str, np.ndarray]:
    """Values by plain onnxruntime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    declared = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in declared)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds), strict=True))


def held(proto: onnx.ModelProto, tensor: str, feeds: Feeds) -> Iterator[np.ndarray]:
    """What the quantized model holds of a tensor: as it is, and as the real numbers behind its codes.

    Its optimizer multiplies codes where the file multiplies real numbers, which rounds otherwise.
    """
    produced = {name for node in proto.graph.node for name in node.output}
    stored = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        if tensor in produced:
            yield values(proto, [tensor], feeds, level)[tensor]
    for name in (f"{tensor}_quantized", f"{tensor}_QuantizeLinear_Output"):
        scale, zero_point = stored.get(f"{tensor}_scale"), stored.get(f"{tensor}_zero_point")
        if name in produced and scale is not None and zero_point is not None and zero_point.dtype.kind in "iu":
            codes = values(proto, [name], feeds)[name].astype(np.float64)
            yield (codes - zero_point) * scale
    if f"{tensor}_DequantizeLinear_Output" in produced:
        yield values(proto, [f"{tensor}_DequantizeLinear_Output"], feeds)[f"{tensor}_DequantizeLinear_Output"]


def optimized(source: Path, kind: str) -> Path:
    """What onnxruntime's optimizer of transformers makes of a file."""
    from onnxruntime.transformers.optimizer import optimize_model

    logging.disable(logging.WARNING)
    try:
        made = optimize_model(str(source), model_type=kind, num_heads=4, hidden_size=32, opt_level=0)
    finally:
        logging.disable(logging.NOTSET)
    target = source.with_name("optimized.onnx")
    if not any(entry.domain == "com.microsoft" for entry in made.model.opset_import):
        made.model.opset_import.add(domain="com.microsoft", version=1)
    onnx.save(made.model, target)
    return target


def decibels(reference: np.ndarray, other: np.ndarray) -> float:
    gap = np.square(reference.astype(np.float64) - other).sum()
    return float(-10 * np.log10(gap / np.square(reference.astype(np.float64)).sum())) if gap else np.inf


QUICK = {("encoder", "dynamic"), ("encoder", "int4"), ("lstm", "dynamic"), ("mobile", "QDQ by channel")}
QUICK |= {("decoder", "QOperator"), ("vision", "float16"), ("bridged", "QDQ")}
CASES = [
    pytest.param(network, form, marks=[] if (network, form) in QUICK else [pytest.mark.acceptance])
    for network in MATRIX
    for form in FORMS
    if (network, form) not in REFUSED
]


@pytest.mark.parametrize(("network", "form"), CASES)
def test_every_layer_has_the_ratio_of_plain_onnxruntime(network, form, exported):
    source, feeds = exported(network)
    target = quantized(source, feeds, form)
    compared = onnxscope.diff(source, target, feeds, **run_options(network, feeds))
    proto, copy = onnx.load(source), onnx.load(target)
    assert not compared.only_a
    assert not compared.only_b
    # Of half precision each value that is looked at is rounded: those that are looked at together, as here.
    together = values(copy, [row.b.name for row in compared.layers], feeds) if form == "float16" else {}
    wrong = {}
    for row in compared.layers:
        assert row.entire is not None, row.a.layer
        reference = values(proto, [row.a.name], feeds)[row.a.name]
        held_there = [together[row.b.name]] if together else held(copy, row.a.name, feeds)
        ratios = [decibels(reference, other) for other in held_there if other.shape == reference.shape]
        shown = np.inf if row.entire.sqnr_db is None else row.entire.sqnr_db
        if ratios and not any(abs(shown - ratio) < ALLOWED or shown == ratio for ratio in ratios):
            wrong[row.a.layer] = shown, ratios
    assert not wrong


# Of the network with convolutions ("bridged") the optimizer makes NhwcConv and GroupNorm, which onnxruntime has no CPU
# kernel for: there is nothing to compare with.
OPTIMIZED = {
    "bert": ("bert", {"Attention", "SkipLayerNormalization", "BiasGelu"}),
    "decoder": ("gpt2", {"SkipLayerNormalization", "FastGelu"}),
    "encoder": ("bert", {"SkipLayerNormalization", "BiasGelu"}),
    "vision": ("vit", {"SkipLayerNormalization", "BiasGelu"}),
}


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=[] if name == "bert" else [pytest.mark.acceptance]) for name in OPTIMIZED]
)
def test_no_layer_is_guilty_between_a_model_and_its_optimized_copy(network, tmp_path):
    kind, fused = OPTIMIZED[network]
    source, feeds = export(network, tmp_path, opset=17)
    target = optimized(source, kind)
    assert fused <= {node.op_type for node in onnx.load(target).graph.node}
    for pair in ((source, target), (target, source)):
        result = onnxscope.diff(*pair, feeds, **run_options(network, feeds))
        assert (result.verdict, result.guilty) == ("equal", ())
        assert len(result.layers) > 14
    proto = onnx.load(target)
    node = next(node for node in proto.graph.node if node.op_type == "BiasGelu" or node.op_type == "FastGelu")
    made = next(one for one in proto.graph.node if node.input[0] in one.output)
    weight = next(one for one in proto.graph.initializer if one.name in made.input)
    array = numpy_helper.to_array(weight).copy()
    array[3, 5] += 0.25
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(proto, tmp_path / "changed.onnx")
    result = onnxscope.diff(source, tmp_path / "changed.onnx", feeds, **run_options(network, feeds))
    layers = {"bert": "intermediate", "decoder": "c_fc", "encoder": "fc1", "vision": "fc1"}
    assert [row.a.layer for row in result.guilty] == [layers[network]]


def test_a_packed_attention_that_is_quantized_is_compared_with_the_float_model(tmp_path):
    source, feeds = export("bert", tmp_path, opset=17)
    target = quantized(optimized(source, "bert"), feeds, "dynamic")
    assert "QAttention" in {node.op_type for node in onnx.load(target).graph.node}
    result = onnxscope.diff(source, target, feeds, **run_options("bert", feeds))
    rows = {row.a.layer: row for row in result.layers}
    assert not result.only_a
    assert not result.only_b
    assert all(row.own.sqnr_db is None or row.own.sqnr_db > 30 for row in rows.values())
    proto, copy = onnx.load(source), onnx.load(target)
    made = {name for node in copy.graph.node for name in node.output}
    outside = [row for row in rows.values() if row.b.name in made]
    assert len(outside) > 10  # without query, key and value, which one operator has inside
    for row in outside:
        reference, other = values(proto, [row.a.name], feeds), values(copy, [row.b.name], feeds)
        ratio = decibels(reference[row.a.name], other[row.b.name])
        assert abs(row.entire.sqnr_db - ratio) < ALLOWED, row.a.layer
