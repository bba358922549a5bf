"""What a process of trials says of models that run, fail, crash and do not end."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from shrink_cases import CRASH, case_of

from onnxscope.shrinking.trials import Trials

GOOD = "(float[N] x) => (float[N] y) { y = Tanh(x) }"
FEEDS = {"x": np.array([0.5, -1], np.float32)}
IMAGE = {"x": np.ones((2, 3, 4, 4), np.float32)}


def test_a_crash_ends_a_trial_and_no_more(bench):
    for _ in range(2):
        crashed = bench.verdict(case_of(CRASH, IMAGE), "nothing")
        assert (crashed.kind, crashed.detail) == ("crashed", "SIGSEGV")
        np.testing.assert_allclose(bench.values(case_of(GOOD, FEEDS))["y"], np.tanh(FEEDS["x"]), rtol=1e-6)


def test_what_an_engine_refuses_is_told_with_its_reason(bench):
    case = case_of("(float[N] x, int64[1] s) => (float[M] y) { y = Reshape(x, s) }", {**FEEDS, "s": np.array([3])})
    failed = bench.verdict(case, "nothing")
    assert failed.kind == "failed"
    assert "cannot be reshaped" in failed.detail
    assert bench.values(case) is None


def test_an_engine_that_leaves_is_a_crash(bench):
    """As one that calls `exit`: whoever reads a model is asked to leave in its place."""

    class Leaving:
        def __reduce__(self):
            return os._exit, (3,)

    case = dataclasses.replace(case_of(GOOD, FEEDS), feeds={"x": Leaving()})
    question = bench._question(case_of(GOOD, FEEDS), "nothing", "verdict")
    ended = bench.trials.ask(dataclasses.replace(question, feeds=case.feeds))
    assert (ended.kind, ended.detail) == ("crashed", "exit code 3")


def test_what_takes_too_long_is_ended(bench):
    endless = """(float[2] x) => (float[2] y) <int64 n = {9223372036854775807}, bool go = {1}> {
        y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool more, float[2] next) {
            more = Identity(c)  next = Neg(s)
        }> }"""
    case = case_of(endless, FEEDS)
    start_s = time.monotonic()
    late = bench.verdict(case, "nothing", 0.3)
    assert (late.kind, late.detail) == ("late", "running the part for 'y' of Loop")
    assert time.monotonic() - start_s < 5
    assert bench.verdict(case_of(GOOD, FEEDS), "nothing").kind == "answered"


def test_nothing_stays_of_it():
    with Trials(5.0) as trials:
        folder, process = trials._folder, trials._process
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)
    assert process.poll() is not None


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_it_ends_with_whoever_asked():
    program = (
        "import os, signal\nfrom onnxscope.shrinking.trials import Trials\ntrials = Trials(5.0)\n"
        "print(trials._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("it is still there")
