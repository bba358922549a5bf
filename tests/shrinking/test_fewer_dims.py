"""Sides are shortened together, and those that the fault needs stay."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import numpy_helper
from shrink_cases import case_of, searched

from onnxscope.shrinking.fewer_dims import shorten_sides

RNG = np.random.default_rng(2)


def shapes(search):
    found = {name: value.shape for name, value in search.case.feeds.items()}
    return found | {tensor.name: tuple(tensor.dims) for tensor in search.case.proto.graph.initializer}


def test_channels_of_a_convolution_and_of_what_reads_it_are_shortened(bench):
    kernel, matrix = "{" + ", ".join(["-1"] * 108) + "}", "{" + ", ".join(["1"] * 20) + "}"
    text = f"""(float[N, 3, 5, 5] x) => (float[N, 5] y) <float[4, 3, 3, 3] k = {kernel}, float[4, 5] w = {matrix}> {{
        a = Conv(x, k)  b = Log(a)  c = GlobalAveragePool(b)  d = Flatten(c)  y = MatMul(d, w)
    }}"""
    search = searched(bench, case_of(text, {"x": RNG.uniform(1, 2, (2, 3, 5, 5)).astype(np.float32)}))
    assert shorten_sides(search)
    found = shapes(search)
    assert found == {"x": (1, 1, 1, 1), "k": (1, 1, 1, 1), "w": (1, 1)}
    session = onnxruntime.InferenceSession(search.case.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isnan(session.run(None, dict(search.case.feeds))[0]).all()


def test_sizes_in_attributes_and_in_lists_change_with_the_sides(bench):
    text = """(float[4, 6] x) => (float[2, 12] y) <int64[2] s = {2, 12}> { a = Log(x)  y = Reshape(a, s) }"""
    search = searched(bench, case_of(text, {"x": np.full((4, 6), -1, np.float32)}))
    assert shorten_sides(search)
    sizes = next(tensor for tensor in search.case.proto.graph.initializer if tensor.name == "s")
    assert np.prod(numpy_helper.to_array(sizes)) == search.case.feeds["x"].size <= 2


def test_a_side_that_the_fault_needs_stays(bench):
    """With fewer numbers than 4 the sum does not pass what float16 holds."""
    text = """(float16[N] x) => (float16 y) { y = ReduceSum <keepdims = 0> (x) }"""
    search = searched(bench, case_of(text, {"x": np.full(8, 20_000, np.float16)}))
    shorten_sides(search)
    assert search.fault.kind == "infinity"
    assert shapes(search) == {"x": (4,)}
