"""Plans for tests that observe values, and what an observation has to tell of them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from onnxscope.base.run_options import RunOptions
from onnxscope.model.loading import load_model
from onnxscope.profiling.plan import make_plan, open_observer
from onnxscope.runtime.pilot import Pilot
from onnxscope.selection.selectors import select_taps


@dataclass
class Samples:
    """As much of a dataset as a plan asks for."""

    batch_axes: dict
    fixed_batch: int | None
    count: int = 1 << 40
    masks: tuple = ()


def planned(model, select, feeds, *, fixed=None, exact=False, budget=1 << 30, batch=None, at="post", axes=None):
    loaded = load_model(model)
    taps = select_taps(loaded, select, at=at)
    axes = dict.fromkeys(feeds, 0) if axes is None else axes
    size = batch or fixed or len(next(iter(feeds.values())))
    options = RunOptions(batch_size=size, memory_budget_bytes=budget, exact=exact, threads=1)
    pilot = Pilot(loaded, taps, options)
    pilot.run(feeds)
    plan, _ = open_observer(loaded, make_plan(pilot, taps, Samples(axes, fixed), options), 1)
    return loaded, pickle.loads(pickle.dumps(plan))


def assert_observed(found, array, batch_axis, channel_axis, rel=1e-5):
    """Each sample and channel, by the definitions."""
    wide = array.astype(np.float64)
    samples = [wide] if batch_axis is None else list(np.moveaxis(wide, batch_axis, 0))
    moments = found.moments
    assert len(moments.count) == len(samples)
    for index, sample in enumerate(samples):
        place = None if channel_axis is None else channel_axis - (batch_axis is not None and batch_axis < channel_axis)
        rows = [sample] if place is None else np.moveaxis(sample, place, 0)
        for row, values in enumerate(rows):
            finite = values[np.isfinite(values)]
            assert moments.count[index, row] == finite.size
            assert moments.nan[index, row] == np.isnan(values).sum()
            assert moments.inf[index, row] == np.isinf(values).sum()
            if finite.size:
                assert moments.min[index, row] == finite.min()
                assert moments.max[index, row] == finite.max()
                scale = max(finite.std(), abs(finite.mean()))
                assert moments.mean[index, row] == pytest.approx(finite.mean(), abs=rel * scale)
    count = np.maximum(moments.count.sum(axis=0), 1)
    mean = (moments.mean * moments.count).sum(axis=0) / count
    m2 = (moments.m2 + moments.count * (moments.mean - mean) ** 2).sum(axis=0)
    rows = [wide] if channel_axis is None else np.moveaxis(wide, channel_axis, 0)
    for row, values in enumerate(rows):
        finite = values[np.isfinite(values)]
        assert np.sqrt(m2[row] / count[row]) == pytest.approx(finite.std() if finite.size else 0, rel=rel, abs=1e-12)
