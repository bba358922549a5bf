"""Nothing of the user's leaves: no telemetry, no network, no file below the home folder.

A child process does what `inspect`, `weights` and `features` do, while an audit hook records every socket, every
request and every process that Python code starts. Native code raises no audit events, so what onnxruntime does itself
is looked for where the kernel shows it: sockets of any family among the child's open files, looked at every two
milliseconds. The limits: a connection that native code opens and closes between two looks is not seen, nor is one
that it would only make much later. That is why the switch that keeps telemetry off is asserted as well, at the moment
onnxruntime is first imported, and why the home folder, where telemetry keeps its device id, has to stay empty.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

import onnxscope

CHILD = """
    import importlib.abc, json, os, sys, threading, time

    seen = {"events": [], "switches": None, "sockets": []}
    WATCHED = ("socket.", "urllib.", "http.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")

    def hook(event, arguments):
        if event.startswith(WATCHED):
            seen["events"].append([event, repr(arguments)[:200]])

    class Watch(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "onnxruntime" and seen["switches"] is None:
                names = ("ORT_DISABLE_TELEMETRY", "ORT_LOAD_CONFIG_FROM_MODEL")
                seen["switches"] = [os.environ.get(each) for each in names]
            return None

    def look():
        while True:
            for each in os.listdir("/proc/self/fd"):
                try:
                    target = os.readlink("/proc/self/fd/" + each)
                except OSError:
                    continue
                if target.startswith("socket:") and target not in seen["sockets"]:
                    seen["sockets"].append(target)
            if done.wait(0.002):
                return

    sys.addaudithook(hook)
    sys.meta_path.insert(0, Watch())
    done = threading.Event()
    watcher = threading.Thread(target=look)
    watcher.start()

    BODY

    time.sleep(0.3)  # a background thread of the runtime would get its turn
    done.set()
    watcher.join()
    print(json.dumps(seen))
"""

ANALYSIS = """
    import numpy
    import onnxscope

    onnxscope.inspect("model.onnx")
    onnxscope.weights("model.onnx")
    maps = onnxscope.features("model.onnx", numpy.ones((1, 3), numpy.float32), select="*", verify=True)
    seen["answer"] = maps.taps[0].data.tolist()
"""


def run_child(body: str, folder: Path, home: Path, **changes: str) -> dict[str, Any]:
    package = str(Path(onnxscope.__file__).parent.parent)
    home.mkdir()
    code = textwrap.dedent(CHILD).replace("BODY", textwrap.dedent(body).strip())
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**kept, "HOME": str(home), "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1", **changes},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }""")
    # What a hostile model would turn profiling on with, if the caller's environment let it.
    model.metadata_props.add(
        key="ort_config", value=json.dumps({"session_options": {"enable_profiling": 1, "intra_op_num_threads": 1}})
    )
    onnx.save(model, tmp_path / "work" / "model.onnx")
    return tmp_path / "work"


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux shows a process its files")


@needs_proc
def test_analysis_opens_no_socket_and_writes_nothing_at_home(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    seen = run_child(ANALYSIS, folder, home)
    assert seen["answer"] == [[9.0, 12.0]]
    assert seen["events"] == []
    assert seen["sockets"] == []
    assert list(home.rglob("*")) == []
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]


@needs_proc
def test_telemetry_is_off_before_onnxruntime_is_imported(folder: Path, tmp_path: Path) -> None:
    seen = run_child(ANALYSIS, folder, tmp_path / "home", ORT_DISABLE_TELEMETRY="0")
    assert seen["switches"] == ["1", None]


@needs_proc
def test_a_model_cannot_turn_profiling_on_even_where_the_caller_allows_it(folder: Path, tmp_path: Path) -> None:
    seen = run_child(ANALYSIS, folder, tmp_path / "home", ORT_LOAD_CONFIG_FROM_MODEL="1")
    assert seen["switches"] == ["1", None]
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]


@needs_proc
def test_this_model_would_turn_profiling_on_without_us(folder: Path, tmp_path: Path) -> None:
    """The check above can fail: onnxruntime alone writes a profile for the same model and environment."""
    body = """
        import os
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime
        session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
        session.end_profiling()
    """
    run_child(body, folder, tmp_path / "home", ORT_LOAD_CONFIG_FROM_MODEL="1")
    assert len(list(folder.iterdir())) == 2


@needs_proc
def test_the_watch_sees_sockets_and_processes(folder: Path, tmp_path: Path) -> None:
    """The check above can fail: what it looks for is found where it is."""
    body = """
        import socket, subprocess
        with socket.socket() as connection:
            time.sleep(0.1)
        subprocess.run([sys.executable, "-c", ""])
    """
    seen = run_child(body, folder, tmp_path / "home")
    assert {event for event, _ in seen["events"]} >= {"socket.__new__", "subprocess.Popen"}
    assert len(seen["sockets"]) == 1
