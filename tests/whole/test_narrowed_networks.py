"""What `sensitivity` says of networks, against onnxruntime's own quantizer; the long proofs are for `make acceptance`.

Layers alone are quantized by `nodes_to_quantize`, all but some by `nodes_to_exclude`. Calibration is on every other
sample, errors are those of the rest, as in `sensitivity`. Sums of products of eight bits saturate on some processors
where onnxruntime fuses them, so that what it writes is run without optimizations.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from PIL import Image

import onnxscope

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
EIGHT = ("int8", "uint8", "int6", "int4", "float16", "bfloat16", "fp8", "fp8_e5m2")
TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}


class Reader(CalibrationDataReader):
    def __init__(self, name, samples):
        self._feeds = iter([{name: samples}])

    def get_next(self):
        return next(self._feeds, None)


@dataclass
class Network:
    """A network in a file, and its samples."""

    path: Path
    data: np.ndarray

    @cached_property
    def proto(self):
        return onnx.load(self.path)

    @property
    def name(self):
        return self.proto.graph.input[0].name

    @cached_property
    def layers(self):
        """Names of the nodes that multiply by a stored matrix, by that of their own output value."""
        stored = {tensor.name for tensor in self.proto.graph.initializer if len(tensor.dims) > 1}
        nodes = [node for node in self.proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul", "Gather")]
        return [node.name for node in nodes if stored.intersection(node.input)]

    def run(self, model):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        batches = [session.run(None, {self.name: self.data[place : place + 8]})[0] for place in range(0, len(self), 8)]
        return np.concatenate(batches).astype(np.float64)

    def __len__(self):
        return len(self.data)

    @cached_property
    def clean(self):
        return self.run(self.path)

    def decibels(self, changed, measured=slice(1, None, 2)):
        clean, changed = self.clean[measured], changed[measured]
        return 10 * np.log10(np.square(clean).sum() / np.square(changed - clean).sum())

    def quantized(self, folder, form="int8", *, per_channel=False, method=CalibrationMethod.MinMax, **which):
        """What the quantizer makes of all layers, or of those that are named, in decibels."""
        others = {node.name for node in self.proto.graph.node if node.op_type in ("MatMul", "Gather")} - set(
            self.layers
        )
        which["nodes_to_exclude"] = [*which.get("nodes_to_exclude", ()), *others]
        if "nodes_to_quantize" in which:  # a Relu behind a layer is where its values are cut
            relus = [node for node in self.proto.graph.node if node.op_type == "Relu"]
            which["nodes_to_quantize"] = [*which["nodes_to_quantize"], *(node.name for node in relus)]
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                quantize_static(
                    str(self.path),
                    str(folder / "quantized.onnx"),
                    Reader(self.name, self.data[::2]),
                    op_types_to_quantize=["Conv", "Gemm", "MatMul", "Gather", "Relu"],
                    activation_type=QuantType.QUInt8,
                    weight_type=TYPES[form],
                    per_channel=per_channel,
                    calibrate_method=method,
                    **which,
                )
        finally:
            logging.disable(logging.NOTSET)
        return self.decibels(self.run(folder / "quantized.onnx"))


def ranks(values):
    return np.argsort(np.argsort(values))


def spearman(a, b):
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


@pytest.fixture(scope="module")
def digits():
    return Network(FIXTURES / "digits_deployed.onnx", np.load(FIXTURES / "digits.npz")["digits"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder that has learned which of ten tokens is the most frequent."""
    torch = pytest.importorskip("torch")
    from quantized_networks import Encoder

    torch.manual_seed(0)
    network, path = Encoder(), tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(400):
        favourite = torch.randint(0, 10, (64,))
        ids = torch.randint(0, 50, (64, 10))
        ids = torch.where(torch.rand(64, 10) < 0.4, favourite[:, None], ids)
        loss = torch.nn.functional.cross_entropy(network(ids), favourite)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    network.eval()
    favourite = torch.randint(0, 10, (64,))
    ids = torch.where(torch.rand(64, 10) < 0.4, favourite[:, None], torch.randint(0, 50, (64, 10)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"ids": {0: "batch"}}
        torch.onnx.export(network, (ids,), path, input_names=["ids"], dynamo=False, dynamic_axes=axes)
    return Network(path, ids.numpy())


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """ResNet34 with folded normalization, on pieces of a photograph."""
    pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("resnet") / "resnet34.onnx"
    onnxscope.convert("torch", "resnet34", path, mode="deployed", input_shapes=[("", (1, 3, 64, 64))])
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    rng = np.random.default_rng(0)
    pieces = []
    for _ in range(64):
        side = int(rng.integers(64, 400))
        left, top = int(rng.integers(0, photo.width - side)), int(rng.integers(0, photo.height - side))
        piece = photo.crop((left, top, left + side, top + side)).resize((64, 64), Image.Resampling.BILINEAR)
        pieces.append(np.asarray(piece, np.float32).transpose(2, 0, 1) / 127.5 - 1)
    return Network(path, np.stack(pieces))


@pytest.mark.acceptance
@pytest.mark.parametrize("network", ["digits", "encoder", "resnet"])
@pytest.mark.parametrize("scheme", ["tensor", "channel"])
def test_all_layers_at_once_are_as_bad_as_the_quantizer_makes_them(request, tmp_path, network, scheme):
    network = request.getfixturevalue(network)
    found = onnxscope.sensitivity(network.path, network.data, formats=list(TYPES), of="both", scheme=scheme)
    gaps = {}
    for whole in found.whole:
        real = network.quantized(tmp_path, whole.form, per_channel=scheme == "channel")
        gaps[whole.form] = whole.output.sqnr_db, real
    print(network.path.name, scheme, {form: tuple(round(float(one), 2) for one in pair) for form, pair in gaps.items()})
    assert all(abs(predicted - real) <= 1.5 for predicted, real in gaps.values())


@pytest.mark.acceptance
@pytest.mark.parametrize("network", ["digits", "encoder", "resnet"])
def test_layers_are_ranked_as_the_quantizer_ranks_them_one_by_one(request, tmp_path, network):
    network = request.getfixturevalue(network)
    found = onnxscope.sensitivity(network.path, network.data, of="both")
    losses = {_node(network, row.name): row.output.sqnr_db for row in found}
    assert sorted(losses) == sorted(network.layers)
    layers = [name for name in network.layers if "Gather" not in name]  # whose tables are quantized as activations
    real = [network.quantized(tmp_path, nodes_to_quantize=[node]) for node in layers]
    rank = spearman([losses[node] for node in layers], real)
    gap = max(abs(losses[node] - decibels) for node, decibels in zip(layers, real, strict=True))
    print(network.path.name, f"{len(real)} layers, Spearman {rank:.3f}, {gap:.1f} dB apart at most", found.samples)
    assert rank > 0.95


def _node(network, value):
    """The node of a layer, by its own output value, which may be that of a bias behind it."""
    producers = {name: node for node in network.proto.graph.node for name in node.output}
    node = producers[value]
    while node.name not in network.layers:
        node = next(producers[name] for name in node.input if name in producers)
    return node.name


@pytest.mark.acceptance
def test_eight_formats_take_six_tenths_of_a_pass_for_each_layer(resnet):
    found = onnxscope.sensitivity(resnet.path, resnet.data, formats=EIGHT)
    count = len(resnet.layers)
    print(f"{found.passes:.1f} passes for {count} layers, {found.passes / count:.2f} each", found.samples)
    assert found.passes <= 0.6 * count
    alone, copy = {}, onnx.ModelProto()
    copy.CopyFrom(resnet.proto)
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes = {node.name: node for node in copy.graph.node}
    for name in resnet.layers:  # an eighth of the samples does for the truth, as it is another eighth
        tensor = stored[nodes[name].input[1]]
        weight = numpy_helper.to_array(tensor)
        scale = np.abs(weight).max() / 127
        tensor.CopyFrom(numpy_helper.from_array(np.round(weight / scale) * scale, tensor.name))
        alone[name] = resnet.decibels(resnet.run(copy), slice(None))
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    losses = {_node(resnet, row.name): row.output.sqnr_db for row in found if row.form == "int8"}
    rank = spearman([losses[name] for name in resnet.layers], list(alone.values()))
    print(f"int8, Spearman {rank:.3f}")
    assert rank > 0.95


@pytest.mark.acceptance
@pytest.mark.parametrize("form", TYPES)
def test_what_is_kept_is_one_layer_more_than_the_best_set_at_most_and_keeps_its_promise(digits, tmp_path, form):
    sets = [kept for count in range(5) for kept in itertools.combinations(digits.layers, count)]
    real = {frozenset(kept): digits.quantized(tmp_path, form, nodes_to_exclude=list(kept)) for kept in sets[:-1]}
    real[frozenset(sets[-1])] = np.inf
    for target in (28, 30, 35, 40, 44, 48, 52):
        found = onnxscope.sensitivity(digits.path, digits.data, formats=form, of="both", target=f"{target}dB").kept[0]
        names = frozenset(found.nodes_to_exclude)
        fewest = min(len(kept) for kept, quality in real.items() if quality >= target)
        print(form, target, f"{len(names)} layers, {fewest} at best,", found.found.output.sqnr_db, real[names])
        assert len(names) <= fewest + 1
        assert real[names] >= target - 0.5


def test_the_list_of_excluded_nodes_gives_the_quality_that_is_promised(digits, tmp_path):
    found = onnxscope.sensitivity(digits.path, digits.data, of="both", target="30dB").kept[0]
    assert 0 < len(found.nodes_to_exclude) < 4
    real = digits.quantized(tmp_path, nodes_to_exclude=found.nodes_to_exclude)
    assert real >= 30
    assert real == pytest.approx(found.found.output.sqnr_db, abs=1.5)


@pytest.mark.parametrize("ranges", ["percentile", "entropy"])
def test_ranges_that_clip_are_said_to_need_a_run(digits, ranges):
    found = onnxscope.sensitivity(digits.path, digits.data, of="both", ranges=ranges)
    assert found.whole[0].must_run >= 2
