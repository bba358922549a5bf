"""Exports against PyTorch itself: outputs, values inside, parameters bit for bit, both exporters and modes."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from onnxscope.converting.contract import ConversionReport, ConversionRequest  # noqa: E402
from onnxscope.errors import ConversionError, OutputError  # noqa: E402
from onnxscope.model.provenance import LAYER_KEY, ParameterRecord, Provenance, read_provenance  # noqa: E402
from onnxscope_torch import SHIPPED, child  # noqa: E402
from onnxscope_torch.sources import build_module, find_source  # noqa: E402

HELPERS = str(Path(__file__).with_name("torch_helpers.py"))
EXPORTERS = ("dynamo", "legacy")
BOTH = pytest.mark.parametrize(("exporter", "mode"), list(itertools.product(EXPORTERS, ("faithful", "deployed"))))
IMAGE = (("", (1, 3, 12, 12)),)
TOKENS = (("mask", (1, 5)), ("ids:int64", (1, 5)))  # by name, in another order than forward()'s


class Exported:
    """One conversion in this process, the module that it was made from, and its session."""

    def __init__(self, folder: Path, source: str, **options) -> None:
        self.path = folder / "model.onnx"
        text = source if source in SHIPPED else f"{HELPERS}:{source}"
        request = ConversionRequest(source=text, output=str(self.path), **options)
        self.report: ConversionReport = child.export(request)
        self.model = onnx.load(self.path)
        child._seed(request.seed)
        self.module = build_module(find_source(text), request.arguments, text)
        if request.weights:
            self.module.load_state_dict(torch.load(request.weights, weights_only=True))
        metadata = {entry.key: entry.value for entry in self.model.metadata_props}
        provenance = read_provenance(metadata)
        assert provenance is not None
        self.provenance: Provenance = provenance

    @property
    def records(self) -> dict[str, ParameterRecord]:
        return {record.name: record for record in self.provenance.parameters}

    @property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    def run(self, feeds: dict[str, np.ndarray], *, every: bool = False) -> dict[str, np.ndarray]:
        import onnxruntime

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        if every:
            declared = {value.name for value in model.graph.output}
            for node in model.graph.node:
                model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.output if n and n not in declared)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return dict(zip([out.name for out in session.get_outputs()], session.run(None, feeds), strict=True))


def _close(found: np.ndarray, expected: torch.Tensor, bound: float = 1e-5) -> bool:
    """Whether the largest difference is within `bound` of the largest value."""
    wanted = expected.detach().numpy().astype(np.float64)
    if found.shape != wanted.shape:
        return False
    return bool(np.abs(found.astype(np.float64) - wanted).max() <= bound * np.abs(wanted).max())


def _assert_every_parameter_is_told(exported: Exported) -> None:
    """Every state_dict entry has its row, and each named initializer holds its bits."""
    state = exported.module.state_dict()
    assert list(exported.records) == list(state)
    for name, tensor in state.items():
        record = exported.records[name]
        assert record.shape == tuple(tensor.shape)
        assert record.dtype == str(tensor.dtype).removeprefix("torch.")
        assert record.layer == name.rpartition(".")[0]
        assert (record.initializer is None) == (record.reason is not None), record
        if record.initializer is not None:
            stored = onnx.numpy_helper.to_array(exported.initializers[record.initializer])
            expected = tensor.numpy()
            if record.permutation:
                expected = expected.transpose(record.permutation)
            equal = stored.shape == expected.shape and np.array_equal(stored, expected)
            assert equal is not record.folded, record
    assert exported.report.parameters == len(state)
    assert exported.report.absent == sum(record.initializer is None for record in exported.records.values())


def _convolution_values(module: torch.nn.Module, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """What every convolution returns, cloned before an in-place ReLU can overwrite it."""
    values = {}
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda _m, _i, out, name=name: values.update({name: out.clone()}))
    with torch.no_grad():
        module(*inputs)
    return values


def _assert_each_convolution_has_its_value(exported: Exported, image: torch.Tensor) -> None:
    values = exported.run({exported.model.graph.input[0].name: image.numpy()}, every=True)
    by_weight = {n.input[1]: n.output[0] for n in exported.model.graph.node if n.op_type == "Conv"}
    expected = _convolution_values(exported.module, image)
    assert expected
    for name, value in expected.items():
        assert _close(values[by_weight[f"{name}.weight"]], value), name


@BOTH
def test_a_residual_network(tmp_path, exporter, mode):
    exported = Exported(tmp_path, "Residual", input_shapes=IMAGE, exporter=exporter, mode=mode)
    image = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    found = exported.run({"image": image.numpy()})
    assert list(found) == ["output"]
    assert _close(found["output"], exported.module(image))
    _assert_every_parameter_is_told(exported)
    reasons = {name: record.reason for name, record in exported.records.items() if record.initializer is None}
    assert reasons["unused.weight"] == reasons["unused.bias"] == "not used by forward()"
    assert {v for k, v in reasons.items() if k.endswith("num_batches_tracked")} == {"counter"}
    first, second = exported.records["first.weight"], exported.records["second.weight"]
    assert first.initializer == second.initializer is not None
    if mode == "faithful":
        assert len(reasons) == 2 + 4
        assert not any(record.folded for record in exported.records.values())
        own = {n for n, r in exported.records.items() if r.initializer == n}
        assert set(exported.records) - set(reasons) - own in ({"first.weight"}, {"second.weight"})
        _assert_each_convolution_has_its_value(exported, image)
        assert [n.op_type for n in exported.model.graph.node].count("BatchNormalization") == 4
        assert exported.report.notes == ()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_deployed_says_what_was_folded(tmp_path, exporter):
    exported = Exported(tmp_path, "Residual", input_shapes=IMAGE, exporter=exporter, mode="deployed")
    assert "BatchNormalization" not in {node.op_type for node in exported.model.graph.node}
    state, records = exported.module.state_dict(), exported.records
    for block, index in itertools.product(("layer1.0", "layer1.1"), (1, 2)):
        norm, weight = f"{block}.bn{index}", f"{block}.conv{index}.weight"
        for part in ("weight", "bias", "running_mean", "running_var"):
            assert records[f"{norm}.{part}"].reason == f"folded into {weight}"
        assert records[weight].folded
        stored = onnx.numpy_helper.to_array(exported.initializers[records[weight].initializer])
        scale = state[f"{norm}.weight"].double() / (state[f"{norm}.running_var"].double() + 1e-5).sqrt()
        expected = state[weight].double() * scale[:, None, None, None]
        np.testing.assert_allclose(stored, expected.numpy(), rtol=1e-5)
    assert exported.report.notes == ("BatchNorm was folded into the layer before it: 4 layers, first 'layer1.0.bn1'",)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_deployed_says_what_was_dropped(tmp_path, exporter):
    record = Exported(tmp_path, "Residual", input_shapes=IMAGE, exporter=exporter, mode="deployed").records["stem.bias"]
    assert (record.initializer, record.reason) in ((None, "dropped: all zeros"), ("stem.bias", None))


@BOTH
def test_the_nodes_with_weights_are_in_their_layers(tmp_path, exporter, mode):
    exported = Exported(tmp_path, "Residual", input_shapes=IMAGE, exporter=exporter, mode=mode)
    layers = [
        _layer(node)
        for node in exported.model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1]
    ]
    convolutions = ["stem", *(f"layer1.{i}.conv{k}" for i in (0, 1) for k in (1, 2)), "features.0"]
    assert layers == [*convolutions, "fc", "first", "second"]


def _layer(node: onnx.NodeProto) -> str:
    """The layer that the file itself records: ours, else the module in dynamo's scopes."""
    entries = {entry.key: entry.value for entry in node.metadata_props}
    scopes = ast.literal_eval(entries.get("pkg.torch.onnx.name_scopes", "['', '']"))
    return entries.get(LAYER_KEY, scopes[-2])


