"""A tap's picture: as a PNG with what runs where, as a figure, in a notebook."""

from __future__ import annotations

import numpy as np
import pytest
from sequence_models import attention, convolution, random, recurrent

from onnxscope.analyses.feature_maps import features
from onnxscope.errors import InputError

SLICES = "width, depth 0, 1, 2, 3"
MODELS = {
    "attention": (attention(heads=4), random(1, 5, 8), "p", None, (["query"] * 4, ["key"] * 4)),
    "tokens": (attention(), random(1, 5, 8), "y", None, (["token"], ["channel"])),
    "recurrent": (recurrent(), random(7, 1, 5), "a", 1, (["channel"] * 2, ["time"] * 2)),
    "spectrogram": (convolution(3), random(1, 2, 9), "y", None, (["channel"], ["time"])),
    "volume": (
        convolution(3, 3, 3),
        random(1, 2, 4, 5, 6),
        "y",
        None,
        (["height"] * 3, [SLICES] * 3),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_figures_say_what_runs_where(name):
    model, x, value, batch_axis, sides = MODELS[name]
    tap = features(model, x, select=f"value:{value}", batch_axis=batch_axis)[0]
    axes = [axes for axes in tap.plot().axes if axes.images]
    assert ([each.get_ylabel() for each in axes], [each.get_xlabel() for each in axes]) == sides
    for shown, values in zip(axes, tap.maps(), strict=True):
        drawn = np.asarray(shown.images[0].get_array().filled(np.nan))
        assert drawn.shape == values.shape
        place = np.unravel_index(np.nanargmax(values), values.shape)
        assert drawn[place] == np.nanmax(drawn)


@pytest.mark.parametrize("name", MODELS)
def test_pictures_have_letters_beside_and_below_the_maps(name):
    model, x, value, batch_axis, _ = MODELS[name]
    tap = features(model, x, select=f"value:{value}", batch_axis=batch_axis)[0]
    levels = np.asarray(tap.image())
    assert (levels[:, :10] == 128).any()
    assert (levels[-24:] == 128).any()
    assert set(np.unique(levels[:, :10])) <= {128, 255}  # nothing but letters on what is clear
    assert "<img" in tap._repr_html_()


def test_a_value_without_a_picture_says_why_when_it_is_asked_for_one():
    tap = features(attention(), random(1, 5, 8), select="value:root")[0]
    assert tap.image() is None
    with pytest.raises(InputError, match=r"no picture for a value of shape \[\]: root") as raised:
        tap.plot()
    assert raised.value.hint == "below two axes"
