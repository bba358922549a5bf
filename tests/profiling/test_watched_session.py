"""A watched session serves as before, and its profile is that of what it was fed."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import onnxscope
from onnxscope.errors import InputError

MODEL = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) <float[2, 3, 1, 1] w = {1, 0, 0, 0, 1, 0}> { y = Conv(x, w) }"""
RNG = np.random.default_rng(0)


@pytest.fixture
def session():
    return onnxruntime.InferenceSession(onnx.parser.parse_model(MODEL).SerializeToString())


@pytest.fixture
def no_time(monkeypatch):
    """A clock by which runs take a second and copies nothing, so that no machine is too slow."""
    ticks = itertools.count()
    monkeypatch.setattr("onnxscope.profiling.watched_session.time.perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr("onnxscope.profiling.watched_session.time.thread_time", lambda: 0.0)


def images(count):
    return RNG.normal(size=(count, 3, 4, 4)).astype(np.float32)


def test_the_profile_is_that_of_stats_on_what_was_sampled(session, no_time, tmp_path):
    watched = onnxscope.watch(session, every=3, limit=1000)
    fed = [images(1 + turn % 2) for turn in range(60)]
    for array in fed:
        reused = array.copy()
        (answer,) = watched.run(None, {"x": reused})
        np.testing.assert_array_equal(answer, session.run(None, {"x": array})[0])
        reused[:] = np.nan  # the caller's buffer is the caller's
    assert [feed["x"].tobytes() for feed in watched.sampled] == [array.tobytes() for array in fed[2::3]]
    watched.profile(batch_size=4).profile.save(tmp_path / "watched.json")
    expected = onnxscope.stats(onnx.parser.parse_model(MODEL), [{"x": array} for array in fed[2::3]], batch_size=4)
    expected.profile.save(tmp_path / "stats.json")
    assert (tmp_path / "watched.json").read_bytes() == (tmp_path / "stats.json").read_bytes()
    assert watched.notes == ()


def test_it_is_the_session_in_all_else(session, tmp_path):
    watched = onnxscope.watch(session)
    assert watched.get_inputs()[0].name == "x"
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = watched.nothing_like_it
    with pytest.raises(Exception, match="Required inputs"):
        watched.run(None, {"z": images(1)})
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    assert onnxscope.watch(onnxruntime.InferenceSession(path)).model.name == "m.onnx"


def test_values_of_onnxruntime_are_kept_too(session, no_time):
    watched = onnxscope.watch(session, every=1)
    array = images(2)
    watched.run_with_ort_values(["y"], {"x": onnxruntime.OrtValue.ortvalue_from_numpy(array)})
    np.testing.assert_array_equal(watched.sampled[0]["x"], array)


def test_what_is_kept_is_an_even_sample_within_its_limits(session, no_time):
    watched = onnxscope.watch(session, every=1, limit=50)
    for turn in range(1000):
        watched.run(None, {"x": np.full((1, 3, 4, 4), turn, np.float32)})
    turns = [int(feed["x"].flat[0]) for feed in watched.sampled]
    assert len(set(turns)) == 50
    assert 350 < np.mean(turns) < 650  # four deviations of the mean of fifty
    small = onnxscope.watch(session, every=1, memory_budget_bytes=3 * images(1).nbytes)
    for _ in range(20):
        small.run(None, {"x": images(1)})
    assert len(small.sampled) == 3


def test_copying_takes_one_hundredth_of_the_time(session, monkeypatch):
    """A run takes a second by this clock, a copy ten: one in a thousand runs may be copied."""
    clock = {"now": 0.0}
    monkeypatch.setattr("onnxscope.profiling.watched_session.time.perf_counter", lambda: clock["now"])
    monkeypatch.setattr("onnxscope.profiling.watched_session.time.thread_time", lambda: clock["now"])
    watched = onnxscope.watch(session, every=10)
    run, place = session.run, watched._place

    def slow_run(*arguments):
        clock["now"] += 1
        return run(*arguments)

    def slow_place(feed):
        clock["now"] += 10
        place(feed)

    monkeypatch.setattr(watched, "_place", slow_place)
    monkeypatch.setattr(watched, "session", type("Slow", (), {"run": staticmethod(slow_run)}))
    array = images(1)
    for _ in range(6000):
        watched.run(None, {"x": array})
    assert 4 <= len(watched.sampled) <= 7
    assert "copying more would take over 1 % of the session's time" in watched.notes[0]


def test_a_fault_in_watching_reaches_nobody(session, no_time, monkeypatch):
    watched = onnxscope.watch(session, every=1)

    def broken(feed):
        raise MemoryError("no room")

    monkeypatch.setattr(watched, "_place", broken)
    assert watched.run(None, {"x": images(1)})[0].shape == (1, 2, 4, 4)
    assert watched.notes == ("1 run could not be kept; the first: no room",)
    with pytest.raises(InputError, match="nothing that was served has been kept yet"):
        watched.profile()


def test_threads_share_it(session, no_time):
    watched = onnxscope.watch(session, every=4, limit=10_000)
    array = images(1)
    threads = [threading.Thread(target=lambda: [watched.run(None, {"x": array}) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < len(watched.sampled) <= 100


def test_faults_are_said(session):
    with pytest.raises(InputError, match="every is 0, and has to be at least 1"):
        onnxscope.watch(session, every=0)
    with pytest.raises(InputError, match="not known which model a object runs"):
        onnxscope.watch(object())
    with pytest.raises(InputError, match="nothing that was served") as fault:
        onnxscope.watch(session).profile()
    assert fault.value.hint == "one run in 100 is kept"
