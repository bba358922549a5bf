"""The use of codes, against numpy and onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxscope.numerics.code_use import CodeGrid, CodeUse

GRIDS = {
    "uint8": CodeGrid(8, 0, 0.05, 100),
    "int8": CodeGrid(8, -128, 0.03, 0),
    "uint16": CodeGrid(16, 0, 0.0002, 30000),
    "int16": CodeGrid(16, -32768, 0.0001, 5),
}


def numbers(scale=2.5, count=3000):
    return (np.random.default_rng(4).standard_normal(count) * scale).astype(np.float32)


def quantized(values, name, grid):
    """The codes by onnxruntime's QuantizeLinear."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name))
    scale = onnx.helper.make_tensor("s", 1, [], [grid.scale])
    zero_point = onnx.helper.make_tensor("z", kind, [], [grid.zero_point])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [None])],
        [onnx.helper.make_tensor_value_info("y", kind, [None])],
        [scale, zero_point],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})[0]


@pytest.mark.parametrize("name", GRIDS)
def test_codes_are_those_of_quantize_linear(name):
    grid, values = GRIDS[name], np.append(numbers(), np.float32([1e5, -1e5, 0, 0.125, 0.075, -0.075]))
    codes = quantized(values, name, grid)
    np.testing.assert_array_equal(grid.codes(values), codes)
    use, ends = CodeUse.of(grid, values), np.iinfo(name)
    at_ends = np.count_nonzero((codes == ends.min) | (codes == ends.max))
    assert use.saturated_fraction == at_ends / len(values) > 0
    told = use.quantization
    assert (told.bits, told.scale_min, told.zero_point_max) == (ends.bits, grid.scale, grid.zero_point)
    assert told.unused_codes == (256 - len(np.unique(codes)) if ends.bits == 8 else None)


@pytest.mark.parametrize("name", GRIDS)
def test_any_split_gives_the_use_of_the_whole(name):
    values = np.append(numbers(), np.float32([np.nan, np.inf, -np.inf]))
    whole = CodeUse.of(GRIDS[name], values)
    merged = CodeUse.empty(GRIDS[name])
    for part in (values[:1], values[1:1], values[2000:], values[1:2000]):
        merged = merged.merge(CodeUse.of(GRIDS[name], part))
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert whole.counts.sum() == 3000
    assert CodeUse.empty(GRIDS[name]).saturated_fraction is None


def test_a_code_of_zero_is_no_saturation_and_a_lowest_code_that_nobody_uses_is_no_end():
    relu = CodeUse.of(CodeGrid(8, 0, 0.1, 0), np.float32([-3, -1, 0, 1, 2, 90]))
    assert relu.saturated_fraction == 1 / 6
    even = CodeUse.of(CodeGrid(8, -128, 0.1, 0), np.float32([-12.7, -12.7, 0, 12.7]))
    assert even.saturated_fraction == 3 / 4


@pytest.mark.parametrize("shape", ["normal", "gelu", "silu", "uniform", "mask", "constant", "relu"])
def test_values_that_end_by_nature_are_not_clipped(shape):
    x = numbers(1.0, 50_000).astype(np.float64)
    gelu = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    values = {
        "normal": x,
        "gelu": gelu,
        "silu": x / (1 + np.exp(-x)),
        "uniform": np.random.default_rng(1).uniform(-1, 1, 50_000),
        "mask": np.where(x > 0, 0.0, -1e4),
        "constant": np.full(10, 3.0),
        "relu": np.maximum(x, 0),
    }[shape]
    low, high = min(values.min(), 0), max(values.max(), 0)
    scale = (high - low) / 255
    assert CodeUse.of(CodeGrid(8, 0, scale, round(-low / scale)), values).clipped_fraction == 0


@pytest.mark.parametrize("relu", [False, True])
def test_values_beyond_the_ends_are_clipped(relu):
    values = numbers(1.0, 50_000)
    values = np.maximum(values, 0) if relu else values
    grid = CodeGrid(8, 0, 0.005, 0 if relu else 128)
    beyond = ((np.rint(values / 0.005) >= 255 - grid.zero_point) | (np.rint(values / 0.005) <= -128)).mean()
    assert CodeUse.of(grid, values).clipped_fraction == pytest.approx(beyond, abs=1e-6)
    assert beyond > 0.05
