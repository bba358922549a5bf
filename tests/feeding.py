"""Datasets opened for inputs that a test writes down, without a model."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_inputs
from onnxscope.errors import InputError
from onnxscope.model.stored_model import InputSpec

HOPPER = f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg"
NCHW = (InputSpec("x", "float32", ("batch", 3, 8, 10)),)
NHWC = (InputSpec("x", "float32", (None, 8, 10, 3)),)
TOKENS = (InputSpec("ids", "int64", ("b", "s")), InputSpec("mask", "int64", ("b", "s")))


def opened(sources, specs, *, recorded_preset=None, bounds=None, keep_bytes=0, **options):
    """The dataset."""
    return open_inputs(
        sources,
        specs,
        RunOptions(**options),
        recorded_preset=recorded_preset,
        bounds=bounds,
        keep_bytes=keep_bytes,
    )


def whole(*arguments, **options):
    """Everything at once."""
    return opened(*arguments, **options).whole()


def stacked(dataset):
    """Every sample, one after the other."""
    loaded = [dataset.load(position)[0] for position in range(dataset.count)]
    return {name: np.stack([sample[name] for sample in loaded]) for name in loaded[0]}


def refusal(*arguments, **options):
    """The message and the hint with which everything at once is refused."""
    with pytest.raises(InputError) as caught:
        whole(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def levels(seed, shape=(8, 10, 3)):
    """The pixels of a picture."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