@BOTH
def test_layers_that_are_called_twice_or_are_many_nodes(tmp_path, exporter, mode):
    exported = Exported(tmp_path, "Recurrent", input_shapes=(("", (1, 4, 7)),), exporter=exporter, mode=mode)
    x = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(2))
    found = exported.run({"x": x.numpy()})
    for name, expected in zip(("output_0", "output_1"), exported.module(x), strict=True):
        assert _close(found[name], expected)
    _assert_every_parameter_is_told(exported)
    assert [_layer(n) for n in exported.model.graph.node if n.op_type in ("Conv", "LSTM")] == ["conv", "conv", "lstm"]
    if mode == "deployed":
        assert exported.records["lstm.weight_ih_l0"].reason.startswith("folded into ")


@BOTH
def test_several_inputs_and_a_dictionary(tmp_path, exporter, mode):
    exported = Exported(tmp_path, "Tokens", input_shapes=TOKENS, exporter=exporter, mode=mode)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 10, (3, 5), generator=generator)
    mask = torch.rand(3, 5, generator=generator)
    found = exported.run({"ids": ids.numpy(), "mask": mask.numpy()})
    expected = exported.module(ids, mask=mask)
    assert list(found) == ["scores", "all_0"]
    assert _close(found["scores"], expected["scores"])
    assert _close(found["all_0"], expected["all"][0])
    _assert_every_parameter_is_told(exported)
    elements = [value.type.tensor_type.elem_type for value in exported.model.graph.input]
    assert elements == [onnx.TensorProto.INT64, onnx.TensorProto.FLOAT]
    weighted = {_layer(n) for n in exported.model.graph.node if "attention.out_proj.weight" in n.input}
    assert weighted == {"attention.out_proj"}


