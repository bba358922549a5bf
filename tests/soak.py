"""`make soak`: the library in one process for an hour, with nothing that grows.

`stats`, `features`, `diff` and `inspect` of a dozen networks again and again. After a tenth of the time, memory of the
process, files that are open, threads and temporary files are looked at; at the end there may be no more of them.

    python tests/soak.py [--seconds S]
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from small_networks import NETWORKS

import onnxscope
from onnxscope.base.limits import memory_bytes

ROOM_BYTES = 24 << 20  # of an allocator's own ups and downs


@dataclass(frozen=True)
class State:
    """What a process holds."""

    memory_bytes: int
    files: int
    threads: int
    temporary: int

    def grown(self, before: State) -> list[str]:
        """What there is more of than there was."""
        grown = []
        if self.memory_bytes > before.memory_bytes + ROOM_BYTES:
            grown.append(f"{(self.memory_bytes - before.memory_bytes) / 1e6:.0f} MB")
        for name in ("files", "threads", "temporary"):
            more = getattr(self, name) - getattr(before, name)
            if more > 0:
                grown.append(f"{more} {name}")
        return grown


def state(folder: Path) -> State:
    """What this process holds now."""
    gc.collect()
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return State(memory_bytes(os.getpid()), files, threading.active_count(), len(list(folder.iterdir())))


def jobs(folder: Path) -> list[Callable[[], object]]:
    """Calls of the library."""
    found: list[Callable[[], object]] = [lambda: onnxscope.inspect(NETWORKS[0]().model).to_dict()]
    for make in NETWORKS:
        network = make()
        feeds = {name: np.asarray(array) for name, array in network.feeds.items()}

        def stats(network: object = network, feeds: dict[str, np.ndarray] = feeds) -> None:
            onnxscope.stats(network.model, feeds, select="value:*").to_dict()

        def features(network: object = network, feeds: dict[str, np.ndarray] = feeds) -> None:
            onnxscope.features(network.model, feeds, select="value:*")._repr_html_()

        def diff(network: object = network, feeds: dict[str, np.ndarray] = feeds) -> None:
            onnxscope.diff(network.model, network.model, feeds).to_dict()

        found += [stats, features, diff]
    return found


def soak(calls: Sequence[Callable[[], object]], folder: Path, seconds: float) -> tuple[int, State, State]:
    """Call in turn until the time is over: how many rounds, and what there was after a tenth of it and at the end."""
    start, rounds, before = time.monotonic(), 0, None
    while rounds < 3 or time.monotonic() < start + seconds:
        for call in calls:
            call()
        rounds += 1
        if before is None and rounds > 1 and time.monotonic() > start + seconds / 10:
            before = state(folder)
    assert before is not None
    return rounds, before, state(folder)


def run() -> int:
    """Read the arguments, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        tempfile.tempdir = place
        calls = jobs(Path(place))
        rounds, before, after = soak(calls, Path(place), given.seconds)
    grown = after.grown(before)
    memory = f"{before.memory_bytes / 1e6:.0f} MB, then {after.memory_bytes / 1e6:.0f} MB"
    print(
        f"{rounds:,} rounds of {len(calls)} calls: {memory}; {', '.join(grown) + ' more' if grown else 'nothing grows'}"
    )
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(run())
