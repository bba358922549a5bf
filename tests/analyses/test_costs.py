"""Multiply-accumulates, counted by hand and by PyTorch's own counter."""

from __future__ import annotations

import onnx.parser
import pytest

from onnxscope.analyses.inspection import inspect
from onnxscope.base.plugins import load_converter
from onnxscope.converting.contract import ConversionRequest


def costs(text):
    return {layer.layer: layer.multiply_accumulates for layer in inspect(onnx.parser.parse_model(text)).layers}


HEAD = '<ir_version: 9, opset_import: ["": 17]>'


def test_a_convolution_uses_each_weight_once_for_each_place():
    found = costs(f"""{HEAD} g (float[N, 4, 10, 8] x) => (float[N, 6, 8, 3] y)
        <float[6, 2, 3, 4] w = {{{", ".join(["1"] * 144)}}}>
        {{ [one] y = Conv <group = 2, strides = [1, 2], pads = [0, 0, 0, 1]> (x, w) }}""")
    assert found == {"one": 8 * 3 * 6 * (2 * 3 * 4)}


def test_a_matrix_product_counts_every_token():
    found = costs(f"""{HEAD} g (float[N, 5, 3] x) => (float[N, 5, 2] y)
        <float[3, 2] w = {{1, 2, 3, 4, 5, 6}}> {{ [one] y = MatMul (x, w) }}""")
    assert found == {"one": 5 * 3 * 2}


def test_a_normalization_and_an_unknown_size_have_no_cost():
    found = costs(f"""{HEAD} g (float[N, 1, H, W] x) => (float[N, 1, H, W] y)
        <float[1, 1, 1, 1] w = {{2}}, float[1] one = {{1}}>
        {{ [first] h = Conv (x, w)  [second] y = BatchNormalization (h, one, one, one, one) }}""")
    assert found == {"first": None, "second": None}


def test_pytorch_counts_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    source = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, groups=4, dilation=2),
        nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 17 * 17, 7),
    )
"""
    path = tmp_path / "net.py"
    path.write_text(source)
    made: dict = {}
    exec(source, made)
    with FlopCounterMode(display=False) as counter:
        made["make"]().eval()(torch.zeros(1, 3, 24, 24))
    request = ConversionRequest(
        source=f"{path}:make", output=str(tmp_path / "m.onnx"), input_shapes=(("", (1, 3, 24, 24)),)
    )
    load_converter("torch").convert(request)
    found = [layer.multiply_accumulates for layer in inspect(tmp_path / "m.onnx").layers]
    assert len(found) == 4
    assert 2 * sum(found) == counter.get_total_flops()  # it counts an addition and a multiplication apart
