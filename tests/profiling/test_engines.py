"""The local engine: order, look-ahead, copies, failures."""

from __future__ import annotations

import threading
import time

import pytest

from onnxscope.errors import InputError
from onnxscope.profiling.engines import LocalEngine


class Slow:
    """Squares, the first shard slowest; counts how often it was copied."""

    def __init__(self):
        self.seen = []

    def __copy__(self):
        return Slow()

    def __call__(self, shard):
        self.seen.append(shard)
        time.sleep(0.05 if shard == 0 else 0.001)
        if shard == 7:
            raise InputError("shard 7 is broken", hint="mend it")
        return shard * shard, threading.current_thread().name, id(self)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_come_in_the_order_of_the_shards(workers):
    results = list(LocalEngine(workers).map(Slow(), [0, 1, 2, 3, 4, 5, 6]))
    assert [result[0] for result in results] == [0, 1, 4, 9, 16, 25, 36]
    here = threading.current_thread().name
    assert {result[1] == here for result in results} == {workers == 1}
    assert len({result[2] for result in results}) <= workers


@pytest.mark.parametrize("workers", [1, 3])
def test_a_failure_is_raised_in_its_place(workers):
    results = LocalEngine(workers).map(Slow(), range(12))
    assert [next(results)[0] for _ in range(7)] == [shard * shard for shard in range(7)]
    with pytest.raises(InputError, match=r"^shard 7 is broken$"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("onnxscope-worker")]


@pytest.mark.parametrize("workers", [1, 2])
def test_work_stops_when_nobody_takes_the_results(workers):
    begun = []

    def work(shard):
        begun.append(shard)
        return shard

    results = LocalEngine(workers).map(work, range(100))
    assert next(results) == 0
    time.sleep(0.05)
    assert len(begun) <= 2 * workers
    results.close()
    time.sleep(0.02)
    assert len(begun) <= 2 * workers
    assert list(LocalEngine(workers).map(work, [])) == []


def test_faults_are_named():
    with pytest.raises(InputError, match=r"^the local engine has no address: auto$"):
        LocalEngine(1, "auto")
    with pytest.raises(InputError, match=r"^0 workers do no work$"):
        LocalEngine(0)
