"""Checkpoints of networks that PyTorch exports: every tensor is explained, in every form of the export."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.quantization import quantize_dynamic

import onnxscope

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = [pytest.mark.acceptance, pytest.mark.filterwarnings("ignore")]


class Encoder(torch.nn.Module):
    """Two layers of an encoder whose head is tied to its table."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 32)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(2)
        )
        self.head = torch.nn.Linear(32, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("position_ids", torch.arange(7)[None])

    def forward(self, ids):
        hidden = self.embed(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


class Decoder(torch.nn.Module):
    """Query, key and value in one Linear, then recurrent layers."""

    def __init__(self):
        super().__init__()
        self.wte = torch.nn.Embedding(50, 32)
        self.ln = torch.nn.LayerNorm(32)
        self.c_attn = torch.nn.Linear(32, 96)
        self.gru = torch.nn.GRU(32, 24, batch_first=True)
        self.lstm = torch.nn.LSTM(24, 16, batch_first=True, bidirectional=True)
        self.out = torch.nn.Linear(32, 50)

    def forward(self, ids):
        hidden = self.wte(ids)
        q, k, v = self.c_attn(self.ln(hidden)).chunk(3, -1)
        hidden = hidden + torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        hidden, _ = self.gru(hidden)
        hidden, _ = self.lstm(hidden)
        return self.out(hidden)


def saved(network, folder):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    path = folder / "checkpoint.safetensors"
    safetensors_torch.save_file({name: value.clone() for name, value in network.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(("network", "dynamo"), [(Encoder, False), (Encoder, True), (Decoder, False)])
def test_encoders_and_decoders(tmp_path, network, dynamo):
    model, export = network().eval(), tmp_path / "export.onnx"
    checkpoint = saved(model, tmp_path)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        options = {} if dynamo else {"opset_version": 17}
        torch.onnx.export(model, (torch.zeros(1, 7, dtype=torch.long),), export, dynamo=dynamo, **options)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    quantized = tmp_path / "quantized.onnx"
    quantize_dynamic(export, quantized)
    for path in (export, quantized):
        found = onnxscope.diff(checkpoint, path)
        assert found.equal, found.summary()
        assert {row.a for row in found.weights} >= set(model.state_dict())


def test_a_resnet(tmp_path):
    from onnxscope_torch.networks import resnet34

    model = resnet34().eval()
    rng = np.random.default_rng(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            size = module.running_mean.shape
            module.running_mean.copy_(torch.from_numpy(rng.normal(0, 0.2, size)))
            module.running_var.copy_(torch.from_numpy(rng.uniform(0.5, 2, size)))
    checkpoint = saved(model, tmp_path)
    for mode in ("faithful", "deployed"):
        onnxscope.convert("torch", "resnet34", tmp_path / f"{mode}.onnx", weights=checkpoint, mode=mode)
    quantize_dynamic(tmp_path / "deployed.onnx", tmp_path / "quantized.onnx")
    torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), tmp_path / "legacy.onnx", dynamo=False)
    for name in ("faithful", "deployed", "quantized", "legacy"):
        found = onnxscope.diff(checkpoint, tmp_path / f"{name}.onnx")
        assert found.equal, found.summary()
        assert {row.a for row in found.weights} >= set(model.state_dict())
