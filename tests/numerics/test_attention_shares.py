"""Heads of an attention, against plain loops over every query."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxscope.errors import MergeError
from onnxscope.numerics.attention_shares import AttentionShares

RNG = np.random.default_rng(4)


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def by_hand(shares):
    """First key's share, entropy and evenness of each head, query by query."""
    answers = []
    for head in range(shares.shape[1]):
        first, entropies, rooms = [], [], []
        for sample in shares[:, head]:
            for place, row in enumerate(sample):
                if not np.isfinite(row).all():
                    continue
                if place or len(sample) == 1:
                    first.append(row[0])
                entropies.append(-math.fsum(share * math.log(share) for share in row.tolist() if share))
                rooms.append(math.log(np.count_nonzero(row)))
        answers.append((np.mean(first), np.mean(entropies), sum(entropies) / sum(rooms)))
    return np.array(answers).T


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [1, 6])
def test_heads_agree_with_a_walk_over_every_query(causal, queries):
    scores = RNG.normal(size=(5, 3, queries, 6)) * 2
    if causal and queries > 1:
        scores = np.where(np.tril(np.ones((6, 6), bool)), scores, -np.inf)
    shares = softmax(scores).astype(np.float32)
    found = AttentionShares.of(shares)
    for got, expected in zip((found.first_key_share, found.mean_entropy, found.evenness), by_hand(shares), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_likeness_is_the_cosine_of_all_shares():
    shares = softmax(RNG.normal(size=(4, 3, 5, 5)))
    shares[:, 2] = shares[:, 0]
    flat = shares.swapaxes(0, 1).reshape(3, -1)
    cosines = flat @ flat.T / np.outer(np.linalg.norm(flat, axis=1), np.linalg.norm(flat, axis=1))
    found = AttentionShares.of(shares).alike
    assert [pair[:2] for pair in found] == [(0, 1), (0, 2)]
    np.testing.assert_allclose([pair[2] for pair in found], [cosines[0, 1], 1.0], rtol=1e-9)


@pytest.mark.parametrize("cut", [0, 1, 4, 7])
def test_any_cut_gives_the_same(cut):
    shares = softmax(RNG.normal(size=(7, 2, 4, 4)))
    whole = AttentionShares.of(shares)
    parts = AttentionShares.of(shares[:cut]).merge(AttentionShares.of(shares[cut:]))
    for name in vars(whole):
        np.testing.assert_allclose(vars(parts)[name], vars(whole)[name], rtol=1e-12)


def test_queries_that_are_masked_altogether_do_not_count():
    shares = softmax(RNG.normal(size=(1, 2, 4, 4)))
    shares[0, 0, 2] = np.nan
    found = AttentionShares.of(shares)
    assert found.queries.tolist() == [3, 4]
    np.testing.assert_allclose(found.mean_entropy, by_hand(shares)[1], rtol=1e-9)
    nothing = AttentionShares.of(shares[:0])
    assert nothing.first_key_share == nothing.evenness == [None, None]


def test_large_samples_are_summed_in_pieces():
    shares = softmax(RNG.normal(size=(1, 2, 900, 700)).astype(np.float32))
    found = AttentionShares.of(shares)
    np.testing.assert_allclose(found.first_key_share, shares[0, :, 1:, 0].astype(np.float64).mean(axis=1), rtol=1e-9)


def test_other_numbers_of_heads_do_not_merge():
    with pytest.raises(MergeError, match="cannot merge 2 heads with 3"):
        AttentionShares.empty(2).merge(AttentionShares.empty(3))
