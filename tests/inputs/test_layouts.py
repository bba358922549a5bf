"""Layouts read from shapes."""

from __future__ import annotations

import pytest

from onnxscope.base.shapes import shape_text
from onnxscope.errors import InputError
from onnxscope.inputs.layouts import find_layout, image_layout


def refusal(*arguments):
    with pytest.raises(InputError) as caught:
        image_layout(*arguments)
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize(
    ("shape", "name", "channel", "height"),
    [
        (("N", 3, 224, 224), "nchw", 1, 2),
        ((None, 1, None, None), "nchw", 1, 2),
        (("N", 224, 224, 3), "nhwc", 3, 1),
        ((1, "h", "w", 1), "nhwc", 3, 1),
        ((3, 32, 32), "chw", 0, 1),
        ((32, 32, 3), "hwc", 2, 0),
    ],
)
def test_a_layout_is_read_from_the_shape(shape, name, channel, height):
    layout = image_layout("x", shape)
    assert (layout.name, layout.channel_axis, layout.height_axis) == (name, channel, height)
    assert layout.width_axis == height + 1
    assert layout.batch_axis == (0 if len(shape) == 4 else None)
    assert find_layout(shape) == layout


@pytest.mark.parametrize("shape", [("N", "C", "H", "W"), (1, 3, 224, 3), (1, None, 56, 56), (1, 1, 28, 1)])
def test_an_ambiguous_shape_asks_for_the_layout(shape):
    message, hint = refusal("x", shape)
    assert message == f"cannot tell channels-first from channels-last: input 'x' {shape_text(shape)}"
    assert hint == "`--layout nchw` or `--layout nhwc` tells"
    assert find_layout(shape) is None


def test_the_layout_named_decides():
    assert image_layout("x", ("N", "C", "H", "W"), "nchw").channel_axis == 1
    assert image_layout("x", (1, 3, 224, 3), "nhwc").channel_axis == 3
    assert image_layout("x", (3, 4, 3), "nchw").name == "chw"


def test_other_numbers_of_channels_are_refused():
    message, hint = refusal("x", (1, 3, 224, 224), "nhwc")
    assert message == "an image gives 1, 3 or 4 channels, not the 224 at axis 3 (nhwc): input 'x' (1, 3, 224, 224)"
    assert hint == "leave `--layout` out"
    message, hint = refusal("x", (1, 64, 56, 56))
    assert message == "an image gives 1, 3 or 4 channels, and no axis has these: input 'x' (1, 64, 56, 56)"
    assert hint is None
    assert image_layout("x", (1, 4, 32, 32)).channel_axis == 1


@pytest.mark.parametrize("shape", [None, (), ("N", 10), (1, 3, 8, 8, 8)])
def test_inputs_that_are_no_images(shape):
    message, hint = refusal("x\n", shape)
    assert message == (
        f"an image has no place in an input without height, width and channels: input 'x\\n' {shape_text(shape)}"
    )
    assert hint is None


def test_an_unknown_layout():
    message, hint = refusal("x", (1, 3, 8, 8), "chwn")
    assert message == "unknown layout 'chwn'"
    assert hint == "one of auto, nchw, nhwc"
