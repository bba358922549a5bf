"""How arrays are cut into samples and runs, from shapes alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.inputs.samples import find_batching, find_layouts, run_length, shared_length
from onnxscope.model.stored_model import InputSpec


def specs(*shapes):
    return [InputSpec(f"i{place}", "float32", shape) for place, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    ("declared", "given", "axes", "fixed", "count"),
    [
        ([("n", 3)], [(7, 3)], [0], None, 7),
        ([(4, 3)], [(7, 3)], [0], 4, 7),
        ([("n", 3), (4, 2)], [(8, 3), (8, 2)], [0, 0], 4, 8),
        ([("n", 3), ("m", 2)], [(8, 3), (7, 2)], [None, None], 1, 1),  # no common axis
        ([("n", 3), ()], [(8, 3), ()], [None, None], 1, 1),
        ([(2, 3), (4, 2)], [(8, 3), (8, 2)], [None, None], 1, 1),  # two fixed batches
        ([None], [(5,)], [0], None, 5),
        ([("n", 3)], [(0, 3)], [0], None, 0),
        ([], [], [], 1, 1),
    ],
)
def test_samples_lie_along_a_first_axis_that_all_inputs_share(declared, given, axes, fixed, count):
    inputs = specs(*declared)
    shapes = {spec.name: shape for spec, shape in zip(inputs, given, strict=True)}
    assert find_batching(inputs, shapes) == (dict(zip(shapes, axes, strict=True)), fixed, count)


def test_pictures_are_found_by_the_declared_shape_or_by_the_one_given():
    inputs = specs(("n", 3, 8, 8), ("n", "a", "b", "c"), ("n", "a", "b"), ("n", 5, 8, 8))
    shapes = {"i0": (1, 3, 8, 8), "i1": (1, 8, 8, 1), "i2": (1, 3, 8), "i3": (1, 5, 8, 8)}
    assert {name: layout.name for name, layout in find_layouts(inputs, shapes).items()} == {"i0": "nchw", "i1": "nhwc"}


def test_runs_are_cut_where_a_first_axis_goes_beyond_a_fixed_batch():
    six = {"i0": np.zeros((6, 1)), "i1": np.zeros((6, 1))}
    assert run_length(six, specs(("n", 1), (2, 1))) == 2
    assert run_length(six, specs(("n", 1), ("m", 1))) is None
    assert run_length(six, specs((6, 1), ("m", 1))) is None
    assert shared_length(six) == 6
    assert shared_length({**six, "i1": np.zeros((5, 1))}) is None
    assert shared_length({**six, "i1": np.zeros(())}) is None
