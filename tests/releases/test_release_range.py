"""Ranges of releases, in the order of versions."""

from __future__ import annotations

import pytest

from onnxscope.errors import InputError
from onnxscope.releases.release_range import chosen_releases, has_early_end, read_range, sorted_releases

KNOWN = ["1.9.0", "1.32.0", "1.10.0", "1.20.1", "1.20.0", "1.21.0rc1", "1.21.0", "broken"]


def test_releases_are_in_the_order_of_versions():
    assert sorted_releases(KNOWN) == ["1.9.0", "1.10.0", "1.20.0", "1.20.1", "1.21.0rc1", "1.21.0", "1.32.0"]


@pytest.mark.parametrize(
    ("text", "releases"),
    [
        ("1.20.0..1.21", ["1.20.0", "1.20.1", "1.21.0rc1", "1.21.0"]),
        ("..1.20.0", ["1.9.0", "1.10.0", "1.20.0"]),
        (" 1.21.0 .. ", ["1.21.0", "1.32.0"]),
    ],
)
def test_both_ends_are_part_of_a_range(text, releases):
    assert chosen_releases(KNOWN, *read_range(text), "onnxruntime") == releases


@pytest.mark.parametrize("text", ["1.20.0", "", "..", "x..y", "1.2..x", "1.20.0...1.21.0", "--pre..1.2"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(InputError, match="no range of releases") as caught:
        read_range(text)
    assert "--release" in caught.value.hint


def test_ends_the_wrong_way_round_are_refused():
    with pytest.raises(InputError, match=r"1\.21\.0 is not before 1\.20\.0"):
        read_range("1.21.0..1.20.0")


def test_an_end_that_cannot_be_installed_is_told_with_its_neighbours():
    with pytest.raises(InputError, match=r"onnxruntime 1\.20\.7 cannot be installed for this Python") as caught:
        chosen_releases(KNOWN, "1.20.7", "1.32.0", "onnxruntime")
    assert caught.value.hint == "closest releases that can: 1.20.1 and 1.21.0rc1"


def test_one_release_is_nothing_to_halve():
    with pytest.raises(InputError, match="nothing to halve"):
        chosen_releases(KNOWN, "1.32.0", "", "onnxruntime")


def test_early_releases_are_asked_for_by_an_end():
    assert has_early_end(["1.20.0", "1.21.0rc1"])
    assert not has_early_end(["1.20.0", ""])
