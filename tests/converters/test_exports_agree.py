"""No false alarm: one network, exported in every way that we offer, is the same to a comparison."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pytest

pytest.importorskip("torch")

from onnxscope import check, diff, snapshot
from onnxscope.base.plugins import load_converter
from onnxscope.converting.contract import ConversionRequest

HELPERS = str(Path(__file__).with_name("torch_helpers.py"))
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
WAYS = [
    ("dynamo", "faithful", None),
    ("dynamo", "deployed", None),
    ("dynamo", "faithful", 21),
    ("legacy", "faithful", None),
    ("legacy", "deployed", None),
    ("legacy", "faithful", 15),
]


SMALL = {"input_shapes": (("", (1, 3, 12, 12)),)}
IMAGES = np.random.default_rng(2).standard_normal((3, 3, 12, 12), np.float32)


def exports(source, folder, ways=WAYS, **options):
    made = {}
    for exporter, mode, opset in ways:
        path = folder / f"{exporter}_{mode}_{opset}.onnx"
        request = ConversionRequest(
            source=source, output=str(path), exporter=exporter, mode=mode, opset=opset, **options
        )
        load_converter("torch").convert(request)
        made[path.stem] = path
    return made


def assert_equal(made, inputs, **options):
    compared = 0
    for (left, first), (right, second) in itertools.combinations(made.items(), 2):
        for threads in (1, 2):
            result = diff(first, second, inputs, threads=threads, **options)
            assert result.equal, f"{left} against {right}: {result!r}{result.changes_table().text()}"
            compared += 1
    return compared


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    return exports(f"{HELPERS}:Residual", tmp_path_factory.mktemp("residual"), **SMALL)


def test_a_residual_network_exported_in_every_way(residual):
    assert assert_equal(residual, IMAGES) == 30


def test_a_baseline_of_one_export_accepts_another(residual, tmp_path):
    faithful = [path for name, path in residual.items() if "faithful" in name]
    assert len(faithful) == 4
    baseline = snapshot(faithful[0], IMAGES)
    for path in faithful:
        for threads in (1, 2):
            result = check(path, baseline, IMAGES, threads=threads)
            assert result.ok, f"{path.name}: {result!r}"
    for name, path in exports(f"{HELPERS}:Residual", tmp_path, ways=WAYS[1:2], **SMALL).items():
        assert check(path, snapshot(residual[name], IMAGES), IMAGES).ok, name
    folded = check(residual["dynamo_deployed_None"], baseline, IMAGES)
    assert folded.ok, repr(folded)
    assert any("folded" in note or "holds" in note for note in folded.notes)
    deployed = snapshot(residual["dynamo_deployed_None"], IMAGES)
    result = check(residual["legacy_deployed_None"], deployed, IMAGES)  # one of them leaves a bias of zeros out
    assert result.ok, repr(result)


@pytest.mark.acceptance
@pytest.mark.parametrize("source", ["resnet34", "alexnet"])
def test_large_networks_exported_in_every_way(tmp_path, source):
    made = exports(source, tmp_path)
    print(f"{source}: {assert_equal(made, PHOTO)} comparisons, no finding")
