"""Faults planted in one layer are found in that layer, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from planting import KINDS, NORM_KINDS, Plot, insert_norms, one_weight, possible, quantized_badly, train_norms

from onnxscope import check, diff, snapshot
from onnxscope.base.plugins import load_converter
from onnxscope.converting.contract import ConversionRequest

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS, INPUT = FIXTURES / "digits.onnx", FIXTURES / "digits.npz"
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def planted(source, kind, seed):
    """Plant one fault and return the layer's name with the copy that has it; None where there is no such layer."""
    rng = np.random.default_rng(seed)
    plot = Plot(source)
    candidates = [layer for layer in plot.layers if possible(kind, layer)]
    if not candidates:
        return None
    layer = candidates[rng.integers(len(candidates))]
    kind(plot, layer, rng)
    return layer.name, plot


def found(source, kind, seed, inputs):
    """Plant one fault, compare, and return the planted layer's name with the result."""
    plot = planted(source, kind, seed)
    return None if plot is None else (plot[0], diff(source, plot[1].model, inputs))


def assert_named(name, result, label):
    assert not result.equal, label
    assert result.guilty, label
    assert result.guilty[0].a.layer == name, f"{label}: {result.summary()}"
    innocent = [row for row in result if row.a.layer != name]
    assert not any(row.is_guilty for row in innocent), f"{label}: {result!r}"
    largest = max((row.own.relative_l2 / row.floor for row in innocent if row.own is not None), default=0.0)
    assert largest <= 10, label
    return largest


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_planted_layer_of_the_digits_network_is_named(kind, seed):
    result = found(DIGITS, kind, seed, INPUT)
    assert result is not None
    assert_named(*result, kind.__name__)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    made = {}
    for framework, source, shape in (
        ("torch", "resnet34", ()),
        ("torch", "alexnet", ()),
        ("tensorflow", "alexnet", (("", (1, 227, 227, 3)),)),
    ):
        path = folder / f"{framework}_{source}.onnx"
        request = ConversionRequest(source=source, output=str(path), input_shapes=shape)
        load_converter(framework).convert(request)
        made[f"{framework} {source}"] = path, KINDS
        if source == "alexnet":  # it has no BatchNorm for two of the kinds
            path = folder / f"{framework}_alexnet_with_norms.onnx"
            insert_norms(folder / f"{framework}_alexnet.onnx", path)
            made[f"{framework} alexnet with BatchNorm"] = path, NORM_KINDS
        train_norms(path, seed=3)
    return made


@pytest.mark.acceptance
def test_every_one_of_many_plants_in_large_networks_is_named(networks):
    counts: dict[str, int] = {}
    worst = 0.0
    for name, (path, kinds) in networks.items():
        for kind in kinds:
            for seed in range(3):
                result = found(path, kind, seed, PHOTO)
                if result is None:
                    continue
                worst = max(worst, assert_named(*result, f"{name}, {kind.__name__}, seed {seed}"))
                counts[f"{name}: {kind.__name__}"] = counts.get(f"{name}: {kind.__name__}", 0) + 1
    for label, count in counts.items():
        print(f"{label}: {count} of {count} named")
    print(f"{sum(counts.values())} plants; the largest own error of an innocent layer is {worst:.2g} times its floor")
    assert sum(counts.values()) == 72


@pytest.mark.acceptance
def test_the_gate_refuses_a_plant_of_every_kind(networks):
    refused = 0
    for name, (path, kinds) in networks.items():
        baseline = snapshot(path, PHOTO)
        assert check(path, baseline, PHOTO, threads=1).ok, name
        for kind in kinds:
            plot = planted(path, kind, 5)
            if plot is not None:
                result = check(plot[1].model, baseline, PHOTO)
                first = next((finding.layer for finding in result.findings if finding.layer), None)
                assert first == plot[0], f"{name}, {kind.__name__}: {result.summary()}"
                refused += 1
    print(f"{refused} of {refused} plants refused, each in its layer")
    assert refused == 24


@pytest.mark.acceptance
def test_of_two_plants_both_are_named_the_larger_first(networks):
    for name, (path, _) in networks.items():
        plot = Plot(path)
        first, second = plot.layers[1], plot.layers[-2]
        one_weight(plot, first, np.random.default_rng(1))
        quantized_badly(plot, second, np.random.default_rng(2))
        result = diff(path, plot.model, PHOTO)
        assert [row.a.layer for row in result.guilty] == [second.name, first.name], f"{name}: {result.summary()}"
        innocent = [row for row in result if row.a.layer not in (first.name, second.name)]
        assert all(row.own.relative_l2 <= 10 * row.floor for row in innocent), name
