"""How pictures must be prepared, of networks of which that is known; the long proof is for `make acceptance`."""

from __future__ import annotations

import itertools
import time

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxscope
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model
from onnxscope.preparing.find_preparation import preparation
from tests.prepared_networks import SCALES, exported, outputs_of, parts_of_another, resized, trained

UNTRAINED = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3, 16, 16] x) => (float[N, 3, 16, 16] y)
    <float[3] one = {1, 1, 1}, float[3] zero = {0, 0, 0}, float[3] mean = {MEAN}, float[3] variance = {VARIANCE}>
    { y = BatchNormalization<epsilon = 0.001>(x, one, zero, mean, variance) }"""


def normalized(mean="0, 0, 0", variance="1, 1, 1"):
    return onnx.parser.parse_model(UNTRAINED.replace("MEAN", mean).replace("VARIANCE", variance))


def is_right(found, scale, order):
    """Whether the answer gives each level the number that the network was trained on, by the recipe's own steps."""
    divisor, mean, std = SCALES[scale]
    answer, levels = found.answer, np.array([[[0.0, 100.0, 255.0]]])
    wanted = (levels[0, 0] / divisor - mean) / std
    given = answer.numbers(levels, np.dtype(np.float64))[0, 0]
    return np.allclose(given, wanted[::-1] if order == "BGR" else wanted)


def outcomes(seed, scale, order, parts):
    """What is said of one network: by its statistics, by its outputs, of its folded copy, and how long each took."""
    network = trained(seed, scale, order)
    whole, folded = exported(network), exported(network, folded=True)
    expected = outputs_of(network, resized(parts), scale, order)
    found = []
    for model, expect in ((whole, None), (whole, expected), (folded, expected), (folded, None)):
        begun = time.process_time()
        found.append(preparation(model, parts, expect=expect, threads=1))
        assert time.process_time() - begun < 3
    return found


@pytest.mark.parametrize(("scale", "order"), [("imagenet", "RGB"), ("caffe", "BGR"), ("half", "RGB")])
def test_what_a_network_was_trained_on_is_named(scale, order):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    by_statistics, by_outputs, folded, nothing = outcomes(1001, scale, order, parts_of_another(12))
    for found in (by_statistics, by_outputs, folded):
        assert is_right(found, scale, order), found
    assert by_statistics.answer.name == scale  # the preset itself, so that its name is enough
    assert by_statistics.verdict.scale == "sure"
    assert by_outputs.ranked[0].distance.distance < 1e-5
    assert nothing.sureness == "undecided"
    assert (nothing.answer, nothing.by, nothing.ranked) == (None, None, ())
    assert "no BatchNormalization is left" in nothing.text
    assert "--expect" in nothing.text


@pytest.mark.acceptance
def test_of_sixty_networks_nearly_all_are_named_and_none_that_is_sure_is_wrong():
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    parts = parts_of_another(12)
    kinds = itertools.product(SCALES, ("RGB", "BGR"), range(6))
    named = []
    for seed, (scale, order, _) in enumerate(kinds, start=1001):
        by_statistics, *by_outputs, nothing = outcomes(seed, scale, order, parts)
        assert all(is_right(found, scale, order) for found in by_outputs), (seed, scale, order)
        assert nothing.answer is None
        named.append(by_statistics.answer is not None and is_right(by_statistics, scale, order))
        assert named[-1] or by_statistics.sureness != "sure", (seed, scale, order, by_statistics)
    assert len(named) == 60
    assert np.mean(named) >= 0.95


def test_nothing_tells_of_what_was_never_trained():
    found = preparation(normalized(), [Image.new("RGB", (16, 16), "red")])
    assert found.answer is None
    assert "never trained" in found.text


def test_nothing_tells_where_all_are_far():
    found = preparation(normalized("9e4, 9e4, 9e4"), [Image.effect_noise((16, 16), 50).convert("RGB")] * 4)
    assert found.answer is None
    assert "no recipe that was tried comes near" in found.text


def test_one_grey_picture_does_not_tell_the_order():
    noise = Image.effect_noise((16, 16), 50).convert("RGB")
    found = preparation(normalized("0.5, 0.5, 0.5", "0.04, 0.04, 0.04"), noise)
    assert found.verdict.scale != "undecided"
    assert found.verdict.order == "undecided"
    assert "whether RGB or BGR" in found.text
    assert any("may have any colours" in note for note in found.notes)


