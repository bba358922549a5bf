"""Class activation maps against PyTorch with hooks, on the trained digits network and on a network of other sizes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

import onnxscope_torch  # noqa: E402
from converters import torch_helpers  # noqa: E402
from onnxscope.analyses.activation_maps import class_activation  # noqa: E402
from onnxscope.converting.contract import ConversionRequest  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def digits():
    sys.path.insert(0, str(FIXTURES))
    try:
        from digits_network import DigitsNetwork
    finally:
        sys.path.remove(str(FIXTURES))
    network = DigitsNetwork()
    network.load_state_dict(safetensors.torch.load_file(FIXTURES / "digits.safetensors"))
    x = torch.from_numpy(np.load(FIXTURES / "digits.npz")["digits"][:6])
    return network.eval(), network.relu, str(FIXTURES / "digits.onnx"), x


def small(folder):
    torch.manual_seed(4)
    network = torch_helpers.Classifier().eval()
    x = torch.randn(3, 3, 17, 23)
    path = str(folder / "small.onnx")
    source = f"{torch_helpers.__file__}:Classifier"
    safetensors.torch.save_file(network.state_dict(), folder / "small.safetensors")
    request = ConversionRequest(
        source=source,
        output=path,
        weights=str(folder / "small.safetensors"),
        input_shapes=(("", (1, 3, 17, 23)),),
    )
    onnxscope_torch.convert(request)
    return network, network.act, path, x


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return {"digits": digits(), "small": small(tmp_path_factory.mktemp("small"))}


def scaled(values):
    span = values.max() - values.min()
    return (values - values.min()) / span if span else torch.zeros_like(values)


def held(network, module, x):
    """What a module gives, and the network's scores."""
    kept = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output.detach().clone()))
    with torch.no_grad():
        scores = network(x)
    hook.remove()
    return kept[0], scores


def score_without(network, module, x, channel):
    def drop(_module, _inputs, output):
        output = output.clone()
        output[:, channel] = 0
        return output

    hook = module.register_forward_hook(drop)
    with torch.no_grad():
        scores = network(x)
    hook.remove()
    return scores


@pytest.mark.parametrize("name", ["digits", "small"])
def test_ablation_agrees_with_hooks(networks, name):
    network, module, path, x = networks[name]
    for sample in range(3):
        activation, scores = held(network, module, x[sample : sample + 1])
        target = int(scores.argmax())
        weights = torch.stack(
            [
                (scores - score_without(network, module, x[sample : sample + 1], channel))[0, target]
                for channel in range(activation.shape[1])
            ]
        )
        expected = scaled(torch.relu((weights[:, None, None] * activation[0]).sum(0)))
        found = class_activation(path, x.numpy(), method="ablation", sample=sample, batch_size=5)
        assert found.target == target
        assert found.score == pytest.approx(float(scores[0, target]), rel=1e-4)
        np.testing.assert_allclose(found.map, expected.numpy(), atol=2e-3)


@pytest.mark.parametrize("name", ["digits", "small"])
def test_score_agrees_with_masked_inputs(networks, name):
    network, module, path, x = networks[name]
    for sample, target in ((0, 1), (2, 3)):
        one = x[sample : sample + 1]
        activation, _ = held(network, module, one)
        enlarged = nn.functional.interpolate(activation, size=one.shape[2:], mode="bilinear", align_corners=False)

        def probability(images, network=network, target=target):
            with torch.no_grad():
                scores = network(images)
            done = bool(scores.min() >= 0) and bool((scores.sum(1) - 1).abs().max() < 1e-3)
            return (scores if done else torch.softmax(scores, 1))[:, target]

        masks = torch.stack([scaled(channel) for channel in enlarged[0]])[:, None]
        weights = probability(one * masks) - probability(torch.zeros_like(one))
        expected = scaled(torch.relu((weights[:, None, None] * activation[0]).sum(0)))
        found = class_activation(path, x.numpy(), method="score", sample=sample, target=target)
        np.testing.assert_allclose(found.map, expected.numpy(), atol=5e-3)


@pytest.mark.parametrize("name", ["digits", "small"])
def test_eigen_agrees_with_a_decomposition_in_pytorch(networks, name):
    network, module, path, x = networks[name]
    activation, _ = held(network, module, x[:1])
    rows = activation[0].flatten(1).T.double()
    _, _, right = torch.linalg.svd(rows, full_matrices=False)
    vector = right[0] * right[0].sum().sign()
    expected = scaled(rows @ vector).reshape(activation.shape[2:])
    np.testing.assert_allclose(class_activation(path, x.numpy()).map, expected.numpy(), atol=1e-4)