@BOTH
def test_any_number_of_inputs_and_one_that_is_returned(tmp_path, exporter, mode):
    shapes = (("", (1, 4)),) * 3
    exported = Exported(tmp_path, "Variadic", input_shapes=shapes, exporter=exporter, mode=mode)
    values = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(4))
    found = exported.run(dict(zip(("first", "others_0", "others_1"), values.numpy(), strict=True)))
    for got, expected in zip(found.values(), exported.module(*values), strict=True):
        assert _close(got, expected)


@BOTH
def test_a_module_that_learns_its_shapes(tmp_path, exporter, mode):
    request = {"input_shapes": (("", (1, 3, 8, 8)),), "exporter": exporter, "mode": mode}
    exported = Exported(tmp_path, "Lazy", **request)
    assert exported.records["fc.weight"].shape == (5, 144)
    assert {name for name, r in exported.records.items() if r.initializer == name} == set(exported.records)


@BOTH
def test_bfloat16_is_compared_by_its_bits(tmp_path, exporter, mode):
    exported = Exported(tmp_path, "Half", input_shapes=((":bfloat16", (1, 4)),), exporter=exporter, mode=mode)
    record = exported.records["fc.weight"]
    assert record.dtype == "bfloat16"
    stored = exported.initializers[record.initializer]
    assert stored.data_type == onnx.TensorProto.BFLOAT16
    assert stored.raw_data == exported.module.fc.weight.detach().view(torch.int16).numpy().tobytes()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_alexnet_on_an_image_of_224(tmp_path, exporter):
    exported = Exported(tmp_path, "alexnet", arguments={"num_classes": 10}, exporter=exporter)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    _assert_each_convolution_has_its_value(exported, image)
    assert _close(exported.run({"x": image.numpy()})["output"], exported.module(image))
    _assert_every_parameter_is_told(exported)
    assert {name for name, r in exported.records.items() if r.initializer == name} == set(exported.records)
    assert exported.provenance.preprocess == "imagenet"
    assert (exported.provenance.framework, exported.provenance.source) == ("torch", "alexnet")
    assert exported.provenance.version == torch.__version__.partition("+")[0]
    assert exported.report.notes == ("the weights are random, with seed 0; `--weights` loads a checkpoint",)


def _assert_resnet(exported: Exported, convolutions: int) -> None:
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    assert _close(exported.run({"x": image.numpy()})["output"], exported.module(image))
    _assert_every_parameter_is_told(exported)
    assert [n.op_type for n in exported.model.graph.node].count("Conv") == convolutions
    if exported.provenance.mode == "faithful":
        _assert_each_convolution_has_its_value(exported, image)
        absent = {n for n, r in exported.records.items() if r.initializer != n}
        assert absent == {n for n in exported.records if n.endswith("num_batches_tracked")}
        assert len(absent) == convolutions
        assert all(len(n.input) == 2 for n in exported.model.graph.node if n.op_type == "Conv")
    else:
        assert sum(record.folded for record in exported.records.values()) == convolutions


@BOTH
def test_resnet34(tmp_path, exporter, mode):
    options = {"arguments": {"num_classes": 10}, "input_shapes": (("", (1, 3, 64, 64)),)}
    _assert_resnet(Exported(tmp_path, "resnet34", exporter=exporter, mode=mode, **options), 36)


