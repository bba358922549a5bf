"""Positions that a mask leaves out do not count: statistics of padded runs are those of each sample alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from text_models import IDS, MASKED, encoder, model_of

import onnxscope
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model
from onnxscope.profiling.probes import Probes

RNG = np.random.default_rng(21)
LENGTHS = (5, 9, 9, 14)
VALUES = ("e", "scores", "shares", "context", "hidden", "y", "pooled")
SAMPLES = [RNG.integers(4, 64, length) for length in LENGTHS]


def padded(samples=SAMPLES, side="right", mask=np.int64, length=None):
    """All samples in one array, with their mask."""
    longest = length or max(map(len, samples))
    ids, kept = np.zeros((len(samples), longest), np.int64), np.zeros((len(samples), longest), mask)
    for row, sample in enumerate(samples):
        places = slice(0, len(sample)) if side == "right" else slice(longest - len(sample), None)
        ids[row, places], kept[row, places] = sample, 1
    return {"input_ids": ids, "attention_mask": kept}


def of_each(proto, samples=SAMPLES, names=VALUES):
    """What every value holds of every sample by itself, by onnx's own evaluator."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    evaluator = ReferenceEvaluator(copy)
    found = {name: [] for name in names}
    for sample in samples:
        feeds = {"input_ids": sample[None], "attention_mask": np.ones((1, len(sample)), np.int64)}
        feeds = {name: array for name, array in feeds.items() if name in evaluator.input_names}
        for name, value in zip(names, evaluator.run(None, feeds), strict=True):
            found[name].append(value.astype(np.float64)[0])
    return found


def assert_the_same(tap, values):
    """A tap's statistics are numpy's over all elements of all samples."""
    flat = np.concatenate([value.reshape(-1) for value in values])
    finite = flat[np.isfinite(flat)]
    overall = tap.overall
    assert overall.count == flat.size
    assert overall.mean == pytest.approx(finite.mean(), rel=1e-5, abs=1e-6)
    assert overall.std == pytest.approx(finite.std(ddof=1), rel=1e-5)
    assert (overall.min, overall.max) == pytest.approx((finite.min(), finite.max()), rel=1e-5, abs=1e-6)
    assert overall.zero_fraction == pytest.approx((finite == 0).mean())
    assert overall.inf_count == np.isinf(flat).sum()


def statistics(model, inputs, **options):
    select = options.pop("select", [f"value:{name}" for name in VALUES])
    return {tap.name: tap for tap in onnxscope.stats(model, inputs, select=select, **options)}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_padded_batch_counts_what_each_sample_has(side, batch_size):
    proto = encoder()
    found = statistics(proto, padded(side=side), batch_size=batch_size)
    expected = of_each(proto)
    assert set(found) == set(VALUES)
    for name, values in expected.items():
        assert_the_same(found[name], values)


def test_it_is_what_the_samples_give_without_padding():
    proto = encoder()
    alone = [{"input_ids": s[None], "attention_mask": np.ones((1, len(s)), np.int64)} for s in SAMPLES]
    found, without = statistics(proto, padded()), statistics(proto, alone)
    for name, tap in found.items():
        other = without[name]
        assert_the_same(other, of_each(proto)[name])
        assert tap.quantiles.keys() == other.quantiles.keys()
        for share, quantile in tap.quantiles.items():
            assert quantile == pytest.approx(other.quantiles[share], rel=0.01, abs=1e-6)
        assert tap.dead_channels == other.dead_channels
        if tap.channels is not None and other.channels is not None:
            np.testing.assert_allclose(tap.channels.mean, other.channels.mean, rtol=1e-5, atol=1e-6)


def test_without_the_mask_padding_counts():
    proto = encoder()
    counted = statistics(proto, padded(), mask="none")["y"].overall.count
    assert counted == 4 * 14 * 4
    assert statistics(proto, padded(), mask="attention_mask")["y"].overall.count == sum(LENGTHS) * 4


