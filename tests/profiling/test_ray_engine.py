"""The Ray engine, on a small cluster of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxscope.errors import InputError, MissingDependencyError, RunError
from onnxscope.profiling.ray_engine import RayEngine

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=96 << 20,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield ray
    ray.shutdown()


class Work:
    """Squares; shard 5 fails, and shard 3 ends its process as often as there are marks to set."""

    def __init__(self, folder, deaths, fail=False):
        self.folder, self.deaths, self.fail = folder, deaths, fail

    def __call__(self, shard):
        if shard == 3:
            for number in range(self.deaths):
                mark = Path(self.folder) / f"died{number}"
                if not mark.exists():
                    mark.touch()
                    os._exit(1)
        if shard == 5 and self.fail:
            raise InputError("shard 5 is broken", hint="mend it")
        return shard * shard


def test_results_come_in_order_though_a_worker_dies(cluster, tmp_path):
    results = list(RayEngine(2).map(Work(str(tmp_path), 2), range(9)))
    assert results == [shard * shard for shard in range(9)]
    assert (tmp_path / "died1").exists()
    assert cluster.is_initialized()  # what somebody else has started is left alone


def test_a_worker_that_always_dies_is_an_error(cluster, tmp_path):
    with pytest.raises(RunError, match=r"^its worker died 3 times \(.*\): shard 3 of 4$"):
        list(RayEngine(1).map(Work(str(tmp_path), 9), range(4)))


def test_an_exception_arrives_as_itself_with_its_hint(cluster, tmp_path):
    results = RayEngine(2).map(Work(str(tmp_path), 0, fail=True), range(9))
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(InputError, match=r"^shard 5 is broken$") as caught:
        next(results)
    assert caught.value.hint == "mend it"


def test_the_command_gives_the_same_bytes_and_keeps_quiet(tmp_path):
    command = [
        sys.executable,
        "-m",
        "onnxscope",
        "stats",
        str(FIXTURES / "digits.onnx"),
        "-i",
        str(FIXTURES / "digits.npz"),
    ]
    command += ["--batch-size", "2"]
    local = subprocess.run([*command, "-o", str(tmp_path / "a.json")], capture_output=True, text=True, check=True)
    ray = subprocess.run(
        [*command, "-o", str(tmp_path / "b.json"), "--engine", "ray", "--workers", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert ray.stdout == local.stdout
    assert len(ray.stderr.splitlines()) == len(local.stderr.splitlines()), ray.stderr


DYING = """
import os, pathlib, sys
from onnxscope.profiling.ray_engine import RayEngine
mark = pathlib.Path(sys.argv[1])
def work(shard):
    if shard == 1 and not mark.exists():
        mark.touch()
        os._exit(1)
    return shard
print(list(RayEngine(1).map(work, range(3))))
"""


def test_a_death_is_not_printed_on_stdout(tmp_path):
    command = [sys.executable, "-c", DYING, str(tmp_path / "mark")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "mark").exists()
    assert done.stdout == "[0, 1, 2]\n"


def test_importing_the_engine_imports_no_ray():
    code = "import sys, onnxscope.profiling.ray_engine; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_faults_are_named(monkeypatch):
    with pytest.raises(InputError, match=r"^0 workers do no work$"):
        RayEngine(0)
    engine = RayEngine(1, "127.0.0.1:1")
    engine._ray = Unreachable()
    reason = r"nobody answers at 127\.0\.0\.1:1"
    with pytest.raises(RunError, match=rf"^Ray cannot be started or reached \({reason}\): 127\.0\.0\.1:1$"):
        list(engine.map(abs, [1]))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"^ray is not installed$") as caught:
        RayEngine(1)
    assert caught.value.hint == "pip install 'onnxscope[ray]'"


class Unreachable:
    """A Ray without a cluster behind the address."""

    def is_initialized(self):
        return False

    def init(self, address, **_):
        raise ConnectionError(f"nobody answers at {address}\nmore")

    def shutdown(self):
        raise AssertionError("what was not started is not ended")