@pytest.mark.acceptance
@BOTH
def test_resnet50_from_a_checkpoint(tmp_path, exporter, mode):
    torch.manual_seed(7)
    net = find_source("resnet50").factory()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(part.weight, 0.5, 1.0)
    torch.save(net.state_dict(), tmp_path / "trained.pth")
    options = {"weights": str(tmp_path / "trained.pth"), "input_shapes": (("", (1, 3, 64, 64)),)}
    _assert_resnet(Exported(tmp_path, "resnet50", exporter=exporter, mode=mode, **options), 53)


@BOTH
def test_nothing_of_this_machine_is_in_the_file(tmp_path, exporter, mode):
    exported = Exported(tmp_path, "Tokens", input_shapes=TOKENS, exporter=exporter, mode=mode)
    content = exported.path.read_bytes()
    for path in (str(tmp_path), str(Path(HELPERS).parent), str(Path(torch.__file__).parent.parent), "stack_trace"):
        assert path.encode() not in content


@BOTH
def test_the_same_input_gives_the_same_bytes(tmp_path, exporter, mode):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    left, right = (
        Exported(folder, "Residual", input_shapes=IMAGE, exporter=exporter, mode=mode).path.read_bytes()
        for folder in folders
    )
    assert left == right
    other = Exported(folders[0], "Residual", input_shapes=IMAGE, exporter=exporter, mode=mode, seed=1)
    assert other.path.read_bytes() != left


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("static", [False, True])
def test_axis_0_is_the_batch_unless_static(tmp_path, exporter, static):
    shapes = (("", (1, 3, 12, None)),)
    exported = Exported(tmp_path, "Residual", input_shapes=shapes, exporter=exporter, static=static)
    dims = exported.model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == [1 if static else "batch", 3, 12, "image_3"]
    image = torch.randn(1, 3, 12, 15, generator=torch.Generator().manual_seed(8))
    assert _close(exported.run({"image": image.numpy()})["output"], exported.module(image))


@pytest.mark.parametrize(("exporter", "opset"), [("dynamo", 18), ("dynamo", 21), ("legacy", 13), ("legacy", 17)])
def test_the_opset_is_the_one_asked_for(tmp_path, exporter, opset):
    exported = Exported(tmp_path, "Residual", input_shapes=IMAGE, exporter=exporter, opset=opset)
    assert exported.report.opset == opset
    assert {e.version for e in exported.model.opset_import if e.domain in ("", "ai.onnx")} == {opset}
    image = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(9))
    assert _close(exported.run({"image": image.numpy()})["output"], exported.module(image))
    _assert_every_parameter_is_told(exported)


def test_the_preset_of_the_request_is_recorded(tmp_path):
    exported = Exported(tmp_path, "Residual", input_shapes=IMAGE, exporter="legacy")
    assert (exported.provenance.preprocess, exported.provenance.source) == (None, "Residual")
    exported = Exported(tmp_path, "Residual", input_shapes=IMAGE, exporter="legacy", preprocess="unit")
    assert exported.provenance.preprocess == "unit"


@pytest.mark.parametrize(
    ("source", "options", "message", "hint"),
    [
        ("Residual", {"exporter": "onnxruntime"}, "no exporter named 'onnxruntime': PyTorch", "dynamo, legacy"),
        (
            "Residual",
            {"opset": 999, "exporter": "legacy"},
            "the legacy exporter failed (RuntimeError: Unsupported onnx_opset_version: 999)",
            "dynamo",
        ),
        ("OneSize", {"input_shapes": (("", (2, 4)),)}, "static shape of 2 for dimension inputs['x']", "`--static`"),
        ("Branching", {"input_shapes": (("", (1, 4)),)}, "the dynamo exporter failed (", "`--exporter legacy`"),
    ],
)
def test_faults_of_an_export(tmp_path, source, options, message, hint):
    with pytest.raises(ConversionError) as caught:
        Exported(tmp_path, source, **{"input_shapes": IMAGE, **options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_legacy_says_that_it_fixed_a_branch(tmp_path):
    exported = Exported(tmp_path, "Branching", input_shapes=(("", (1, 4)),), exporter="legacy")
    assert exported.report.notes == (
        "the exporter fixed 1 decisions made in Python as they fell for the example: other sizes or data may fail, "
        "which `--exporter dynamo` avoids",
    )


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write \(No such file or directory\): .*model\.onnx"):
        Exported(tmp_path / "nowhere", "Residual", input_shapes=IMAGE, exporter="legacy")