@pytest.mark.parametrize("kind", ["int32", "bool", "float"])
def test_masks_of_any_type_tell(kind):
    proto = encoder(f"{IDS}, {kind}[batch, seq] attention_mask")
    dtype = {"float": np.float32, "bool": np.bool_}.get(kind, kind)
    assert_the_same(statistics(proto, padded(mask=dtype))["y"], of_each(encoder())["y"])


TOKENS = "y = Gather (table, input_ids)"


def other_mask(declared, name):
    """A model that does not look at its mask, which only says what is real."""
    body = f"{TOKENS}  unused = Identity ({name})"
    return model_of(f"{IDS}, {declared} {name}", body)


@pytest.mark.parametrize(
    ("declared", "name", "asked", "given"),
    [
        ("bool[batch, seq]", "key_padding_mask", None, lambda kept: kept == 0),
        ("bool[batch, seq]", "valid_mask", None, lambda kept: kept == 1),
        ("bool[batch, seq]", "gap", "!gap", lambda kept: kept == 0),
        ("int64[batch, seq]", "real", "real", lambda kept: kept),
        ("float[batch, seq]", "bias", "bias", lambda kept: np.where(kept == 1, 0, -1e9).astype(np.float32)),
        ("int64[batch]", "lengths", None, lambda kept: kept.sum(axis=1)),
        ("int32[batch]", "input_ids_lens", None, lambda kept: kept.sum(axis=1).astype(np.int32)),
        ("int64[batch]", "sizes", "sizes", lambda kept: kept.sum(axis=1)),
    ],
)
def test_masks_by_other_names_and_lengths_tell(declared, name, asked, given):
    feeds = padded()
    arrays = {"input_ids": feeds["input_ids"], name: given(feeds["attention_mask"])}
    found = statistics(other_mask(declared, name), arrays, select="value:y", mask=asked)
    assert_the_same(found["y"], of_each(model_of(IDS, TOKENS), names=["y"])["y"])


@pytest.mark.parametrize("name", ["head_mask", "causal_mask", "bias", "labels_mask"])
def test_what_is_not_called_a_mask_of_padding_is_none(name):
    feeds = padded()
    arrays = {"input_ids": feeds["input_ids"], name: feeds["attention_mask"]}
    found = statistics(other_mask("int64[batch, seq]", name), arrays, select="value:y")
    assert found["y"].overall.count == 4 * 14 * 4


def test_a_fixed_length_and_a_fixed_batch():
    proto = encoder(MASKED.replace("batch", "2").replace("seq", "14"))
    for name, values in of_each(encoder()).items():
        assert_the_same(statistics(proto, padded())[name], values)
    odd = padded(SAMPLES[:3], length=14)
    for name, values in of_each(encoder(), SAMPLES[:3]).items():
        assert_the_same(statistics(proto, odd)[name], values)


def test_large_values_have_probes_until_something_is_left_out(monkeypatch):
    samples = [RNG.integers(4, 64, length) for length in (3000, 3000, 1000)]
    proto = model_of(MASKED, "e = Gather (table, input_ids)  y = Relu (e)  f = Identity (attention_mask)")
    monkeypatch.setattr("onnxscope.profiling.plan._LITTLE", 0)
    probed = []
    observe = Probes.observe
    monkeypatch.setattr(Probes, "observe", lambda *given: probed.append(given[1].name) or observe(*given))
    for order, count in ((samples, 2), (samples[::-1], 0)):
        probed.clear()
        found = statistics(proto, padded(order), select="value:y", batch_size=1)
        assert probed == ["y"] * count
        flat = np.concatenate([value.reshape(-1) for value in of_each(proto, order, ["y"])["y"]])
        assert found["y"].overall.count == flat.size
        assert found["y"].overall.mean == pytest.approx(flat.mean(), rel=1e-5)
        assert found["y"].overall.std == pytest.approx(flat.std(ddof=1), rel=1e-5)


def test_workers_change_no_byte(tmp_path):
    samples = [RNG.integers(4, 64, 3 + number % 5) for number in range(90)]
    model = load_model(encoder())
    for workers in (1, 3):
        path = tmp_path / f"{workers}.json"
        onnxscope.stats(model, padded(samples), batch_size=2, workers=workers, output=path, select="value:y")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "3.json").read_bytes()


