"""Thirty faults, each planted in one quantized layer: `diff` of the float model names that layer first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantized_networks import Feeds, export, quantized, run_options

import onnxscope


class Stored:
    """The stored tensors of a model by name, which can be put in place of others."""

    def __init__(self, proto: onnx.ModelProto, source: onnx.ModelProto, layer: str) -> None:
        self._proto = proto
        self._tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._layer = layer
        nodes = [node for node in source.graph.node if layer in node.name.split("/")]
        kinds = ("MatMul", "Gemm", "Conv", "LSTM", "Gather")
        self.source = min((node for node in nodes if node.op_type in kinds), key=lambda node: kinds.index(node.op_type))
        self.weight = self.source.input[int(self.source.op_type != "Gather")]

    def __getitem__(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._tensors[name]).copy()

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        before = self._tensors[name]
        after = numpy_helper.from_array(np.asarray(array).astype(numpy_helper.to_array(before).dtype), name)
        assert after.raw_data != before.raw_data or before.raw_data == b""
        before.CopyFrom(after)

    def name(self, what: str, weight: str = "") -> str:
        """What the quantizers call the codes, the scale or the zero point of the layer's weight."""
        stem = weight or self.weight
        names = [f"{stem}_{what}", f"{stem}_Transposed_{what}", f"{stem}_DQ_{what}"]
        return next(name for name in names if name in self._tensors)

    def node(self, *op_types: str) -> onnx.NodeProto:
        """The quantized layer's node of one of some kinds."""
        return next(
            node
            for node in self._proto.graph.node
            if node.op_type in op_types and self._layer in node.name.removesuffix("_quant").split("/")
        )

    def own(self, node: onnx.NodeProto, place: int, factor: float = 1.0, more: int = 0) -> None:
        """Give one node an operand of its own, changed, where others read the same one."""
        array, name = self[node.input[place]], f"{node.input[place]}_of_{node.op_type}"
        self._proto.graph.initializer.append(numpy_helper.from_array((array * factor + more).astype(array.dtype), name))
        node.input[place] = name

    def give(self, node: onnx.NodeProto, name: str, array: np.ndarray) -> None:
        """Give a node one more operand."""
        self._proto.graph.initializer.append(numpy_helper.from_array(array, name))
        node.input.append(name)

    def turn(self, name: str) -> None:
        """Turn the lowest bit of every code of four bits."""
        tensor = self._tensors[name]
        tensor.raw_data = bytes(byte ^ 0x11 for byte in tensor.raw_data)

    def rounding(self, op_type: str) -> onnx.NodeProto:
        """What makes codes of what leaves the layer, or real numbers of these."""
        tensor = next(node for node in self._proto.graph.node if self.is_last(node)).output[0]
        names = {f"{tensor}_{op_type}_Output", f"{tensor}_{op_type}_Input"}
        return next(
            node for node in self._proto.graph.node if node.op_type == op_type and names & {*node.input, *node.output}
        )

    def is_last(self, node: onnx.NodeProto) -> bool:
        """Whether a node is the last of the layer: its bias."""
        return node.op_type == "Add" and self._layer in node.name.split("/")


def scale(stored, weight=""):
    stored[stored.name("scale", weight)] = stored[stored.name("scale", weight)] * 1.25


def zero_point(stored, weight=""):
    stored[stored.name("zero_point", weight)] = stored[stored.name("zero_point", weight)] + 8


def transposed(stored, weight=""):
    name = stored.name("quantized", weight)
    codes = stored[name]
    codes[:8, :8] = codes[:8, :8].swapaxes(0, 1).copy()
    stored[name] = codes


def clipped(stored, weight=""):
    name = stored.name("quantized", weight)
    stored[name] = np.clip(stored[name], -36, 36)


def recurrent(fault):
    """The same fault in the weight of the hidden state."""
    return lambda stored: fault(stored, stored.source.input[2])


def swapped_scales(stored):
    """The channels with the largest and the smallest scales, and those next to them."""
    name = stored.name("scale")
    scales = stored[name]
    order = np.argsort(scales)
    scales[order] = scales[order[::-1]]
    stored[name] = scales


def one_channel(stored):
    name = stored.name("scale")
    scales = stored[name]
    scales[3] *= 2.5
    stored[name] = scales


def bias(stored):
    """Codes of a bias for another scale than the product of those of input and weight, which onnxruntime takes."""
    name = f"{stored.source.input[2]}_quantized"
    stored[name] = stored[name] * 4


def rounded_scale(stored):
    """Another scale where codes become real numbers than where they were made."""
    stored.own(stored.rounding("DequantizeLinear"), 1, factor=1.25)


def rounded_zero_point(stored):
    stored.own(stored.rounding("DequantizeLinear"), 2, more=9)


def rounded_range(stored):
    """Too short a range: what is beyond it saturates."""
    for op_type in ("QuantizeLinear", "DequantizeLinear"):
        stored.own(stored.rounding(op_type), 1, factor=0.35)


