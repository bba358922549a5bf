"""compare_scores(): top-1, top-5 and divergence against numpy and scipy-free sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxscope.numerics.score_agreement import are_scores, compare_scores

RNG = np.random.default_rng(8)


def softmax(scores):
    shares = np.exp(scores.astype(np.float64))
    return shares / shares.sum(axis=1, keepdims=True)


def by_hand(x, y):
    """Of rows of probabilities: sum over rows of `p log(p / q)`."""
    return sum(p * np.log(p / q) for left, right in zip(x, y, strict=True) for p, q in zip(left, right, strict=True))


def test_logits_agree_as_their_softmax_does():
    x = RNG.standard_normal((40, 10)).astype(np.float32)
    y = x + RNG.standard_normal((40, 10)).astype(np.float32)
    found = compare_scores(x, y)
    ranks = [sorted(range(10), key=lambda place, row=row: -row[place]) for row in y]
    best = [int(np.argmax(row)) for row in x]
    assert found.count == 40
    assert found.top1 == sum(one == rank[0] for one, rank in zip(best, ranks, strict=True))
    assert found.top5 == sum(one in rank[:5] for one, rank in zip(best, ranks, strict=True))
    assert 0 < found.top1 < found.top5 < 40
    np.testing.assert_allclose(found.divergence_nats, by_hand(softmax(x), softmax(y)) / 40, rtol=1e-9)


def test_probabilities_are_taken_as_they_are():
    x, y = (softmax(RNG.standard_normal((6, 4))).astype(np.float32) for _ in range(2))
    found = compare_scores(x, y)
    assert found.top5 is None
    np.testing.assert_allclose(found.divergence, by_hand(x.astype(float), y.astype(float)), rtol=1e-5)
    certain = np.eye(3, dtype=np.float32)
    assert compare_scores(certain, certain).divergence == 0


def test_equal_scores_agree_in_everything_and_large_ones_do_not_overflow():
    x = np.array([[1e4, -1e4, 0, 1, 2, 3]], np.float32)
    assert compare_scores(x, x).to_dict() == {
        "count": 1,
        "top1_fraction": 1.0,
        "top5_fraction": 1.0,
        "divergence_nats": 0.0,
    }


def test_rows_that_are_not_finite_are_left_out_and_batches_add_up():
    x = RNG.standard_normal((9, 7)).astype(np.float32)
    y = x + RNG.standard_normal((9, 7)).astype(np.float32)
    y[3, 2] = np.nan
    kept = [row for row in range(9) if row != 3]
    whole, parts = compare_scores(x[kept], y[kept]), [compare_scores(x[part], y[part]) for part in ([0, 1, 2, 3], [4])]
    assert parts[0].count == 3
    total = parts[0] + parts[1] + compare_scores(x[5:], y[5:])
    assert (total.count, total.top1, total.top5) == (whole.count, whole.top1, whole.top5)
    np.testing.assert_allclose(total.divergence, whole.divergence)
    nothing = compare_scores(x[3:4], y[3:4])
    assert (nothing.to_dict()["top1_fraction"], nothing.divergence_nats, nothing.text) == (None, None, "")


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [((8, 5), "float32", True), ((8, 1), "float32", False), ((8, 5), "int64", False), ((8, 5, 3), "float32", False)],
)
def test_a_row_of_several_numbers_for_each_sample_looks_like_scores(shape, dtype, expected):
    assert are_scores(shape, dtype) is expected