def test_values_whose_positions_are_others_count_whole_and_are_said():
    body = """e = Gather (table, input_ids)
        two = Constant <value_ints = [2]> ()  start = Constant <value_ints = [0]> ()
        end = Constant <value_ints = [99]> ()  axis = Constant <value_ints = [1]> ()
        half = Slice (e, start, end, axis, two)  twice = Concat <axis = 1> (e, e)
        y = Relu (e)  f = Identity (attention_mask)"""
    result = onnxscope.stats(model_of(MASKED, body), padded(), select=["value:half", "value:twice", "value:y"])
    assert {tap.name: tap.overall.count for tap in result} == {"half": 4 * 7 * 4, "twice": 4 * 28 * 4, "y": 37 * 4}
    assert "positions that attention_mask leaves out do not count" in result.notes
    said = "what attention_mask leaves out counts in 2 values, whose positions are others: half, twice"
    assert said in result.notes


FOLDED = """e = Gather (table, input_ids)
    flat_shape = Constant <value_ints = [-1, 4]> ()  flat = Reshape (e, flat_shape)
    timed = Transpose <perm = [1, 0, 2]> (e)  turns = Reshape (timed, flat_shape)
    shape = Shape (e)  place = Constant <value_int = 1> ()  length = Gather (shape, place)
    one = Constant <value_ints = [-1]> ()  lengths = Reshape (length, one)
    two = Constant <value_ints = [2]> ()  heads = Concat <axis = 0> (one, lengths, two)
    split = Constant <value_ints = [0, 0, 2, 2]> ()  apart = Reshape (e, split)
    turned = Transpose <perm = [0, 2, 1, 3]> (apart)  joined = Reshape (turned, heads)
    back = Transpose <perm = [0, 2, 1]> (joined)  scores = MatMul (joined, back)
    y = Relu (e)  f = Identity (attention_mask)"""


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_samples_that_lie_along_one_axis_with_more_are_told_apart(batch_size):
    """As exporters write projections of flattened tokens, time first too, and heads that are folded into the batch."""
    proto = model_of(MASKED, FOLDED)
    names = ["flat", "timed", "turns", "joined", "scores"]
    select = [f"value:{name}" for name in names]
    found = statistics(proto, padded(), batch_size=batch_size, select=select)
    assert sorted(found) == sorted(names)
    (table,) = (onnx.numpy_helper.to_array(array) for array in proto.graph.initializer if array.name == "table")
    embedded = [table[ids].astype(np.float64) for ids in SAMPLES]
    products = [np.stack([half @ half.T for half in (rows[:, :2], rows[:, 2:])]) for rows in embedded]
    for name, tap in found.items():
        assert_the_same(tap, products if name == "scores" else embedded)
    for tap in onnxscope.features(proto, padded(), select=select):
        overall = found[tap.tap.name].overall
        assert tap.statistics["mean"] == pytest.approx(overall.mean, rel=1e-5)
        assert tap.statistics["std"] == pytest.approx(overall.std, rel=1e-5)


def test_attention_shares_are_those_of_real_tokens():
    proto = encoder()
    (padded_tap,) = statistics(proto, padded(), select="value:shares").values()
    alone = [{"input_ids": s[None], "attention_mask": np.ones((1, len(s)), np.int64)} for s in SAMPLES]
    (tap,) = statistics(proto, alone, select="value:shares").values()
    np.testing.assert_allclose(padded_tap.heads.mean_entropy, tap.heads.mean_entropy, rtol=1e-5)
    np.testing.assert_allclose(padded_tap.heads.first_key_share, tap.heads.first_key_share, rtol=1e-5)


def test_inputs_are_counted_likewise():
    result = onnxscope.stats(encoder(), padded(), select="value:y")
    ids = np.concatenate(SAMPLES)
    (tap, _) = result.profile.inputs
    assert (tap.overall.count, tap.overall.min) == (ids.size, ids.min())
    assert tap.overall.mean == pytest.approx(ids.mean())


