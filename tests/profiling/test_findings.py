"""What a profile gives reason to look at, on arrays with the fault put in by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx.parser
import pytest

from onnxscope.numerics.log_histogram import LogHistogram
from onnxscope.numerics.sample_moments import observe_array
from onnxscope.profiling.dataset_run import stats
from onnxscope.profiling.findings import find, saturated_fraction
from onnxscope.profiling.profile import Profile
from onnxscope.profiling.tap_profile import ChannelState, TapProfile

RNG = np.random.default_rng(10)


def tap_of(name, array, limits=None, channel_axis=1):
    nothing = ChannelState.empty(0), LogHistogram.empty()
    tap = TapProfile(name, f"layer {name}", "Conv", "post", "float32", None, channel_axis, limits, 0, *nothing)
    return tap.observed(observe_array(array, 0, channel_axis, samples=len(array)), range(len(array)), 0)


def profile_of(*taps, inputs=()):
    samples = max(tap.samples for tap in taps)
    names = {position: f"{position}.png" for position in range(samples)}
    fields = {"model": {}, "digest": "", "input": {}, "provenance": {}, "reasons": {}, "weights": ()}
    seen = {"shards": ((0, samples),), "samples": samples, "skipped": (), "remarks": {}, "content": 0}
    return Profile(**fields, **seen, inputs=tuple(inputs), taps=taps, sample_names=names)


def noise():
    return RNG.normal(size=(6, 4, 20)).astype(np.float32)


def found(*taps, inputs=()):
    return [(each.kind, each.layer, each.channel, each.message) for each in find(profile_of(*taps, inputs=inputs))]


def test_nothing_odd_nothing_found():
    assert found(tap_of("a", noise()), tap_of("b", np.maximum(noise(), 0))) == []


def test_dead_constant_and_duplicate_channels():
    array = noise()
    array[:, 1], array[:, 2] = 0, 0.25
    array[:, 3] = array[:, 0]
    assert found(tap_of("a", array)) == [
        ("dead_channel", "layer a", 1, "zero in every element of all 6 samples"),
        ("duplicate_channel", "layer a", 3, "the same as channel 0 in all 6 samples"),
        ("constant_channel", "layer a", 2, "0.25 in every element of all 6 samples"),
    ]
    assert found(tap_of("a", array[:1]))[0][3] == "zero in every element of all 1 sample seen"


def test_what_is_constant_since_its_input_is_constant_is_no_finding():
    ones = tap_of("ids", np.ones((6, 4, 20), np.float32))
    embedded = tap_of("a", np.broadcast_to(np.arange(1, 5, dtype=np.float32)[:, None], (6, 4, 20)).copy())
    assert found(embedded, inputs=[ones]) == []
    assert {kind for kind, *_ in found(embedded, inputs=[tap_of("ids", noise())])} == {"constant_channel"}
    partly = noise()
    partly[:, 2] = 0.25
    assert [kind for kind, *_ in found(tap_of("b", partly), inputs=[ones])] == ["constant_channel"]


def test_a_mask_s_least_number_is_no_overflow_but_another_is():
    scores = noise()
    scores[:, 1, ::2] = np.finfo(np.float32).min
    assert found(tap_of("a", scores)) == []
    scores[:, 2, 3] = 1e6
    assert [kind for kind, *_ in found(tap_of("a", scores))] == ["float16_overflow"]
    scores[:, 2, 3] = -1e6
    assert [kind for kind, *_ in found(tap_of("a", scores))] == ["float16_overflow"]


def test_the_first_layer_with_non_finite_values_made_them():
    first, second = noise(), noise()
    first[2, 3, 1:4], first[4, 3, 0] = math.nan, math.inf
    second[2] = math.nan
    spread = "holds 80 NaN in 4 of 4 channels, first in 2.png"
    assert found(tap_of("a", noise()), tap_of("b", first), tap_of("c", second)) == [
        ("non_finite", "layer b", 3, "makes 3 NaN and 1 infinity, first in 2.png; nothing observed before it does"),
        ("non_finite_spread", "layer c", None, f"{spread}; they appear first in layer b"),
    ]
    given = replace(tap_of("x", first), layer="")
    assert [each[:3] for each in found(tap_of("c", second), inputs=[given])] == [
        ("non_finite", "x", 3),
        ("non_finite_spread", "layer c", None),
    ]


def test_the_range_of_float16():
    array = noise()
    array[3, 2, 0], array[5, 1, 0] = -70000, 65504
    assert found(tap_of("a", array)) == [
        ("float16_overflow", "layer a", 2, "reaches -70000 in 3.png, beyond float16's 65,504")
    ]
    small = noise()
    small.reshape(-1)[:48] = 2.0**-25
    ((kind, layer, channel, message),) = found(tap_of("a", small))
    assert (kind, layer, channel) == ("float16_underflow", "layer a", None)
    assert message == "10.0% of what is not zero is below 2**-24 in magnitude, and zero in float16"
    small.reshape(-1)[:48] = 2.0**-24
    assert found(tap_of("a", small)) == []
    half = replace(tap_of("a", array), dtype="float16")
    assert found(half) == []


@pytest.mark.parametrize(
    ("limits", "array", "share"),
    [
        ((0.0, 1.0), np.linspace(0, 1, 1001), 2 / 128),
        ((-1.0, 1.0), np.tanh(np.linspace(-9, 9, 1001)), 0.731),
        ((0.0, 6.0), np.clip(np.linspace(-9, 9, 1001), 0, 6), 1 / 6),
    ],
)
def test_saturation_counts_what_is_near_a_limit(limits, array, share):
    tap = tap_of("a", array.astype(np.float32)[None, None], limits)
    low, high = limits
    margin = (high - low) / 128
    near = (array > high - margin) | ((array < low + margin) & (limits != (0.0, 6.0)))
    assert near.mean() == pytest.approx(share, abs=0.02)
    assert saturated_fraction(tap) == pytest.approx(near.mean(), abs=0.01)
    assert [each[0] for each in found(tap)] == (["saturation"] if share > 0.5 else [])


def test_a_tap_without_a_sample_and_one_without_channels():
    nothing = ChannelState.empty(0), LogHistogram.empty()
    unseen = TapProfile("u", "u", "Conv", "post", "float32", None, 1, (0.0, 1.0), 0, *nothing)
    assert saturated_fraction(unseen) is None
    flat = tap_of("a", np.full((3, 1, 4), 1e6, np.float32), channel_axis=None)
    assert found(unseen, flat) == [
        ("float16_overflow", "layer a", None, "reaches 1e+06 in 0.png, beyond float16's 65,504")
    ]


def test_an_input_that_is_tapped_too_is_told_once():
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 2] x) => (float[N, 2] y) { y = Neg(x) }""")
    found = stats(model, np.array([[np.nan, 1.0]], np.float32), select=["value:x", "value:y"]).findings
    assert [(each.kind, each.layer) for each in found if "non_finite" in each.kind] == [
        ("non_finite", "x"),
        ("non_finite_spread", "Neg_0"),
    ]
