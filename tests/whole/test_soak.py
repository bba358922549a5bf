"""`make soak` finds what grows; see tests/soak.py."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soak


@pytest.mark.parametrize("what", ["memory", "files", "temporary"])
def test_what_grows_is_found(what, tmp_path):
    kept = []

    def leak():
        if what == "memory":
            kept.append(np.ones(8_000_000))  # more than an allocator ever keeps back for reuse
        elif what == "files":
            kept.append(open(os.devnull))  # noqa: SIM115
        else:
            (tmp_path / str(len(kept))).touch()
            kept.append(None)

    _, before, after = soak.soak([leak] * 4, tmp_path, 0)
    for stream in kept if what == "files" else ():
        stream.close()
    assert [words for words in after.grown(before) if what in words or (what == "memory" and words.endswith("MB"))]


def test_the_library_does_not_grow(tmp_path):
    rounds, before, after = soak.soak(soak.jobs(tmp_path)[:7], tmp_path, 0)
    assert rounds == 3
    assert after.grown(before) == []
