"""The Ray engine: one actor a worker, on this machine or on an existing cluster.

Actors hold the function, and with it the model and its session, for as long as they live. Shards go to whichever actor
is free. An actor that dies is replaced, and its shard run again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from onnxscope.base.files import list_partial
from onnxscope.base.text import first_line
from onnxscope.errors import InputError, MissingDependencyError, OnnxscopeError, RunError

__all__ = ["RayEngine"]

Shard = TypeVar("Shard")
Result = TypeVar("Result")

_ATTEMPTS = 3
_MAX_FOLDER = 36  # characters, of the 107 that Linux allows; Ray appends 68
_STORE_BYTES = 128 << 20  # results are small, and Ray would otherwise take a third of the machine's memory


class RayEngine:
    """Workers that are Ray actors of one CPU each."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        """Prepare; Ray is started by the first `map`.

        Args:
            workers: How many actors.
            address: Of an existing cluster, as `ray.init` takes it; None starts Ray on this machine and ends it again.

        Raises:
            InputError: No worker is asked for.
            MissingDependencyError: Ray is not installed.
        """
        if workers < 1:
            raise InputError(f"{workers} workers do no work", hint="give at least one")
        self._workers = workers
        self._address = address
        self._ray = _import_ray()
        self._folder: str | None = None

    def map(self, function: Callable[[Shard], Result], shards: Sequence[Shard]) -> Generator[Result]:
        """Yield results in order; at most twice as many shards as there are workers are begun and not yet taken.

        Raises:
            RunError: Ray cannot be reached, or a shard's worker died three times.
        """
        ray = self._ray
        started = not ray.is_initialized()
        if started:
            self._start()
        crew = None
        try:
            crew = _Crew(ray, function, min(self._workers, max(len(shards), 1)))
            yield from crew.run(shards)
        finally:
            if crew is not None:
                crew.dismiss()
            if started:
                ray.shutdown()
                if self._folder is not None:
                    shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        ray = self._ray
        in_main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM) if in_main else None
        common = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self._address is not None:
                ray.init(address=self._address, **common)
            else:
                self._folder = _short_folder()
                # "local" even where RAY_ADDRESS is set: a cluster has to be asked for.
                ray.init(
                    address="local",
                    num_cpus=self._workers,
                    include_dashboard=False,
                    object_store_memory=_STORE_BYTES,
                    _temp_dir=self._folder,
                    **common,
                )
        except Exception as error:  # ray raises ConnectionError, RuntimeError, ValueError and its own
            where = self._address or "this machine"
            raise RunError(f"Ray cannot be started or reached ({first_line(error)}): {where}") from error
        finally:
            if handler is not None:
                signal.signal(signal.SIGTERM, handler)
        _keep_off_stdout()


class _Crew:
    """Actors over one function, and the shards that each is working on."""

    def __init__(self, ray: Any, function: Callable[[Any], Any], size: int) -> None:
        self._ray = ray
        self._actor = ray.remote(num_cpus=1, max_restarts=0)(_Worker)
        self._function = ray.put(function)
        self._idle: list[Any] = []
        self._hired: list[Any] = []
        for _ in range(size):
            self._hire()

    def _hire(self) -> None:
        actor = self._actor.remote(self._function)
        self._hired.append(actor)
        self._idle.append(actor)

    def run(self, shards: Sequence[Any]) -> Iterator[Any]:
        """Yield results in the order of the shards."""
        ray = self._ray
        todo = deque(enumerate(shards))
        working: dict[Any, tuple[int, Any, Any]] = {}
        attempts: dict[int, int] = {}
        done: dict[int, Any] = {}
        following = 0
        while following < len(shards):
            while self._idle and todo and todo[0][0] < following + 2 * len(self._hired):
                place, shard = todo.popleft()
                actor = self._idle.pop()
                working[actor.run.remote(shard)] = (place, shard, actor)
            (answer,), _ = ray.wait(list(working), num_returns=1)
            place, shard, actor = working.pop(answer)
            try:
                done[place] = ray.get(answer)
                self._idle.append(actor)
            except ray.exceptions.RayTaskError as error:
                done[place] = _cause(error)
                self._idle.append(actor)
            except ray.exceptions.RayError as error:
                attempts[place] = attempts.get(place, 0) + 1
                if attempts[place] >= _ATTEMPTS:
                    reason = first_line(error)
                    raise RunError(
                        f"its worker died {_ATTEMPTS} times ({reason}): shard {place} of {len(shards)}"
                    ) from error
                self._hired.remove(actor)
                self._hire()
                todo.appendleft((place, shard))
            while following in done:
                result = done.pop(following)
                if isinstance(result, BaseException):
                    raise result
                yield result
                following += 1

    def dismiss(self) -> None:
        """End the actors."""
        for actor in self._hired:
            self._ray.kill(actor)


class _Worker:
    """What an actor is: it holds the function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def run(self, shard: Any) -> Any:
        """Run one shard."""
        return self._function(shard)


def _short_folder() -> str | None:
    """A folder for Ray's sockets, whose paths the system limits, where that for temporary files has a long name."""
    if os.name != "posix" or len(tempfile.gettempdir()) <= _MAX_FOLDER:
        return None
    folder = tempfile.mkdtemp(prefix="onnxscope-", dir="/tmp")
    list_partial(folder, with_content=True)
    return folder


def _cause(error: Any) -> BaseException:
    """The exception that the function raised, without Ray's wrapping."""
    cause = error.cause
    if isinstance(cause, OnnxscopeError):
        return type(cause)(str(cause), hint=cause.hint)
    return cause if isinstance(cause, BaseException) else RunError(first_line(error))


def _keep_off_stdout() -> None:
    """Ray prints on the driver's stdout that a worker has died, whatever its logging is told; we say it ourselves."""
    with contextlib.suppress(ImportError, AttributeError):  # there is no public way
        import ray._private.worker

        ray._private.worker.print_to_stdstream = lambda *_, **__: None


def _import_ray() -> Any:
    # Read when ray is imported, and by the processes that it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("ray is not installed", hint="pip install 'onnxscope[ray]'") from error
    return ray
