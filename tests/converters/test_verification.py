"""verify(): an export against the live framework, layer by layer, and `convert --verify`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")
pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

import onnxscope_tensorflow  # noqa: E402
import onnxscope_torch  # noqa: E402
from converters import tensorflow_helpers, torch_helpers  # noqa: E402
from onnxscope import InputError  # noqa: E402
from onnxscope.base.plugins import load_converter  # noqa: E402
from onnxscope.cli.main import run  # noqa: E402
from onnxscope.converting.contract import ConversionRequest  # noqa: E402

TORCH, KERAS = (str(Path(__file__).with_name(f"{name}_helpers.py")) for name in ("torch", "tensorflow"))
IMAGES = np.random.default_rng(3).standard_normal((2, 3, 12, 12), np.float32)


def residual():
    torch.manual_seed(0)
    return torch_helpers.Residual()


def exported(folder, mode, exporter):
    path = folder / f"{mode}_{exporter}.onnx"
    shapes = (("", (1, 3, 12, 12)),)
    request = ConversionRequest(f"{TORCH}:Residual", str(path), input_shapes=shapes, mode=mode, exporter=exporter)
    load_converter("torch").convert(request)
    return path


@pytest.mark.parametrize(
    ("mode", "exporter"),
    [
        ("faithful", "dynamo"),
        ("deployed", "legacy"),
        pytest.param("faithful", "legacy", marks=pytest.mark.acceptance),
        pytest.param("deployed", "dynamo", marks=pytest.mark.acceptance),
    ],
)
def test_a_module_and_its_export_are_equal_until_a_weight_changes(tmp_path, mode, exporter):
    path = exported(tmp_path, mode, exporter)
    module = residual().train()
    result = onnxscope_torch.verify(module, path, torch.from_numpy(IMAGES))
    assert result.equal, repr(result)
    assert module.training
    assert not result.only_a
    names = [row.a.layer for row in result]
    faithful = ["stem", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2"]
    assert names[:5] == faithful if mode == "faithful" else names[:3] == ["stem", "layer1.0.bn1", "layer1.0.bn2"]
    assert names[-1] == "second"
    with torch.no_grad():
        module.layer1[1].conv1.weight[1, 2, 1, 1] += 0.5
    changed = onnxscope_torch.verify(module, path, torch.from_numpy(IMAGES))
    expected = "layer1.1.conv1" if mode == "faithful" else "layer1.1.bn1"
    assert [row.a.layer for row in changed.guilty] == [expected]
    assert changed.first_divergence.b.layer == "layer1.1.conv1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dynamo", [True, False])
def test_an_export_by_pytorch_itself_is_seen_through_its_folded_batch_norms(tmp_path, dynamo):
    module = residual().eval()
    images = torch.from_numpy(IMAGES)
    torch.onnx.export(module, (images,), tmp_path / "own.onnx", dynamo=dynamo, **({"verbose": False} if dynamo else {}))
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(tmp_path / "own.onnx").graph.node}
    result = onnxscope_torch.verify(module, tmp_path / "own.onnx", images)
    assert result.equal, repr(result)
    assert not result.only_a
    assert "layer1.0.bn1" in [row.a.layer for row in result]
    with torch.no_grad():
        module.layer1[0].bn2.weight[2] *= 1.5
    changed = onnxscope_torch.verify(module, tmp_path / "own.onnx", images)
    assert [row.a.layer for row in changed.guilty] == ["layer1.0.bn2"]
    assert changed.first_divergence.b.layer == "layer1.0.conv2"


def test_a_keras_export_that_recorded_nothing_is_seen_through_too(tmp_path):
    helpers = tensorflow_helpers
    converted = helpers.convert("resnet34", tmp_path, input_shapes=(("", (1, 64, 64, 3)),), mode="deployed")
    model = onnx.load(converted.path)
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    network = helpers.make(onnxscope_tensorflow.networks.resnet34, 1000, (64, 64, 3))
    result = helpers.quiet(onnxscope_tensorflow.verify, network, model, helpers.random(1, 64, 64, 3))
    assert result.equal, repr(result)


def test_the_recorded_values_are_those_of_hooks(tmp_path):
    path = exported(tmp_path, "faithful", "dynamo")
    module = residual().eval()
    kept = {}
    module.features[0].register_forward_hook(lambda _m, _i, out: kept.update(conv=out.detach().numpy().copy()))
    result = onnxscope_torch.verify(module, path, [torch.from_numpy(IMAGES)])
    (row,) = (row for row in result if row.a.layer == "features.0")
    norm = float(np.sqrt(row.entire.reference.sum()))
    assert norm == pytest.approx(np.linalg.norm(kept["conv"].astype(np.float64)), rel=1e-9)


def test_a_layer_called_twice_gives_a_row_per_call(tmp_path):
    path = tmp_path / "r.onnx"
    request = ConversionRequest(f"{TORCH}:Recurrent", str(path), input_shapes=(("", (1, 4, 6)),))
    load_converter("torch").convert(request)
    torch.manual_seed(0)
    result = onnxscope_torch.verify(torch_helpers.Recurrent(), path, torch.randn(2, 4, 6))
    assert [row.a.layer for row in result].count("conv") == 2
    assert not any(row.differs for row in (*result, *result.outputs))


def test_the_inputs_have_to_be_the_models(tmp_path):
    path = exported(tmp_path, "faithful", "legacy")
    with pytest.raises(InputError, match=r"2 inputs for the 1 of the model: faithful_legacy\.onnx"):
        onnxscope_torch.verify(residual(), path, [torch.zeros(1), torch.zeros(1)])


@pytest.mark.parametrize("mode", ["faithful", "deployed"])
def test_a_keras_model_and_its_export_are_equal_until_a_weight_changes(tmp_path, mode):
    helpers = tensorflow_helpers
    options = {"arguments": {"num_classes": 7}, "input_shapes": (("", (1, 96, 96, 3)),), "mode": mode}
    converted = helpers.convert("alexnet", tmp_path, **options)
    model = helpers.make(onnxscope_tensorflow.networks.alexnet, 7, (96, 96, 3))
    images = helpers.random(2, 96, 96, 3)
    result = helpers.quiet(onnxscope_tensorflow.verify, model, converted.path, images)
    assert result.equal, repr(result)
    assert [row.a.layer for row in result] == [
        *(f"conv2d{i}" for i in ("", "_1", "_2", "_3", "_4")),
        "dense",
        "dense_1",
        "dense_2",
    ]
    assert result.a["name"].startswith("Functional")
    kernel = model.get_layer("conv2d_2").kernel
    kernel.assign(kernel.numpy() * 1.01)
    changed = helpers.quiet(onnxscope_tensorflow.verify, model, converted.path, images)
    assert [row.a.layer for row in changed.guilty] == ["conv2d_2"]
    assert "call" not in vars(model.get_layer("conv2d_2"))


def test_convert_verify_ends_with_0_and_says_so(tmp_path, capsys):
    arguments = ["--input-shape", "1,3,12,12", "--verify", "-o", str(tmp_path / "m.onnx")]
    assert run(["convert", "torch", f"{TORCH}:Residual", *arguments]) == 0
    out, err = capsys.readouterr()
    assert "yes" in out
    assert "against torch " in err
    assert "equal: 13 layers and 1 output" in err


def test_convert_verify_ends_with_1_where_a_layer_is_off(tmp_path, monkeypatch, capsys):
    """A factory whose module computes something else once it has been exported."""
    factory = tmp_path / "shifty.py"
    factory.write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Shifty(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)\n"
        "        self.calls = 0\n"
        "    def forward(self, x):\n"
        "        return self.second(self.first(x))\n"
        "class Late(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x)\n"
        "        return y if torch.onnx.is_in_onnx_export() or torch.compiler.is_compiling() else y * 1.5\n"
        "def make():\n"
        "    module = Shifty()\n"
        "    module.second = Late(4, 4)\n"
        "    return module\n"
    )
    arguments = ["--input-shape", "1,4", "--verify", "-o", str(tmp_path / "m.onnx")]
    assert run(["convert", "torch", f"{factory}:make", *arguments]) == 1
    err = capsys.readouterr().err
    assert "differs: the first layer that diverges is second" in err
    assert (tmp_path / "m.onnx").exists()


def test_convert_verify_runs_custom_operators_of_a_library_that_is_named(tmp_path, capsys):
    library = pytest.importorskip("onnxruntime_extensions").get_library_path()
    factory = tmp_path / "inverting.py"
    factory.write_text(
        "import torch\n"
        "class Inverse(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(context, x):\n"
        "        return torch.linalg.inv(x)\n"
        "    @staticmethod\n"
        "    def symbolic(graph, x):\n"
        "        return graph.op('ai.onnx.contrib::Inverse', x)\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)\n"
        "    def forward(self, x):\n"
        "        return self.second(Inverse.apply(self.first(x)))\n"
    )
    arguments = ["--input-shape", "3,3", "--static", "--exporter", "legacy", "--verify", "-o", str(tmp_path / "m.onnx")]
    command = ["convert", "torch", f"{factory}:Net", *arguments]
    assert run([*command, "--custom-ops", library]) == 0
    assert "equal: 2 layers and 1 output" in capsys.readouterr().err
    assert run(command) == 1
    assert "undecided: " in capsys.readouterr().err


def test_a_saved_model_cannot_be_verified(tmp_path, capsys):
    folder = tmp_path / "saved"
    tensorflow_helpers.quiet(tensorflow_helpers.sequential().export, folder, verbose=False)
    assert run(["convert", "tensorflow", str(folder), "--verify", "-o", str(tmp_path / "m.onnx")]) == 2
    assert "a SavedModel has no layers to compare with: " in capsys.readouterr().err


def test_stored_bits_that_differ_from_the_module_are_named(tmp_path):
    path = exported(tmp_path, "faithful", "dynamo")
    model = onnx.load(path)
    tensor = next(each for each in model.graph.initializer if each.name == "fc.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    result = onnxscope_torch.verify(residual(), model, {"image": torch.from_numpy(IMAGES)})
    assert [row.a.layer for row in result.guilty] == ["fc"]
