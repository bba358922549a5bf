"""PyTorch's own initializers count as untrained, and a few steps of training acquit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from onnxscope.analyses.weight_statistics import weights  # noqa: E402
from onnxscope.findings.of_weights import find_in_weights  # noqa: E402
from onnxscope.model.loading import load_model  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
KINDS = {
    nn.Conv2d: "Conv",
    nn.ConvTranspose2d: "ConvTranspose",
    nn.Linear: "Gemm",
    nn.BatchNorm2d: "BatchNormalization",
}
PARTS = ("weight", "bias", "running_mean", "running_var")


def found(network):
    """Findings in a model that holds a network's layers side by side, with PyTorch's names and numbers."""
    nodes, tensors = [], []
    for name, module in network.named_modules():
        if type(module) in KINDS:
            held = [part for part in PARTS if getattr(module, part, None) is not None]
            options = {"transB": 1} if isinstance(module, nn.Linear) else {}
            inputs = ["x", *(f"{name}.{part}" for part in held)]
            nodes.append(helper.make_node(KINDS[type(module)], inputs, [f"{name}.y"], name=name, **options))
            for part in held:
                values = getattr(module, part).detach().numpy()
                tensors.append(numpy_helper.from_array(values, f"{name}.{part}"))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    return find_in_weights(weights(model), model)


class Plain(nn.Module):
    """Every kind of layer that is judged, as PyTorch makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 5)
        self.grouped = nn.Conv2d(32, 64, 3, groups=4)
        self.plain = nn.Conv2d(64, 48, 3, bias=False)
        self.back = nn.ConvTranspose2d(48, 24, 3)
        self.fc = nn.Linear(300, 100)


@pytest.mark.parametrize("seed", range(5))
def test_layers_as_pytorch_makes_them(seed):
    torch.manual_seed(seed)
    (finding,) = found(Plain())
    assert finding.kind == "untrained_weights"
    assert " in 5 of 5 layers " in finding.message
    assert "uniform within sqrt(1 / fan_in) = 0.1155" in finding.message


@pytest.mark.parametrize(
    ("initialize", "name"),
    [
        (nn.init.xavier_uniform_, "uniform within sqrt(6 / (fan_in + fan_out))"),
        (nn.init.xavier_normal_, "normal with a deviation of sqrt(2 / (fan_in + fan_out))"),
        (nn.init.kaiming_uniform_, "uniform within sqrt(6 / fan_in)"),
        (nn.init.kaiming_normal_, "normal with a deviation of sqrt(2 / fan_in)"),
        (
            lambda weight: nn.init.kaiming_normal_(weight, mode="fan_out"),
            "normal with a deviation of sqrt(2 / fan_out)",
        ),
    ],
)
def test_named_initializers(initialize, name):
    torch.manual_seed(1)
    network = nn.Sequential(*(nn.Conv2d(16, 48 + width, 3) for width in range(4)))
    for layer in network:
        initialize(layer.weight)
        nn.init.zeros_(layer.bias)
    (finding,) = found(network)
    assert " in 4 of 4 layers " in finding.message
    assert f"0.weight is {name}" in finding.message


def test_a_few_steps_of_training_acquit():
    sys.path.insert(0, str(FIXTURES))
    try:
        from digits_network import DigitsNetwork
    finally:
        sys.path.remove(str(FIXTURES))
    torch.manual_seed(0)
    network = DigitsNetwork()
    assert [finding.kind for finding in found(network)] == ["untrained_weights"]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    digits = torch.from_numpy(np.load(FIXTURES / "digits.npz")["digits"])
    labels = torch.arange(len(digits)) % 10
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(digits), labels).backward()
        optimizer.step()
    assert found(network) == ()
