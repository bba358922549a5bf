"""Random numbers as samples."""

from __future__ import annotations

import numpy as np
import pytest
from feeding import TOKENS, opened, stacked, whole

from onnxscope.errors import InputError
from onnxscope.model.stored_model import InputSpec

PICTURE = (InputSpec("x", "float32", ("batch", 3, 16, 16)),)


def test_random_says_that_it_is_random():
    feed = whole("random:7", TOKENS, preprocess="unit", bounds={"ids": (10, 20)})
    assert feed.record["kind"] == opened("random:7", TOKENS).kind == "random"
    assert feed.record["random_seed"] == 7
    assert feed.notes == (
        "preset 'unit' is ignored: presets are for images",
        "the input is random (seed 7), no real data",
    )
    assert feed.arrays["ids"].min() >= 10
    assert (feed.arrays["mask"] == 1).all()
    again = whole("random:7", TOKENS, bounds={"ids": (10, 20)})
    assert again.arrays["ids"].tobytes() == feed.arrays["ids"].tobytes()


def test_random_samples_begin_as_features_does_and_differ():
    dataset = opened("random:7", PICTURE, limit=3)
    samples = stacked(dataset)["x"]
    np.testing.assert_array_equal(samples[:1], whole("random:7", PICTURE).arrays["x"])
    assert len({sample.tobytes() for sample in samples}) == 3
    np.testing.assert_array_equal(stacked(opened("random:7", PICTURE, limit=2))["x"], samples[:2])


def test_an_input_without_samples_is_refused():
    with pytest.raises(InputError, match=r"^the input 'x' has no samples: its shape is 0 × 3$"):
        opened("random:7", (InputSpec("x", "float32", (0, 3)),))
