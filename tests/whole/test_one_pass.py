"""How much a question about several things opens, decodes and reads: counted, with no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from compared_models import DIGITS, INPUT, QDQ
from onnx import numpy_helper
from opened_sessions import OpenedSession, watch_sessions
from PIL import Image
from planting import in_half

import onnxscope
from onnxscope.inputs import image_samples
from onnxscope.model.tensors import Storage
from onnxscope.numerics.dequantization import dequantized

RNG = np.random.default_rng(3)
SHAPES = {"w1": (16, 3, 7, 7), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (300, 16), "b3": (300,)}
NETWORK = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[BATCH, 3, 32, 32] image) => (float[BATCH, 300] scores) {
        c1 = Conv<kernel_shape = [7, 7], pads = [3, 3, 3, 3], strides = [2, 2]>(image, w1, b1)
        r1 = Relu(c1)
        c2 = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r1, w2, b2)
        sum = Add(c2, r1)
        r2 = Relu(sum)
        pooled = GlobalAveragePool(r2)
        flat = Flatten(pooled)
        scores = Gemm<transB = 1>(flat, w3, b3)
    }"""


@dataclass
class Counts:
    """What was opened, decoded and read.

    Attributes:
        opened: The sessions.
        decoded: By the image's name.
        read: By the model's own file and the tensor.
    """

    opened: list[OpenedSession]
    decoded: Counter = field(default_factory=Counter)
    read: Counter = field(default_factory=Counter)

    @property
    def sessions(self):
        """How many there are, by what they are of."""
        return Counter(session.where for session in self.opened)


@pytest.fixture
def counts(monkeypatch):
    counted = Counts(watch_sessions(monkeypatch))
    read_image, read_tensor = image_samples.read_image, Storage._read

    def decoding(stream, where, colour):
        counted.decoded[Path(where).name] += 1
        return read_image(stream, where, colour)

    def reading(storage, tensor, kind):
        counted.read[storage.files[0].name, tensor.name] += 1
        return read_tensor(storage, tensor, kind)

    monkeypatch.setattr(image_samples, "read_image", decoding)
    monkeypatch.setattr(Storage, "_read", reading)
    return counted


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def saved(path, *, batch="N", half=False, noise=0.0):
    """The network with random weights, which may be those of another one with noise in them."""
    rng, other = np.random.default_rng(1), np.random.default_rng(2)
    model = onnx.parser.parse_model(NETWORK.replace("BATCH", str(batch)))
    for name, shape in SHAPES.items():
        values = rng.normal(0, 0.1, shape) * (1 + noise * other.normal(size=shape))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    onnx.save(model, path)
    if half:
        onnx.save(in_half(path), path)
    return path


LARGE = {(name, weight) for name in ("a.onnx", "b.onnx") for weight in ("w1", "w2", "w3", "b3")}


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("batch", ["N", 4])
def test_a_report_against_another_model_is_one_pass(batch, noise, counts, photographs, tmp_path):
    a, b = saved(tmp_path / "a.onnx", batch=batch), saved(tmp_path / "b.onnx", batch=batch, noise=noise)
    made = onnxscope.report(a, photographs, against=b, preprocess="unit")
    assert counts.sessions == {"a.onnx": 3, "b.onnx": 1, "a.onnx and b.onnx": 1}
    assert counts.decoded == {f"{number}.png": 1 for number in range(8)}
    assert {place: counts.read[place] for place in LARGE} == dict.fromkeys(LARGE, 1)
    content = made.content
    assert content.comparison.equal == (noise == 0)
    assert content.statistics.profile.samples == content.comparison.samples == 8
    assert [sight.name for sight in content.sights] == [f"{number}.png" for number in range(6)]
    assert all(sight.overlay is not None for sight in content.sights)
    assert [len(maps.data) for maps in content.maps] == [6, 6]
    assert set(content.others) == {row.a.name for row in content.comparison.layers}
    for mine, theirs in content.others.values():
        assert mine.data.shape == theirs.data.shape
        assert np.array_equal(mine.data, theirs.data) == (noise == 0)


def test_a_report_of_one_model_opens_two_sessions(counts, photographs, tmp_path):
    made = onnxscope.report(saved(tmp_path / "a.onnx"), photographs, preprocess="unit")
    assert counts.sessions == {"a.onnx": 2}
    assert set(counts.decoded.values()) == {1}
    assert made.content.maps is not None


@pytest.mark.parametrize("select", ["c2", "scores", "op:Gemm"])
def test_what_is_selected_does_not_matter(select, counts, photographs, tmp_path):
    a, b = saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx", noise=1e-3)
    onnxscope.report(
        a, photographs, against=None if select.startswith("value") else b, select=select, preprocess="unit"
    )
    assert counts.sessions["a.onnx"] <= 3
    assert counts.sessions["b.onnx"] <= 1
    assert set(counts.decoded.values()) == {1}


def test_half_precision_takes_a_session_of_each_model_instead_of_the_merged_one(counts, photographs, tmp_path):
    a, b = saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx", half=True)
    made = onnxscope.report(a, photographs, against=b, preprocess="unit")
    assert "compared in two sessions" in "".join(made.content.notes)
    assert counts.sessions["a.onnx"] <= 4
    assert counts.sessions["b.onnx"] <= 4
    assert set(counts.decoded.values()) == {1}


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_snapshot_opens_three_sessions_and_reads_every_parameter_once(offset, counts, photographs, tmp_path):
    path = saved(tmp_path / "a.onnx")
    model = onnx.load(path)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "b1")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(offset), "b1"))
    onnx.save(model, path)  # a large mean needs other probes, which the pilot finds out
    baseline = onnxscope.snapshot(path, photographs, preprocess="unit")
    assert counts.sessions == {"a.onnx": 3}
    assert set(counts.decoded.values()) == {1}
    assert {place: count for place, count in counts.read.items() if place in LARGE} == {
        place: 1 for place in LARGE if place[0] == "a.onnx"
    }
    assert len(baseline.weights) == len(SHAPES)


def test_statistics_open_two_sessions(counts, photographs, tmp_path):
    onnxscope.stats(saved(tmp_path / "a.onnx"), photographs, preprocess="unit")
    assert counts.sessions == {"a.onnx": 2}
    assert set(counts.decoded.values()) == {1}


def test_a_comparison_opens_four_sessions(counts, photographs, tmp_path):
    a, b = saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx", noise=1e-3)
    onnxscope.diff(a, b, photographs, preprocess="unit")
    assert counts.sessions == {"a.onnx": 2, "b.onnx": 1, "a.onnx and b.onnx": 1}
    assert set(counts.decoded.values()) == {1}
    assert {place: counts.read[place] for place in LARGE} == dict.fromkeys(LARGE, 1)


def test_a_quantized_weight_is_made_real_once(monkeypatch):
    real = []

    def counting(codes, *rest):
        real.append(codes.shape)
        return dequantized(codes, *rest)

    monkeypatch.setattr("onnxscope.runtime.stored_values.dequantized", counting)
    onnxscope.report(DIGITS, INPUT, against=QDQ)
    encoded = [parameter for parameter in onnxscope.load_model(QDQ).parameters if parameter.encoding is not None]
    assert encoded
    assert sorted(real) == sorted(parameter.shape for parameter in encoded)
