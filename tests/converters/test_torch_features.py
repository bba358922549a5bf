"""Feature maps and weights of exported networks against PyTorch itself: forward hooks and state_dict."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

import onnxscope
import onnxscope_torch
from onnxscope.converting.contract import ConversionRequest

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
RELATIVE = 1e-4  # of the layer's largest value


def converted(network, folder, exporter):
    path = folder / f"{network}-{exporter}.onnx"
    onnxscope_torch.convert(ConversionRequest(source=network, output=str(path), exporter=exporter))
    return path


def rebuilt(network):
    """The same network with the same seed, as PyTorch has it."""
    from onnxscope_torch import networks

    torch.manual_seed(0)
    return getattr(networks, network)().eval()


def prepared():
    """The photograph as the model's input, by PyTorch's own arithmetic after Pillow's resize."""
    from PIL import Image

    with Image.open(PHOTOGRAPH) as opened:
        image = opened.convert("RGB")
    short, long = sorted(image.size)
    size = (256, int(256 * long / short)) if image.size[0] == short else (int(256 * long / short), 256)
    pixels = torch.from_numpy(np.asarray(image.resize(size, Image.Resampling.BILINEAR)).copy())
    top, left = (round((pixels.shape[axis] - 224) / 2.0) for axis in (0, 1))
    crop = pixels[top : top + 224, left : left + 224].permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((crop - mean) / std)[None]


def recorded(module):
    """What every submodule gives, in the order of calls; cloned, because in-place ReLU overwrites what a hook keeps."""
    kept = {}

    def keep(name):
        return lambda _, arguments, output: kept.setdefault(name, []).append(output.detach().clone().numpy())

    for name, each in module.named_modules():
        each.register_forward_hook(keep(name))
    with torch.no_grad():
        module(prepared())
    return kept


def following_activation(module):
    """For each convolution the ReLU that follows it directly or through its BatchNorm, as the networks are written."""
    names = [name for name, each in module.named_modules() if isinstance(each, torch.nn.Conv2d)]
    if any(name.startswith("features") for name in names):
        return {name: (f"features.{int(name.split('.')[1]) + 1}", 0) for name in names}
    follows = {"conv1": ("relu", 0)}
    for name in names:
        block, _, last = name.rpartition(".")
        convolutions = [each for each in names if each.startswith(block + ".conv")]
        if last.startswith("conv") and block and name != convolutions[-1]:
            follows[name] = (f"{block}.relu", convolutions.index(name))
    return follows


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.max(np.abs(found - expected)) < RELATIVE * np.max(np.abs(expected))


@pytest.fixture(
    scope="module",
    params=[
        ("alexnet", "dynamo"),
        ("alexnet", "legacy"),
        ("resnet34", "dynamo"),
        pytest.param(("resnet34", "legacy"), marks=pytest.mark.acceptance),
        pytest.param(("resnet50", "dynamo"), marks=pytest.mark.acceptance),
        pytest.param(("resnet50", "legacy"), marks=pytest.mark.acceptance),
    ],
    ids="-".join,
)
def case(request, tmp_path_factory):
    network, exporter = request.param
    module = rebuilt(network)
    model = onnxscope.load_model(converted(network, tmp_path_factory.mktemp("models"), exporter))
    return network, model, module, recorded(module)


def test_convolutions_before_the_activation(case):
    _, model, module, kept = case
    maps = onnxscope.features(model, PHOTOGRAPH, at="pre")
    convolutions = [name for name, each in module.named_modules() if isinstance(each, torch.nn.Conv2d)]
    assert sorted(tap.tap.layer for tap in maps) == sorted(convolutions)
    for tap in maps:
        assert_close(tap.data, kept[tap.tap.layer][0])


def test_convolutions_after_the_activation(case):
    _, model, module, kept = case
    follows = following_activation(module)
    maps = onnxscope.features(model, PHOTOGRAPH)
    for tap in maps:
        name, call = follows.get(tap.tap.layer, (tap.tap.layer, 0))
        assert_close(tap.data, kept[name][call])
    assert len(follows) >= 5


def test_modules_are_what_leaves_them(case):
    network, model, _, kept = case
    names = ["features", "classifier"] if network == "alexnet" else ["layer1", "layer2", "layer3", "layer4"]
    for at in ("pre", "post"):
        maps = onnxscope.features(model, PHOTOGRAPH, select=names, at=at)
        assert [tap.tap.layer for tap in maps] == names
        for tap in maps:
            assert_close(tap.data, kept[tap.tap.layer][0])


def test_every_parameter_agrees_with_the_state_dict(case):
    _, model, module, _ = case
    statistics = onnxscope.weights(model)
    state = module.state_dict()
    assert {row.parameter.name for row in statistics} | {name for name, _ in statistics.absent} == set(state)
    assert all(name.endswith("num_batches_tracked") for name, _ in statistics.absent)
    for row in statistics:
        values = state[row.parameter.name].numpy().astype(np.float64)
        overall = row.summary.overall
        assert row.parameter.shape == values.shape
        assert overall.mean == pytest.approx(values.mean(), rel=1e-6, abs=1e-15)
        assert overall.std == pytest.approx(values.std(ddof=1), rel=1e-6)
        assert (overall.min, overall.max) == (values.min(), values.max())
        counts, edges = np.histogram(values, 50)
        assert row.summary.histogram.counts == tuple(counts)
        assert row.summary.histogram.edges == tuple(edges)


def test_tapping_hardly_moves_the_outputs(case):
    _, model, _, _ = case
    maps = onnxscope.features(model, PHOTOGRAPH, verify=True)
    assert maps.tapping["relative"] < 1e-5