def test_the_mask_is_recorded_and_a_baseline_is_taken_with_it(tmp_path):
    model = load_model(encoder())
    result = onnxscope.stats(model, padded(), select="value:y")
    assert result.profile.input["masks"] == {"attention_mask": "counted"}
    onnxscope.snapshot(model, padded()).save(tmp_path / "b.json")
    assert onnxscope.check(model, tmp_path / "b.json", padded()).findings == ()
    longer = padded(length=20)
    with pytest.raises(InputError, match="these inputs are not those of the baseline"):
        onnxscope.check(model, tmp_path / "b.json", longer)


def test_feature_maps_count_likewise():
    proto = encoder()
    maps = onnxscope.features(proto, padded(), select=["value:y", "value:scores"])
    expected = of_each(proto)
    for tap in maps:
        flat = np.concatenate([value.reshape(-1) for value in expected[tap.tap.name]])
        assert tap.statistics["mean"] == pytest.approx(flat.mean(), rel=1e-5)
        assert tap.statistics["std"] == pytest.approx(flat.std(ddof=1), rel=1e-5)
        assert tap.statistics["min"] == pytest.approx(flat.min(), rel=1e-5, abs=1e-6)
    assert maps[0].data.shape[:2] == (4, 2)  # all of it is there, padding too
    assert "positions that attention_mask leaves out do not count" in maps.notes
    whole = onnxscope.features(proto, padded(), select="value:y", mask="none")
    assert whole[0].statistics["mean"] == pytest.approx(whole[0].data.astype(np.float64).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("asked", "fault", "step"),
    [
        ("attention_msk", "no input 'attention_msk' to be a mask", "`--mask attention_mask`"),
        (
            "features",
            "input 'features' is no mask of samples by positions, nor lengths: float32 of 3 axes",
            "--mask none",
        ),
    ],
)
def test_what_is_no_mask_is_told(asked, fault, step):
    proto = model_of(f"{MASKED}, float[batch, seq, 3] features", f"{TOKENS}  f = Identity (features)")
    with pytest.raises(InputError) as caught:
        onnxscope.stats(proto, "random", mask=asked)
    assert fault in str(caught.value)
    assert step in caught.value.hint


def test_random_input_leaves_nothing_out():
    proto = other_mask("int64[batch]", "lengths")
    result = onnxscope.stats(proto, "random", select="value:y", limit=3)
    assert result[0].overall.count == 3 * 8 * 4
    assert "masks" not in result.profile.input
    assert not any("do not count" in note for note in result.notes)


def test_a_model_that_runs_with_one_length_alone_though_it_is_open():
    """The axes of tokens, of the mask's length, are what a value's rank says then."""
    body = f"""{TOKENS}  sizes = Constant <value_ints = [0, 14, 4]> ()  same = Reshape (y, sizes)
        unused = Identity (attention_mask)"""
    found = statistics(model_of(MASKED, body), padded(), select=["value:y", "value:same"])
    expected = of_each(model_of(IDS, TOKENS), names=["y"])["y"]
    assert_the_same(found["y"], expected)
    assert_the_same(found["same"], expected)


def test_all_in_one_sample_counts_whole_and_says_so():
    result = onnxscope.stats(encoder(), padded(), select="value:y", batch_axis="none")
    assert result[0].overall.count == 4 * 14 * 4
    assert "what attention_mask leaves out counts in a value of other positions: y" in result.notes


def test_a_sample_of_which_nothing_counts_has_no_numbers():
    feeds = padded()
    feeds["attention_mask"][1] = 0
    proto = other_mask("int64[batch, seq]", "attention_mask")
    kept = [sample for row, sample in enumerate(SAMPLES) if row != 1]
    found = statistics(proto, feeds, select="value:y")
    assert_the_same(found["y"], of_each(model_of(IDS, TOKENS), kept, ["y"])["y"])
    feeds["attention_mask"][:] = 0
    assert onnxscope.stats(proto, feeds, select="value:y").profile.samples == 4
    assert onnxscope.features(proto, feeds, select="value:y")[0].statistics["mean"] is None
