"""A number that two commands tell is the same number: of values, of weights, and in numpy's float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from PIL import Image
from planting import in_half

import onnxscope
from onnxscope.runtime.session import Session

RNG = np.random.default_rng(12)
NETWORK = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[N, 3, 64, 64] image) => (float[N, 10] scores) {
        [first] c1 = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
        r1 = Relu(c1)
        [second] c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2, b2)
        r2 = Relu(c2)
        pooled = GlobalAveragePool(r2)
        flat = Flatten(pooled)
        [head] scores = Gemm<transB = 1>(flat, w3, b3)
    }"""
SHAPES = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (24, 16, 3, 3), "b2": (24,), "w3": (10, 24), "b3": (10,)}
NUMBERS = ("mean", "std", "min", "max", "zero_fraction", "nan_count", "inf_count")


@pytest.fixture(params=["float32", "float16", "odd"])
def path(request, tmp_path):
    rng = np.random.default_rng(13)
    model = onnx.parser.parse_model(NETWORK)
    for name, shape in SHAPES.items():
        values = rng.normal(size=shape).astype(np.float32)
        if request.param == "odd" and name in ("w2", "b3"):
            values.reshape(-1)[:2] = np.nan, np.inf  # two channels, or two scores
            values.reshape(-1)[-1] = 0
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    place = tmp_path / "m.onnx"
    onnx.save(model, place)
    if request.param == "float16":
        onnx.save(in_half(place), place)
    return place


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def expected_of(values):
    """By the definitions, in float64."""
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    nothing = dict.fromkeys(NUMBERS[:5])
    numbers = (
        {
            "mean": finite.mean(),
            "std": finite.std(ddof=1),
            "min": finite.min(),
            "max": finite.max(),
            "zero_fraction": (finite == 0).mean(),
        }
        if finite.size
        else nothing
    )
    return {
        **numbers,
        "nan_count": np.isnan(wide).sum(),
        "inf_count": np.isinf(wide).sum(),
    }


@pytest.mark.parametrize("count", [1, 2])
def test_values_have_the_same_numbers_in_every_command(path, photographs, count):
    images = sorted(photographs.iterdir())[:count]
    options = {"preprocess": "unit"}
    maps = onnxscope.features(path, images, select=["op:Conv", "op:Gemm"], **options)
    statistics = onnxscope.stats(path, images, select=["op:Conv", "op:Gemm"], **options)
    reported = onnxscope.report(path, images, cam=None, select=["op:Conv", "op:Gemm"], **options).content
    baseline = {row["layer"]: row for row in onnxscope.snapshot(path, images, **options).layers}
    assert len(maps) == len(statistics) == 3
    for seen, profiled, in_report, again in zip(maps, statistics, reported.statistics, reported.maps, strict=True):
        assert seen.tap.name == profiled.name == in_report.name == again.tap.name
        expected = expected_of(seen.data)
        assert profiled.sampled is None
        row = baseline[profiled.layer]
        for key in NUMBERS:
            exact = key in ("min", "max", "zero_fraction", "nan_count", "inf_count")
            told = [seen.statistics[key], again.statistics[key]]
            told += [getattr(record.overall, key) for record in (profiled, in_report)]
            for number in told:
                if expected[key] is None:
                    assert number is None
                    continue
                assert number == pytest.approx(expected[key], rel=1e-6 if not exact else 0, abs=0)
            assert len(set(told)) == 1 or not exact
            unit = (expected["std"] or 1.0) if key in ("mean", "std", "min", "max") else 1.0
            wanted = None if expected[key] is None else pytest.approx(expected[key], abs=2e-6 * unit)
            assert row[key] == wanted
        shares = profiled.quantiles
        wide = np.sort(seen.data.astype(np.float64)[np.isfinite(seen.data)])
        for share, quantile in shares.items():
            if not wide.size:
                assert quantile is None
                continue
            exact_quantile = wide[max(int(np.ceil(float(share) * wide.size)) - 1, 0)]
            assert quantile == pytest.approx(exact_quantile, rel=1 / 256, abs=2.0**-133)
        assert list(profiled.dead_channels) == seen.statistics["zero_channels"]


def test_weights_have_the_same_numbers_in_every_command(path, photographs):
    rows = onnxscope.weights(path)
    options = {"preprocess": "unit"}
    images = sorted(photographs.iterdir())[:1]
    in_stats = {row["name"]: row for row in onnxscope.stats(path, images, **options).profile.weights}
    in_baseline = {row["name"]: row for row in onnxscope.snapshot(path).weights}
    in_report = {row.parameter.name: row for row in onnxscope.report(path).content.weights}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    assert len(rows) == len(in_stats) == len(in_baseline) == len(in_report)
    for row in rows:
        name = row.parameter.name
        expected = expected_of(stored[row.parameter.initializer])
        for key in NUMBERS:
            number = getattr(row.summary.overall, key)
            assert number == pytest.approx(expected[key], rel=1e-9, abs=1e-12)
            assert in_stats[name][key] == number == getattr(in_report[name].summary.overall, key)
            if key in in_baseline[name]:
                assert in_baseline[name][key] == pytest.approx(number, rel=1e-6, abs=1e-12)
    layers = onnxscope.inspect(path).layers
    for key in ("nan_count", "inf_count"):
        assert sum(getattr(layer, key) for layer in layers) == sum(getattr(row.summary.overall, key) for row in rows)
    assert sum(layer.parameters for layer in layers) == sum(row.summary.overall.count for row in rows)


def test_much_data_is_sampled_and_says_so(path, photographs, monkeypatch):
    monkeypatch.setattr("onnxscope.profiling.plan._LITTLE", 0)
    statistics = onnxscope.stats(path, photographs, preprocess="unit")
    assert [tap.sampled is None for tap in statistics] == [False, False]
    for tap in statistics:
        examined, count = tap.state.moments.examined.sum(), tap.state.moments.count.sum()
        assert tap.sampled == examined / count < 1
        assert tap.histogram.total == examined


def test_little_data_takes_no_session_more_and_no_more_than_the_budget(path, photographs, monkeypatch):
    opened = []
    make = Session.__init__

    def opening(session, proto, **options):
        opened.append(len(proto.graph.output))
        make(session, proto, **options)

    monkeypatch.setattr(Session, "__init__", opening)
    exact = onnxscope.stats(path, photographs, preprocess="unit")
    assert len(opened) == 2
    tight = onnxscope.stats(path, photographs, preprocess="unit", memory_budget_bytes=1 << 20)
    assert [tap.sampled is None for tap in exact] == [True, True]
    assert [tap.sampled is None for tap in tight] == [False, False]
