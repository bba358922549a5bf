"""A process that makes trials, one for each file of tests: it takes a second to start."""

from __future__ import annotations

import pytest

from onnxscope.extracting.recorded_values import TOLERANCES
from onnxscope.shrinking.faults import Bench
from onnxscope.shrinking.trials import Trials


@pytest.fixture(scope="module")
def bench():
    with Trials(10.0) as trials:
        yield Bench(trials, None, (), TOLERANCES)
