from __future__ import annotations

import numpy as np
import pytest

from onnxscope.inputs.presets import PRESETS, Preset
from onnxscope.preparing.candidates import Candidate, candidates_for

FLOAT = np.dtype(np.float32)


def tried(channels=3, dtype=FLOAT, used=None, size=None, *, is_open=False, by_outputs=False):
    return candidates_for(channels, np.dtype(dtype), used, size, is_open=is_open, by_outputs=by_outputs)


def test_every_scale_in_both_orders_and_every_preset_under_its_name():
    found = tried()
    assert len({(one.scale, one.preset.order, one.preset.resize) for one in found}) == len(found) == 5 * 2 * 3
    assert {one.preset.name for one in found} == {*PRESETS, "custom"}


@pytest.mark.parametrize(
    ("channels", "dtype", "kinds"),
    [
        (1, np.float32, {("half", "RGB"), ("unit", "RGB"), ("none", "RGB")}),
        (3, np.uint8, {("none", "RGB"), ("none", "BGR")}),
        (3, np.int8, set()),
    ],
)
def test_only_what_an_input_takes_is_tried(channels, dtype, kinds):
    assert {(one.scale, one.preset.order) for one in tried(channels, dtype)} == kinds


def test_the_means_go_with_their_colours():
    caffe = {one.preset.order: one.preset.mean for one in tried() if one.scale == "caffe"}
    assert caffe["BGR"] == caffe["RGB"][::-1] == PRESETS["caffe"].mean


def test_open_sides_may_be_the_picture_s_own_or_asked_for():
    assert {one.preset.size for one in tried(is_open=True)} == {224, None}
    assert {one.preset.size for one in tried(is_open=True, size="64")} == {64}


def test_what_is_used_stands_once():
    found = tried(used=PRESETS["half"])
    assert [one.preset.name for one in found if one.is_used] == ["half"]
    assert len(found) == 30


def test_numbers_that_nobody_can_tell_apart_are_alike():
    clip = Preset(divisor=255.0, mean=(0.481, 0.458, 0.408), std=(0.229, 0.224, 0.23))
    imagenet, half = (Candidate(PRESETS[name], name) for name in ("imagenet", "half"))
    assert Candidate(clip, "clip").has_numbers_of(imagenet)
    assert not imagenet.has_numbers_of(half)
