"""What is not finite shows in the rows of `inspect`, `weights` and `features`, in every form of a table."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.analyses import odd_numbers
from onnxscope.base.tables import render
from onnxscope.model.loading import load_model

RNG = np.random.default_rng(8)
NETWORK = """
    <ir_version: 9, opset_import: ["": 18]>
    net (float[N, 3, 9, 9] x) => (float[N, 5] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
        r = Relu(c)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        y = Gemm<transB = 1>(f, v)
    }"""
FORMS = ("table", "csv", "md")


def network(**stored):
    """With random weights, some of which are replaced."""
    values = {name: RNG.normal(size=shape) for name, shape in (("w", (4, 3, 3, 3)), ("b", (4,)), ("v", (5, 4)))}
    model = onnx.parser.parse_model(NETWORK)
    for name, array in {**values, **stored}.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def broken():
    weights = RNG.normal(size=(4, 3, 3, 3))
    weights[0, 0, 0, 0], weights[1, 2, 0, :2], bias = np.nan, np.inf, RNG.normal(size=4)
    bias[3] = -np.inf
    return network(w=weights, b=bias)


def shown(record):
    return [record.table().html(), record._repr_html_(), repr(record), *(render(record, form) for form in FORMS)]


def test_weights_that_are_not_finite_show_in_rows_of_inspect_and_weights():
    model = broken()
    summary, statistics = onnxscope.inspect(model), onnxscope.weights(model)
    assert [(layer.nan_count, layer.inf_count) for layer in summary.layers] == [(1, 3), (0, 0)]
    assert summary.table().columns[-1] == statistics.table().columns[-1] == "not finite"
    assert [row[-1] for row in summary.table().rows] == ["NaN 1, inf 3", ""]
    assert [row[-1] for row in statistics.table().rows] == ["NaN 1, inf 2", "inf 1", ""]
    for text in shown(summary):
        assert "NaN 1, inf 3" in text
    for text in shown(statistics):
        assert "NaN 1, inf 2" in text
    for text in shown(statistics[1]):
        assert "inf 1" in text
    assert statistics[0].caption().endswith("NaN 1, inf 2")
    assert [layer["nan_count"] for layer in summary.to_dict()["layers"]] == [1, 0]


def test_columns_stay_as_they_are_where_everything_is_finite():
    model = network()
    x = RNG.normal(size=(2, 3, 9, 9)).astype(np.float32)
    records = (onnxscope.inspect(model), onnxscope.weights(model), onnxscope.features(model, x))
    for record in (*records, records[1][0], records[2][0]):
        for text in shown(record):
            assert "not finite" not in text
    assert "not finite" not in records[1][0].caption()


def test_a_feature_map_of_few_finite_numbers_does_not_look_clean():
    x = RNG.normal(size=(1, 3, 9, 9)).astype(np.float32)
    x[0, 0, 4, 4], x[0, 1, 0, 0] = np.nan, np.inf
    maps = onnxscope.features(network(), x, select=["value:c", "value:x"])
    for place, data in enumerate((x, maps.layer("c").data)):
        mark = f"NaN {np.isnan(data).sum()}, inf {np.isinf(data).sum()}".replace(", inf 0", "")
        assert maps.table().rows[place][-1] == mark
        for text in (*shown(maps), *shown(maps[place])):
            assert mark in text
    statistics = onnxscope.stats(network(), x, select=["value:c", "value:x"])
    assert [row[-1] for row in maps.table().rows] == [row[-1].partition(", sat")[0] for row in statistics.table().rows]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("size", [1, 7, 70_001, 1 << 21])
def test_numbers_are_counted_as_numpy_does(dtype, size):
    values = RNG.normal(size=size).astype(dtype)
    for count in (0, 1, min(5, size)):
        values[RNG.choice(size, count, replace=False)] = np.nan
        values[RNG.choice(size, count, replace=False)] = -np.inf
        tensor = numpy_helper.from_array(values, "w")
        wide = values.astype(np.float64)
        found = odd_numbers.find_odd_numbers(load_model(network()), [tensor])
        assert found == {id(tensor): (np.isnan(wide).sum(), np.isinf(wide).sum())}


def test_finite_numbers_whose_sum_is_not_are_clean():
    tensor = numpy_helper.from_array(np.full(100, np.finfo(np.float32).max), "w")
    integers = numpy_helper.from_array(np.arange(5), "i")
    assert odd_numbers.find_odd_numbers(load_model(network()), [tensor, integers]) == {
        id(tensor): (0, 0),
        id(integers): (0, 0),
    }


def test_inspect_says_so_where_it_has_not_looked(monkeypatch):
    monkeypatch.setattr(odd_numbers.find_odd_numbers, "__kwdefaults__", {"limit_bytes": 4 * (4 * 27 + 4)})
    summary = onnxscope.inspect(broken())
    assert [(layer.nan_count, layer.inf_count) for layer in summary.layers] == [(1, 3), (None, None)]
    assert "NaN and infinities were not looked for in all of them; `weights` counts them" in repr(summary)
