"""What is asked of a run is checked once, and recorded as far as it may change a profile."""

from __future__ import annotations

import dataclasses

import pytest

from onnxscope.base.run_options import RunOptions
from onnxscope.errors import InputError


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ({"batch_size": 0}, "a batch of 0 samples is none", "give at least 1"),
        ({"batch_size": -2}, "a batch of -2 samples is none", "give at least 1"),
        ({"limit": 0}, "a limit of 0 leaves no sample", "give a limit of at least 1"),
    ],
)
def test_a_run_of_no_sample_is_refused(asked, message, hint):
    with pytest.raises(InputError) as caught:
        RunOptions(**asked)
    assert (str(caught.value), caught.value.hint) == (message, hint)
    with pytest.raises(InputError):
        dataclasses.replace(RunOptions(), **asked)


def test_provenance_records_what_its_input_does_not_say():
    options = RunOptions(preprocess="unit", layout="nhwc", batch_size=3, limit=5, on_error="skip", threads=2)
    assert list(options.to_dict().items()) == [
        ("batch_size", 3),
        ("exact", False),
        ("memory_budget_bytes", 512 << 20),
        ("on_error", "skip"),
    ]
