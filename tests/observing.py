"""Plans for tests that observe values, and what an observation has to tell of them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np

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
    samples = wide[None] if batch_axis is None else np.moveaxis(wide, batch_axis, 0)
    place = None if channel_axis is None else channel_axis - (batch_axis is not None and batch_axis < channel_axis)
    rows = samples[:, None] if place is None else np.moveaxis(samples, place + 1, 1)
    rows = rows.reshape(*rows.shape[:2], -1)  # of samples, channels and what one channel of a sample holds
    assert_rows_observed(found.moments, rows, rel)
    moments = found.moments
    count = np.maximum(moments.count.sum(axis=0), 1)
    mean = (moments.mean * moments.count).sum(axis=0) / count
    m2 = (moments.m2 + moments.count * (moments.mean - mean) ** 2).sum(axis=0)
    whole = np.moveaxis(rows, 1, 0).reshape(rows.shape[1], -1)
    finite = np.ma.masked_array(whole, ~np.isfinite(whole))
    np.testing.assert_allclose(np.sqrt(m2 / count), finite.std(axis=1).filled(0), rtol=rel, atol=1e-12)


def assert_rows_observed(moments, rows, rel):
    """Each row of `rows`, of shape (samples, channels, values), against what numpy says of its finite values."""
    finite = np.isfinite(rows)
    np.testing.assert_array_equal(moments.count, finite.sum(axis=2))
    np.testing.assert_array_equal(moments.nan, np.isnan(rows).sum(axis=2))
    np.testing.assert_array_equal(moments.inf, np.isinf(rows).sum(axis=2))
    told = finite.any(axis=2)
    np.testing.assert_array_equal(moments.min[told], np.where(finite, rows, np.inf).min(axis=2, initial=np.inf)[told])
    np.testing.assert_array_equal(moments.max[told], np.where(finite, rows, -np.inf).max(axis=2, initial=-np.inf)[told])
    values = np.ma.masked_array(rows, ~finite)
    mean, std = values.mean(axis=2).filled(0), values.std(axis=2).filled(0)
    assert (np.abs(moments.mean - mean) <= rel * np.maximum(std, np.abs(mean)))[told].all()
