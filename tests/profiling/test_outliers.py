"""Outliers and heads over a dataset: planted ones are found, and ordinary values have none."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from sequence_models import attention, random, stored

import onnxscope
from onnxscope.numerics.log_histogram import LogHistogram

KINDS = {"massive_activation", "outlier_channel", "outlier_token", "dead_head", "duplicate_head", "attention_sink"}


def found(statistics):
    return [(finding.kind, finding.channel) for finding in statistics.findings if finding.kind in KINDS]


def identity(channels=32):
    text = f"""<ir_version: 9, opset_import: ["": 17]>
        net (float[n, t, {channels}] x) => (float[n, t, {channels}] y) {{ y = MatMul(x, w) }}"""
    return stored(text, {"w": np.eye(channels, dtype=np.float32)})


@pytest.mark.parametrize("exact", [False, True])
def test_ratios_and_kurtosis_agree_with_numpy(exact):
    x = np.random.default_rng(1).standard_t(4, size=(6, 20, 32)).astype(np.float32)
    record = onnxscope.stats(identity(), x, exact=exact).to_dict()["taps"][0]
    largest = np.abs(x).max(axis=(0, 1))
    assert record["channel_outlier"] == pytest.approx(largest.max() / np.median(largest), rel=1e-6)
    assert record["massive"] == pytest.approx(np.abs(x).max() / np.median(np.abs(x)), rel=0.01)
    centred = x.astype(np.float64) - x.mean()
    assert record["kurtosis"] == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2, rel=0.02)
    tokens = np.abs(x).max(axis=2)
    assert record["token_outlier"] == pytest.approx((tokens.max(axis=1) / np.median(tokens, axis=1)).max(), rel=1e-6)
    assert record["heads"] is None


def test_the_kurtosis_of_known_distributions():
    rng = np.random.default_rng(2)
    for values, expected in ((rng.normal(size=200_000), 3.0), (rng.uniform(-1, 1, 200_000), 1.8)):
        assert LogHistogram.of(values).kurtosis == pytest.approx(expected, rel=0.03)
        assert LogHistogram.of(values * 1e30).kurtosis == pytest.approx(expected, rel=0.03)
    assert LogHistogram.of(rng.normal(size=1000) + 1e4).kurtosis is None  # buckets are wider than its spread
    assert LogHistogram.of(np.ones(100)).kurtosis is None
    assert LogHistogram.of(np.zeros(100)).kurtosis is None
    assert LogHistogram.of(np.zeros(0)).median_magnitude is None
    assert LogHistogram.of(np.array([-3.0, 1.0, 2.0])).median_magnitude == pytest.approx(2, rel=0.004)


def test_planted_outliers_are_found_and_nothing_else():
    x = random(8, 12, 32)
    assert found(onnxscope.stats(identity(), x)) == []
    channel = x.copy()
    channel[:, :, 5] *= 60
    assert found(onnxscope.stats(identity(), channel)) == [("outlier_channel", 5)]
    token = x.copy()
    token[3, 7] *= 90
    statistics = onnxscope.stats(identity(), token)
    assert ("outlier_token", None) in found(statistics)
    (message,) = (finding.message for finding in statistics.findings if finding.kind == "outlier_token")
    assert message.startswith("token 7 of sample 3 reaches ")
    massive = x.copy()
    massive[2, 4, 9] = 4000
    assert ("massive_activation", 9) in found(onnxscope.stats(identity(), massive))


def test_a_mask_is_no_massive_activation():
    model = attention()
    mask = np.triu(np.full((6, 6), -1e9, np.float32), 1)[None, None]
    for tensor in model.graph.initializer:
        if tensor.name == "mask":
            tensor.CopyFrom(numpy_helper.from_array(mask, "mask"))
    statistics = onnxscope.stats(model, random(4, 6, 8), select=["value:s", "value:p"])
    assert not {kind for kind, _ in found(statistics)} & {"massive_activation", "outlier_channel"}


def heads_of(model, x, **options):
    return onnxscope.stats(model, x, select="value:p", **options).to_dict()["taps"][0]["heads"]


@pytest.mark.parametrize("exact", [False, True])
def test_heads_agree_with_the_reference_evaluator(exact):
    model, x = attention(heads=4), random(9, 6, 8)
    (shares,) = ReferenceEvaluator(model).run(["p"], {"x": x})
    heads = heads_of(model, x, exact=exact, batch_size=4)
    np.testing.assert_allclose(heads["first_key_share"], shares[:, :, 1:, 0].mean(axis=(0, 2)), rtol=1e-4)
    entropy = -(shares * np.log(shares)).sum(axis=3).mean(axis=(0, 2))
    np.testing.assert_allclose(heads["entropy"], entropy, rtol=1e-4)
    np.testing.assert_allclose(heads["evenness"], entropy / np.log(6), rtol=1e-4)


def test_dead_duplicate_and_sinking_heads_are_named():
    model = attention(heads=4, width=16)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    queries, keys = (numpy_helper.to_array(weights[name]).copy() for name in ("wq", "wk"))
    queries[:, 4:8] = 0  # head 1 sees all keys alike
    queries[:, 12:16], keys[:, 12:16] = queries[:, 8:12], keys[:, 8:12]  # head 3 does as head 2
    for name, values in (("wq", queries), ("wk", keys)):
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    x = random(12, 6, 16)
    statistics = onnxscope.stats(model, x, select="value:p")
    assert found(statistics) == [("dead_head", 1), ("duplicate_head", 3)]
    mask = np.zeros((1, 4, 1, 6), np.float32)
    mask[0, 0, 0, 0] = 40
    weights["mask"].CopyFrom(numpy_helper.from_array(mask, "mask"))
    first = onnxscope.stats(model, x, select="value:p")
    assert ("dead_head", 0) in found(first) or ("attention_sink", 0) in found(first)


def test_more_workers_give_the_same_bytes_and_a_file_says_all(tmp_path):
    model, x = attention(heads=2), random(64, 6, 8)
    files = []
    for workers in (1, 3):
        statistics = onnxscope.stats(model, x, select=["value:p", "value:y"], workers=workers, batch_size=4)
        files.append(tmp_path / f"{workers}.json")
        statistics.profile.save(files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()
    again = type(statistics).load(files[0])
    assert again.to_dict()["taps"] == statistics.to_dict()["taps"]


def test_the_page_shows_heads_outliers_and_their_maps(tmp_path):
    x = random(8, 6, 8)
    x[:, :, 3] *= 50
    page = tmp_path / "page.html"
    onnxscope.report(attention(heads=2), x, select=["value:p", "value:y"]).save(page)
    text = page.read_text(encoding="utf-8")
    assert "on the first key" in text
    assert "channel / median" in text
    assert "heads 0, 1, query down, key to the right" in text
    assert "token down, channel to the right" in text