def result_scale(stored):
    stored.own(stored.node("QLinearAdd"), 6, factor=1.3)


def result_zero_point(stored):
    stored.own(stored.node("QLinearAdd"), 7, more=12)


def read_scale(stored):
    """Another scale where a layer reads codes than where they were made."""
    stored.own(stored.node("QLinearMatMul"), 1, factor=1.25)


def added_bias(stored):
    node = stored.node("QLinearAdd")
    stored.own(node, next(place for place in (1, 4) if "bias" in node.input[place]), factor=4)


def block_scales(stored):
    name = stored.name("scales")
    scales = stored[name]
    flat = scales.reshape(-1)
    flat[: len(flat) // 4] *= 2
    stored[name] = scales


def nibbles(stored):
    """Codes of four bits that lie in their bytes the other way round, in a part of the blocks."""
    name = stored.name("Q4")
    codes = stored[name]
    codes[:8] = codes[:8] >> 4 | codes[:8] << 4
    stored[name] = codes


def block_zero_points(stored):
    """One more, or less, of codes of four bits: the lowest bit of each turned."""
    stored.turn(stored.name("zero_points"))


def given_zero_points(stored):
    """Zero points of 9 where none are given, which is 8."""
    node = stored.node("MatMulNBits")
    stored.give(node, "zero_points", np.full(stored[node.input[2]].size // 2, 0x99, np.uint8))


FAULTS = [
    ("encoder", "dynamic", "fc1", scale),
    ("encoder", "dynamic", "fc2_1", zero_point),
    ("encoder", "dynamic", "out", transposed),
    ("encoder", "dynamic", "key_1", clipped),
    ("encoder", "dynamic", "embed", scale),
    ("encoder", "dynamic by channel", "value_1", one_channel),
    ("encoder", "QDQ", "query", transposed),
    ("encoder", "QDQ", "key", zero_point),
    ("encoder", "QDQ", "fc1_1", clipped),
    ("encoder", "QDQ", "value", rounded_zero_point),
    ("encoder", "QDQ", "fc2", rounded_range),
    ("encoder", "QDQ", "query_1", rounded_scale),
    ("encoder", "QDQ by channel", "out_1", one_channel),
    ("encoder", "QDQ by channel", "head", bias),
    ("encoder", "QOperator", "fc2", result_scale),
    ("encoder", "QOperator", "value_1", result_zero_point),
    ("encoder", "QOperator", "fc1", read_scale),
    ("encoder", "QOperator", "query_1", scale),
    ("encoder", "QOperator", "key", added_bias),
    ("encoder", "QOperator", "position", zero_point),
    ("encoder", "int4", "fc1_1", block_scales),
    ("encoder", "int4", "key", given_zero_points),
    ("encoder", "int4", "fc2", nibbles),
    ("encoder", "int4 blocks", "out", block_zero_points),
    ("encoder", "int4 blocks", "query", block_scales),
    ("mobile", "QDQ by channel", "blocks.0.0", swapped_scales),
    ("mobile", "QDQ", "blocks.1.3", transposed),
    ("lstm", "dynamic", "rnn", scale),
    ("lstm", "dynamic", "rnn", recurrent(zero_point)),
    ("lstm", "dynamic", "rnn", recurrent(clipped)),
]
QUICK = (0, 9, 13, 19, 22, 28)
CASES = [
    pytest.param(*fault, id=f"{number}", marks=[] if number in QUICK else [pytest.mark.acceptance])
    for number, fault in enumerate(FAULTS)
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A network's file, its data and its quantized copy, by the names of network and form."""
    sources: dict[str, tuple[Path, Feeds]] = {}
    copies: dict[tuple[str, str], Path] = {}

    def of(network: str, form: str) -> tuple[Path, Feeds, Path]:
        if network not in sources:
            sources[network] = export(network, tmp_path_factory.mktemp(network))
        if (network, form) not in copies:
            copies[network, form] = quantized(*sources[network], form)
        return *sources[network], copies[network, form]

    return of


def test_there_are_thirty():
    assert len(FAULTS) == 30


@pytest.mark.parametrize(("network", "form", "layer", "fault"), CASES)
def test_the_layer_with_the_fault_is_named_first(network, form, layer, fault, made, tmp_path):
    source, feeds, target = made(network, form)
    proto = onnx.load(target)
    fault(Stored(proto, onnx.load(source), layer))
    onnx.save(proto, tmp_path / "faulty.onnx")
    options = run_options(network, feeds)
    result = onnxscope.diff(source, tmp_path / "faulty.onnx", feeds, **options)
    assert next(row.a.layer for row in result.costly) == layer
    assert f"most is lost in {layer} (" in result.summary()
    sound = {row.a.layer: row.own.sqnr_db for row in onnxscope.diff(source, target, feeds, **options).layers}
    assert result.costly[0].own.sqnr_db < sound[layer] - 1