def test_the_divergence_is_that_of_normal_distributions():
    """Of a BatchNormalization that reads the input itself, against PyTorch's own."""
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (4, 16, 16, 3), np.uint8)
    found = preparation(normalized("0.4, 0.5, 0.7", "0.05, 0.1, 0.2"), [Image.fromarray(picture) for picture in pixels])
    row = next(row for row in found.ranked if (row.candidate.scale, row.candidate.preset.order) == ("unit", "RGB"))
    colours = torch.from_numpy(pixels.reshape(-1, 3) / 255)
    normal = torch.distributions.Normal
    known = normal(torch.tensor([0.4, 0.5, 0.7]).double(), torch.tensor([0.05, 0.1, 0.2]).double().sqrt())
    wanted = torch.distributions.kl_divergence(normal(colours.mean(0), colours.std(0, correction=0)), known)
    assert row.distance.distance == pytest.approx(float(wanted.mean()), rel=1e-5)
    shift = (colours.mean(0).numpy() - [0.4, 0.5, 0.7]) / np.sqrt([0.05, 0.1, 0.2])
    assert row.distance.shift == pytest.approx(np.sqrt(np.mean(shift**2)), rel=1e-5)


def test_how_to_resize_is_told_by_outputs_alone():
    random = np.random.default_rng(1)
    pictures = [Image.fromarray(random.integers(0, 256, (20, 40, 3), np.uint8)) for _ in range(3)]
    model = normalized("0.1, 0.2, 0.3")
    recipe = '{"resize": "letterbox", "filter": "bicubic", "divisor": 255}'
    right = onnxscope.features(model, pictures, preprocess=recipe, select="value:x")[0].data
    mean = np.array([0.1, 0.2, 0.3], np.float32)[:, None, None]
    expected = (right - mean) / np.sqrt(np.float32(1.001))
    found = preparation(model, pictures, expect=expected)
    assert found.verdict.resize == "sure"
    assert (found.answer.resize, found.answer.filter, found.answer.divisor) == ("letterbox", "bicubic", 255)
    assert preparation(model, pictures).verdict.resize == "undecided"


def test_what_is_asked_for_is_ranked_beside_the_others():
    random = np.random.default_rng(2)
    colours = random.integers(0, 256, (4, 16, 16, 3)) * [0.3, 0.6, 1.0]
    pictures = [Image.fromarray(picture.astype(np.uint8)) for picture in colours]
    model = normalized("0.15, 0.3, 0.5", "0.0075, 0.03, 0.083")
    found = preparation(model, pictures, preprocess="none")
    assert found.is_used_wrong
    assert found.used.candidate.preset.name == "none"
    assert found.answer.name == "unit"
    own = '{"name": "mine", "divisor": 256}'  # as good as 255: what is used is kept
    found = preparation(model, pictures, preprocess=own)
    assert not found.is_used_wrong
    assert found.answer.name == "mine"
    assert found.to_dict()["preprocess"]["divisor"] == 256
    assert found.to_frame().loc[lambda rows: rows.used, "scale"].tolist() == ["mine"]


def test_runs_of_a_fixed_batch_and_pictures_without_a_batch_axis():
    random = np.random.default_rng(2)
    colours = random.integers(0, 256, (4, 16, 16, 3)) * [0.3, 0.6, 1.0]
    pictures = [Image.fromarray(picture.astype(np.uint8)) for picture in colours]
    free = preparation(normalized("0.15, 0.3, 0.5", "0.0075, 0.03, 0.083"), pictures)
    fixed = normalized("0.15, 0.3, 0.5", "0.0075, 0.03, 0.083")
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    of_seven = preparation(fixed, pictures)
    alone = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[3, 16, 16] x) => (float[1, 3, 16, 16] y)
        <float[3] one = {1, 1, 1}, float[3] zero = {0, 0, 0}, float[3] mean = {0.15, 0.3, 0.5},
         float[3] variance = {0.0075, 0.03, 0.083}, int64[1] axis = {0}>
        { u = Unsqueeze(x, axis)  y = BatchNormalization(u, one, zero, mean, variance) }""")
    of_one = preparation(alone, pictures)
    wanted = [row.distance.distance for row in free.ranked]
    for found in (of_seven, of_one):
        assert found.answer == free.answer
        assert [row.distance.distance for row in found.ranked] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        (np.zeros((2, 3)), r"the expected output has the shape \(2, 3\), and the model gives \(1, 3, 16, 16\)"),
        ({"z": np.zeros(3)}, "the model has no output 'z'"),
        ({}, "no output is expected"),
        (np.full((1, 3, 16, 16), np.nan), "something else than finite numbers"),
    ],
)
def test_an_expected_output_that_does_not_fit_is_refused(expect, message):
    with pytest.raises(InputError, match=message):
        preparation(normalized("1, 1, 1"), Image.new("RGB", (16, 16)), expect=expect)


def test_what_is_no_picture_is_refused():
    with pytest.raises(InputError, match="only pictures are prepared, and these are random"):
        preparation(normalized("1, 1, 1"), "random")


def test_a_model_is_not_changed():
    model = load_model(normalized("1, 1, 1"))
    before = model.proto.SerializeToString()
    preparation(model, Image.new("RGB", (16, 16)))
    assert model.proto.SerializeToString() == before
