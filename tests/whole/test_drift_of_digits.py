"""What `drift` says of real data: planted shifts are named first, random halves show none.

The long proofs are for `make acceptance`; `make test` proves the same on a few.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxscope

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = FIXTURES / "digits.onnx"
CAMERA = """
    <ir_version: 9, opset_import: ["": 17]>
    camera (float[N, 3, 8, 8] image) => (float[N, 8, 8, 8] y)
    { h = Conv<pads = [1, 1, 1, 1]>(image, w)  y = Relu(h) }"""


def few(numbers):
    """The first of them always, all in `make acceptance`."""
    return [
        pytest.param(number, marks=() if place < 1 else pytest.mark.acceptance) for place, number in enumerate(numbers)
    ]


@pytest.fixture(scope="module")
def digits():
    """Images and classes."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    return (found.images[:, None] / 16).astype(np.float32), found.target


def halves(images, seed):
    order = np.random.default_rng(seed).permutation(len(images))
    return order[: len(order) // 2], order[len(order) // 2 :]


def compared(first, second, model=DIGITS, select=("op:Conv", "op:Gemm"), threshold=0.2):
    return onnxscope.drift(
        *(onnxscope.stats(model, data, select=select) for data in (first, second)), threshold=threshold
    )


@pytest.mark.parametrize("seed", few(range(50)))
def test_random_halves_show_none(digits, seed):
    images, _ = digits
    first, second = halves(images, seed)
    found = compared(images[first], images[second])
    assert [row.drift for row in found] == [0.0] * 5
    assert found.verdict == "equal"


@pytest.mark.parametrize("missing", few(range(10)))
def test_a_class_that_is_missing_is_named_by_its_score(digits, missing):
    images, classes = digits
    first, second = halves(images, 0)
    found = compared(images[first], images[second][classes[second] != missing], threshold=0.1)
    assert (found[0].layer, found[0].channels[0].channel) == ("classifier.2", missing)
    assert found[0].drifts


@pytest.mark.parametrize(
    "prepare",
    few([lambda x: 1 - x, lambda x: x * 255, lambda x: (x - 0.5) / 0.5, lambda x: np.minimum(x * 2, 1)]),
)
def test_another_preparation_and_another_brightness_are_seen_at_the_input(digits, prepare):
    images, _ = digits
    first, second = halves(images, 1)
    found = compared(images[first], prepare(images[second]).astype(np.float32))
    assert (found[0].name, found[0].drifts) == ("digits", True)


@pytest.mark.parametrize("dead", few([(1, 0.0), (0, 0.0), (2, 0.0), (0, -2.0), (1, 0.5), (2, 1.0)]))
def test_a_dead_channel_of_a_camera_is_named(digits, dead):
    """Digits in the light of lamps of many colours; then a channel gives one number."""
    images, _ = digits
    rng = np.random.default_rng(2)
    colours = (images * 2 - 0.6) * rng.uniform(0.6, 1.4, (len(images), 3, 1, 1)).astype(np.float32)
    model = onnx.parser.parse_model(CAMERA)
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32), "w")
    )
    first, second = halves(colours, 2)
    after = colours[second].copy()
    channel, level = dead
    after[:, channel] = level
    found = compared(colours[first], after, model, select=["op:Conv"])
    row = found[0]
    assert (row.name, row.drifts) == ("image", True)
    assert row.of_state("constant" if level else "dead") == (channel,)
    assert row.channels[0].channel == channel
