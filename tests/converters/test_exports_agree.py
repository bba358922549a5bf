"""No false alarm: one network, exported in every way that we offer, is the same to a comparison."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pytest

pytest.importorskip("torch")

from onnxscope import compare
from onnxscope.conversion import ConversionRequest
from onnxscope.plugins import load_converter

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


def exports(source, folder, **options):
    made = {}
    for exporter, mode, opset in WAYS:
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
            result = compare(first, second, inputs, threads=threads, **options)
            assert result.equal, f"{left} against {right}: {result!r}{result.changes_table().text()}"
            compared += 1
    return compared


def test_a_residual_network_exported_in_every_way(tmp_path):
    made = exports(f"{HELPERS}:Residual", tmp_path, input_shapes=(("", (1, 3, 12, 12)),))
    images = np.random.default_rng(2).standard_normal((3, 3, 12, 12), np.float32)
    assert assert_equal(made, images) == 30


@pytest.mark.acceptance
@pytest.mark.parametrize("source", ["resnet34", "alexnet"])
def test_large_networks_exported_in_every_way(tmp_path, source):
    made = exports(source, tmp_path)
    print(f"{source}: {assert_equal(made, PHOTO)} comparisons, no finding")
