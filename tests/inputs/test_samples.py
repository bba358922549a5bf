"""How arrays are cut into samples and runs, from shapes alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.inputs.samples import axis_of_samples, find_batching, find_layouts, run_length, sample_count
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
    axes = dict.fromkeys(shapes, 0)
    found = find_layouts(inputs, shapes, axes)
    assert {name: layout.name for name, layout in found.items()} == {"i0": "nchw", "i1": "nhwc"}
    assert list(find_layouts(inputs, shapes, {**axes, "i0": 3})) == ["i1"]


def test_runs_are_cut_where_samples_go_beyond_a_fixed_batch():
    six, axes = {"i0": np.zeros((6, 1)), "i1": np.zeros((6, 1))}, {"i0": 0, "i1": 0}
    assert run_length(six, specs(("n", 1), (2, 1)), axes) == 2
    assert run_length(six, specs(("n", 1), ("m", 1)), axes) is None
    assert run_length(six, specs((6, 1), ("m", 1)), axes) is None
    assert run_length({"i0": np.zeros((4, 6)), "i1": np.zeros(6)}, specs((4, 3), (3,)), {"i0": 1, "i1": 0}) == 3
    assert run_length(six, specs((2, 1), ("m", 1)), {"i0": None, "i1": 0}) is None
    assert sample_count(six, axes) == 6
    assert sample_count({"i0": np.zeros((4, 7)), "i1": np.zeros(())}, {"i0": 1, "i1": None}) == 7
    assert sample_count(six, {"i0": None, "i1": None}) is None


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((5, 3, 4), [1], 1),
        ((3, 3, 4), [1], 1),
        ((3, 5, 4), [1], 0),  # turned around
        ((5, 4, 3), [1], 2),  # the only one that is so long
        ((5, 5, 4), [1], None),
        ((5, 3, 4), [None, 0], 1),
        ((5, 3, 3), [0], None),
        ((5, 3, 4), [None], None),
        ((3, 3), [None], 0),
        ((), [0], None),
    ],
)
def test_where_three_samples_lie_in_a_value(shape, axes, expected):
    assert axis_of_samples(shape, 3, {f"i{place}": axis for place, axis in enumerate(axes)}) == expected
