"""Engines map a picklable function over shards and yield the results in the order of the shards.

An engine knows nothing of models. A function object may hold what it builds when it is first called, such as a
session: every worker has its own copy of it.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from onnxscope.errors import InputError

__all__ = ["Engine", "LocalEngine"]

Shard = TypeVar("Shard")
Result = TypeVar("Result")


class Engine(Protocol):
    """What runs shards; registered under the entry point group `onnxscope.engines`."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        """Prepare so many workers; `address` names a cluster, for engines that have one."""

    def map(self, function: Callable[[Any], Any], shards: Sequence[Any]) -> Generator[Any]:
        """Yield `function(shard)` for every shard, in order; the first failure is raised in its place.

        Closing the generator stops the work.
        """


class LocalEngine:
    """Workers in this process: the calling thread itself, or several threads."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        """Prepare; nothing is started yet.

        Raises:
            InputError: An address is given, or no worker asked for.
        """
        if address is not None:
            raise InputError(f"the local engine has no address: {address}", hint="add `--engine ray`")
        if workers < 1:
            raise InputError(f"{workers} workers do no work", hint="give at least one")
        self._workers = workers

    def map(self, function: Callable[[Shard], Result], shards: Sequence[Shard]) -> Generator[Result]:
        """Yield results in order; at most twice as many shards as there are workers are begun and not yet taken."""
        if self._workers == 1:
            yield from map(copy.copy(function), shards)
            return
        idle: deque[Callable[[Shard], Result]] = deque(copy.copy(function) for _ in range(self._workers))

        def work(shard: Shard) -> Result:
            worker = idle.popleft()
            try:
                return worker(shard)
            finally:
                idle.append(worker)

        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="onnxscope-worker")
        waiting: deque[Future[Result]] = deque()
        try:
            for shard in shards:
                waiting.append(pool.submit(work, shard))
                if len(waiting) >= 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
