"""The shipped networks against their published shapes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from onnxscope_torch import SHIPPED, networks  # noqa: E402


def _norm(name: str) -> list[str]:
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def _resnet_keys(convolutions: int, expansion: int) -> list[str]:
    """The keys of torchvision's ResNets by the rule of their structure: 3, 4, 6 and 3 blocks."""
    keys = ["conv1.weight", *_norm("bn1")]
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            base = f"layer{stage}.{block}"
            for index in range(1, convolutions + 1):
                keys += [f"{base}.conv{index}.weight", *_norm(f"{base}.bn{index}")]
            if block == 0 and (stage > 1 or expansion > 1):
                keys += [f"{base}.downsample.0.weight", *_norm(f"{base}.downsample.1")]
    return [*keys, "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("name", "convolutions", "expansion", "entries", "parameters"),
    # Counts of parameters: torchvision's documentation of ResNet34_Weights and ResNet50_Weights.
    [("resnet34", 2, 1, 218, 21_797_672), ("resnet50", 3, 4, 320, 25_557_032)],
)
def test_resnets_have_torchvisions_names(name, convolutions, expansion, entries, parameters):
    with torch.device("meta"):
        module = getattr(networks, name)()
    assert list(module.state_dict()) == _resnet_keys(convolutions, expansion)
    assert len(module.state_dict()) == entries
    assert sum(p.numel() for p in module.parameters()) == parameters


def test_resnet50_has_its_stride_in_the_3x3():
    with torch.device("meta"):
        block = networks.resnet50().layer2[0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))
    assert block.downsample[0].stride == (2, 2)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_the_stages_of_a_resnet_halve_the_image(name):
    with torch.device("meta"):
        module = getattr(networks, name)(num_classes=7).eval()
        shapes = {}
        for child, part in module.named_children():
            part.register_forward_hook(lambda _m, _i, out, child=child: shapes.update({child: tuple(out.shape[2:])}))
        assert module(torch.zeros(2, 3, 224, 224)).shape == (2, 7)
    assert [shapes[f"layer{stage}"] for stage in range(1, 5)] == [(56, 56), (28, 28), (14, 14), (7, 7)]


@pytest.mark.parametrize("side", [224, 227])
def test_alexnet_is_the_tutorials(side):
    with torch.device("meta"):
        module = networks.alexnet(num_classes=10)
        assert module.features(torch.zeros(2, 3, side, side)).shape == (2, 256, 6, 6)
        assert module(torch.zeros(2, 3, side, side)).shape == (2, 10)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items() if key.endswith("weight")}
    assert shapes == {
        "features.0.weight": (96, 3, 11, 11),
        "features.3.weight": (256, 96, 5, 5),
        "features.6.weight": (384, 256, 3, 3),
        "features.8.weight": (384, 384, 3, 3),
        "features.10.weight": (256, 384, 3, 3),
        "classifier.1.weight": (2048, 9216),
        "classifier.4.weight": (2048, 2048),
        "classifier.6.weight": (10, 2048),
    }
    assert list(module.state_dict())[-1] == "classifier.6.bias"
    assert all(part.inplace for part in module.modules() if isinstance(part, torch.nn.ReLU))
    assert sum(isinstance(part, torch.nn.Dropout) for part in module.modules()) == 2


def test_every_shipped_name_is_a_factory():
    assert all(callable(getattr(networks, name)) for name in SHIPPED)
