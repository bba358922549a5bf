"""The search by halves, for every place of the change and whatever cannot be tried."""

from __future__ import annotations

import itertools
import math

import pytest

from onnxscope.releases.halving import first_unlike


@pytest.mark.parametrize("count", [2, 3, 4, 7, 16, 33])
def test_every_change_is_found_in_as_few_trials_as_halving_takes(count):
    for change in range(1, count):
        asked = []

        def is_like(place, change=change, asked=asked):
            asked.append(place)
            return place < change

        found = first_unlike(0, count - 1, is_like)
        assert (found.last, found.first, found.between) == (change - 1, change, ())
        assert len(asked) == len(set(asked)) <= math.ceil(math.log2(count - 1)) if count > 2 else not asked


def test_what_cannot_be_tried_is_left_out():
    count = 8
    for change in range(1, count):
        for skipped in itertools.chain.from_iterable(
            itertools.combinations(range(1, 7), many) for many in (1, 2, 4, 6)
        ):
            asked = []

            def is_like(place, change=change, skipped=skipped, asked=asked):
                asked.append(place)
                return None if place in skipped else place < change

            found = first_unlike(0, count - 1, is_like)
            assert found.last == max(place for place in range(change) if place not in skipped)
            assert found.first == min(place for place in range(change, count) if place not in skipped)
            assert found.between == tuple(range(found.last + 1, found.first))
            assert len(asked) == len(set(asked))
