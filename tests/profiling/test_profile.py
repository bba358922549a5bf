"""Profiles as a whole: merging, refusing, saving, and files that are not to be trusted."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from onnxscope.errors import MergeError, OutputError, ProfileError
from onnxscope.numerics.log_histogram import LogHistogram
from onnxscope.numerics.sample_moments import observe_array
from onnxscope.profiling.profile import Profile
from onnxscope.profiling.tap_profile import ChannelState, TapProfile

RNG = np.random.default_rng(5)
DATA = RNG.normal(size=(12, 3, 5)).astype(np.float32)


def tap_of(name, array, first, limits=None):
    nothing = ChannelState.empty(0), LogHistogram.empty()
    tap = TapProfile(name, "conv", "Conv", "post", "float32", None, 1, limits, 0, *nothing)
    if not len(array):
        return tap
    return tap.observed(observe_array(array, 0, 1, samples=len(array)), range(first, first + len(array)), 0)


def profile_of(start, stop, **changes):
    array = DATA[start:stop]
    profile = Profile(
        model={"name": "m.onnx", "opsets": {"ai.onnx": 17}},
        digest="ab" * 32,
        input={"kind": "images", "samples": 12},
        provenance={"numpy": "1.0", "select": ["*"]},
        shards=((start, stop),) if stop > start else (),
        samples=stop - start,
        skipped=(),
        remarks={"gray": stop - start} if stop > start else {},
        content=start + 1 if stop > start else 0,
        inputs=(tap_of("x", array, start),),
        taps=(tap_of("h", array * 2, start), tap_of("y", array[:0], start, (0.0, 1.0))),
        reasons={"y": "never executed"},
        weights=(),
        sample_names={position: f"{position}.png" for position in range(start, stop)},
    )
    return replace(profile, **changes)


def saved(profile, tmp_path):
    profile.save(tmp_path / "p.json")
    return (tmp_path / "p.json").read_bytes()


def test_shards_merge_into_the_whole(tmp_path):
    merged = profile_of(0, 4).merge(profile_of(4, 5)).merge(profile_of(5, 5)).merge(profile_of(5, 12))
    whole = profile_of(0, 12)
    assert merged.shards == ((0, 12),)
    assert merged.samples == 12
    assert merged.remarks == {"gray": 12}
    assert merged.content == 1 + 5 + 6
    assert merged.unreachable == (("y", "never executed"),)
    assert [tap.name for tap in merged.reached] == ["h"]
    assert merged.taps[0].overall.mean == pytest.approx(whole.taps[0].overall.mean, rel=1e-12)
    held = {position for tap in (*merged.inputs, *merged.taps) for position in tap.state.max_sample.tolist()}
    assert held <= merged.sample_names.keys() <= set(range(12))
    assert merged.sample_name(10**6) == "sample 1000000"


def test_shards_may_arrive_in_any_order():
    merged = profile_of(8, 12).merge(profile_of(0, 3)).merge(profile_of(3, 8))
    assert merged.shards == ((0, 12),)
    assert profile_of(8, 12).merge(profile_of(0, 3)).shards == ((0, 3), (8, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "cd" * 32}, "the profiles are of different models: digest abababababababab and cdcdcdcdcdcdcdcd"),
        ({"input": {"kind": "arrays"}}, "the profiles are of different datasets: kind 'images' and 'arrays'"),
        (
            {"provenance": {"numpy": "2", "select": ["*"]}},
            "the profiles were made in different ways: numpy '1.0' and '2'",
        ),
        ({"taps": ()}, "the profiles are of different taps: 3 and 1 of them"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(MergeError) as caught:
        profile_of(0, 4).merge(profile_of(4, 8, **changes))
    assert str(caught.value) == message


def test_the_same_shard_twice_and_other_weights_are_refused():
    with pytest.raises(MergeError, match=r"^the same shard twice: samples 2 to 3 are in both profiles$"):
        profile_of(0, 4).merge(profile_of(2, 8))
    with pytest.raises(MergeError, match=r"^the profiles disagree on the weights of one model$"):
        profile_of(0, 4, weights=({"name": "w"},)).merge(profile_of(4, 8, weights=({"name": "v"},)))
    assert profile_of(0, 4, weights=({"name": "w"},)).merge(profile_of(4, 8)).weights == ({"name": "w"},)


def test_a_file_gives_back_every_bit(tmp_path):
    array = DATA.copy()
    array[0, 0, 0], array[1, 1, 1], array[:, 2] = np.nan, np.inf, np.nan
    profile = profile_of(0, 12, taps=(tap_of("h\x1b[1m\ud800", array, 0), tap_of("y", array[:0], 0, (-1.0, 1.0))))
    content = saved(profile, tmp_path)
    again = Profile.load(tmp_path / "p.json")
    assert saved(again, tmp_path) == content
    before, after = ({**vars(side.taps[0].state.moments), **vars(side.taps[0].state)} for side in (profile, again))
    del before["moments"]
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, name)
    assert again.taps[1].limits == (-1.0, 1.0)
    assert b"\x1b" not in content
    json.loads(content, parse_constant=pytest.fail)
    merged = profile_of(0, 4).merge(profile_of(4, 12))
    content = saved(profile_of(0, 4), tmp_path)
    assert saved(Profile.load(tmp_path / "p.json").merge(profile_of(4, 12)), tmp_path) == saved(merged, tmp_path)
    assert content.count(b"\n") < 30


def test_a_hundred_thousand_channels_stay_small(tmp_path):
    array = RNG.normal(size=(2, 100_000, 3)).astype(np.float32)
    profile = profile_of(0, 12, taps=(tap_of("wide", array, 0),))
    assert len(saved(profile, tmp_path)) < 20_000_000
    start = time.monotonic()
    assert Profile.load(tmp_path / "p.json").taps[0].state.moments.count.size == 100_000
    assert time.monotonic() - start < 30  # half a second; no measurement


def damaged(change):
    record = profile_of(0, 4).to_dict()
    change(record)
    return json.dumps(record)


def setting(place, **fields):
    def change(record):
        (record if place is None else record[place][0]).update(fields)

    return change


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "not JSON, or cut short"),
        ("[" * 100_000, "not JSON, or cut short"),
        ('{"schema": NaN}', "not JSON, or cut short"),
        ("[]", r"not a profile \(no schema in it\)"),
        ('{"schema": "onnxscope.profile/9"}', "the schema 'onnxscope.profile/9' is not 'onnxscope.profile/1'"),
        ('{"schema": "onnxscope.profile/1"}', "the profile has no object 'model'"),
        (damaged(setting(None, samples=-1)), "the profile has the number -1 as 'samples'"),
        (damaged(setting(None, samples=True)), "the profile has no whole number 'samples'"),
        (damaged(setting(None, shards=[[3, 1]])), "the profile has wrong intervals 'shards'"),
        (damaged(setting(None, shards=[[0, 3], [2, 5]])), "the profile has wrong intervals 'shards'"),
        (damaged(setting(None, shards=[[0]])), "the profile has wrong intervals 'shards'"),
        (damaged(setting(None, content="xyz")), "the profile has no digest 'content'"),
        (damaged(setting(None, skipped=[[1, 2, 3]])), "the profile has a wrong 'skipped'"),
        (damaged(setting(None, sample_names={"a": "b"})), "the profile has a wrong 'sample_names'"),
        (damaged(setting(None, taps=[3])), "the profile has no list of objects 'taps'"),
        (damaged(setting("taps", channels=10**9)), r"the profile has the number 1000000000 as 'channels' in taps\[0\]"),
        (damaged(setting("taps", mean=[1.0])), r"the profile has no list of 3 numbers 'mean' in taps\[0\]"),
        (damaged(setting("taps", mean=["a", 1, 2])), r"the profile has wrong numbers 'mean' in taps\[0\]"),
        (damaged(setting("taps", count=[1, -5, 2])), r"the profile has wrong numbers 'count' in taps\[0\]"),
        (damaged(setting("taps", zeros=10**6)), r"the profile has counts that contradict each other in taps\[0\]"),
        (
            damaged(setting("taps", count=0, examined=0, zeros=0, mean=None)),
            r"the profile has moments of nothing in taps\[0\]",
        ),
        (damaged(setting("taps", limits=[1])), r"the profile has limits that are no pair in taps\[0\]"),
        (damaged(setting("taps", shape=["a"])), r"the profile has a wrong 'shape' in taps\[0\]"),
        (damaged(setting("taps", channel_axis=-3)), r"the profile has the channel axis -3 in taps\[0\]"),
        (
            damaged(setting("taps", histogram={"keys": [3, 2], "counts": [1, 1]})),
            r"the profile has buckets out of order in taps\[0\]",
        ),
        (
            damaged(setting("taps", histogram={"keys": [40000], "counts": [1]})),
            r"the profile has wrong numbers 'keys' in taps\[0\]",
        ),
    ],
)
def test_a_damaged_file_is_named(text, fault, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ProfileError, match=rf"^{fault}: .*p\.json$"):
        Profile.load(tmp_path / "p.json")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ProfileError, match=r"^no such file: .*none\.json$") as caught:
        Profile.load(tmp_path / "none.json")
    assert caught.value.hint == "a profile is what `onnxscope stats -o` writes"
    with pytest.raises(ProfileError, match=r"^not a regular file"):
        Profile.load(tmp_path)
    with pytest.raises(OutputError, match=r"^cannot write"):
        profile_of(0, 1).save(tmp_path / "none" / "p.json")
