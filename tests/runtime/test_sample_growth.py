"""Shapes for one sample and for two."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.errors import RunError
from onnxscope.runtime.sample_growth import sample_shapes


def shapes_of(feeds):
    return {name: array.shape for name, array in feeds.items()}


def test_the_first_sample_is_fed_once_and_twice():
    feeds = {"x": np.zeros((5, 3)), "mask": np.zeros((4, 5)), "table": np.zeros(7)}
    one, two = sample_shapes(shapes_of, feeds, {"x": 0, "mask": 1, "table": None})
    assert one == {"x": (1, 3), "mask": (4, 1), "table": (7,)}
    assert two == {"x": (2, 3), "mask": (4, 2), "table": (7,)}


def test_what_has_no_samples_is_run_once():
    one, two = sample_shapes(shapes_of, {"x": np.zeros(3)}, {"x": None})
    assert (one, two) == ({"x": (3,)}, {})


def test_what_is_known_of_two_samples_is_not_asked_again():
    seen = {"anything": (2,)}
    one, two = sample_shapes(shapes_of, {"x": np.zeros((2, 3))}, {"x": 0}, seen)
    assert one == {"x": (1, 3)}
    assert two is seen


def test_a_model_that_takes_one_sample_alone_tells_no_more():
    def refusing(feeds):
        if len(feeds["x"]) > 1:
            raise RunError("one at a time")
        return shapes_of(feeds)

    assert sample_shapes(refusing, {"x": np.zeros((1, 3))}, {"x": 0}) == ({"x": (1, 3)}, {})
    with pytest.raises(RunError, match="one at a time"):
        sample_shapes(lambda feeds: refusing({"x": np.zeros((2, 3))}), {"x": np.zeros((1, 3))}, {"x": 0})
