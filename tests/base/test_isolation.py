"""A call in a process of its own: results, exceptions, limits, and nothing left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import onnxscope
from onnxscope.base.limits import descendants
from onnxscope.errors import InputError, ModelError, RunError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS, IMAGES = FIXTURES / "digits.onnx", FIXTURES / "digits.npz"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, which has to be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "call",
    [
        (onnxscope.inspect, DIGITS),
        (onnxscope.weights, DIGITS),
        (onnxscope.features, DIGITS, IMAGES),
        (onnxscope.class_activation, DIGITS, IMAGES),
        (onnxscope.stats, DIGITS, IMAGES),
        (onnxscope.diff, DIGITS, DIGITS, IMAGES),
        (onnxscope.snapshot, DIGITS, IMAGES),
        (onnxscope.load_model, DIGITS),
    ],
    ids=lambda call: call[0].__name__,
)
def test_every_function_gives_what_it_gives_here(call):
    assert onnxscope.isolated(*call).to_dict() == call[0](*call[1:]).to_dict()


def test_a_page_can_come_from_there():
    given = onnxscope.isolated(onnxscope.report, DIGITS, IMAGES)
    assert given.html == onnxscope.report(DIGITS, IMAGES).html


def test_arrays_are_the_caller_s_own_and_are_not_pickled():
    array = onnxscope.isolated(np.arange, 3_000_000, dtype=np.float64)
    array[0] = 7
    assert array.sum() == 7 + 3_000_000 * 2_999_999 / 2
    several = onnxscope.isolated(np.split, np.arange(6), [1, 3])
    assert [part.tolist() for part in several] == [[0], [1, 2], [3, 4, 5]]
    assert onnxscope.isolated(np.zeros, (0, 3)).shape == (0, 3)


def test_options_are_handed_on():
    with pytest.raises(onnxscope.SelectorError, match="nothing matches the selector 'none'"):
        onnxscope.isolated(onnxscope.features, DIGITS, IMAGES, select="none")


def test_exceptions_keep_class_and_hint():
    with pytest.raises(ModelError, match="no such file") as caught:
        onnxscope.isolated(onnxscope.inspect, "none.onnx")
    assert caught.value.hint == "check the path"


def test_an_exception_that_cannot_travel_is_told(tmp_path, monkeypatch):
    (tmp_path / "odd_module.py").write_text(
        "class OddError(Exception):\n    def __reduce__(self):\n        raise TypeError\n"
        "def fail():\n    raise OddError('this happened')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import odd_module

    with pytest.raises(RunError, match="OddError: this happened"):
        onnxscope.isolated(odd_module.fail)


def test_a_crash_is_an_error():
    with pytest.raises(RunError, match=r"^the process has crashed \(SIGSEGV\)$"):
        onnxscope.isolated(ctypes.string_at, 1)


def test_an_exit_without_an_answer_is_an_error():
    with pytest.raises(RunError, match="ended without an answer"):
        onnxscope.isolated(os._exit, 0)


def test_time_is_limited():
    start = time.monotonic()
    with pytest.raises(RunError, match=r"^stopped after 1 s$") as caught:
        onnxscope.isolated(time.sleep, 60, timeout_s=1)
    assert "timeout_s=" in caught.value.hint
    assert time.monotonic() - start < 5


def test_memory_is_limited():
    filling = f"{sys.executable} -c 'import time; x = bytes(1) * (100 << 20) + bytes(1); time.sleep(60)'"
    command = ["sh", "-c", f"{filling} & {filling} & {filling} & wait"]
    with pytest.raises(RunError, match=r"^stopped at 0.25 GiB of memory$") as caught:
        onnxscope.isolated(subprocess.run, command, memory_limit_bytes=int(0.25 * (1 << 30)))
    assert "memory_limit_bytes=" in caught.value.hint
    with pytest.raises(MemoryError):
        onnxscope.isolated(np.ones, 1 << 30, memory_limit_bytes=1 << 30)
    assert descendants(os.getpid()) == []


def test_what_another_process_cannot_have_is_refused():
    with pytest.raises(InputError, match="cannot be called in another process"):
        onnxscope.isolated(lambda: 1)
    with pytest.raises(InputError, match="cannot be called in another process"):
        onnxscope.isolated(print, (i for i in range(3)))
    program = "import onnxscope\ndef own(): pass\nonnxscope.isolated(own)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "another process cannot import own from the program that was started" in done.stderr


def test_an_interruption_ends_the_other_process(temporary):
    program = "import onnxscope, time\nprint('started', flush=True)\nonnxscope.isolated(time.sleep, 60)"
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        process.stdout.readline()
        while not descendants(process.pid):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=5)
    assert b"KeyboardInterrupt" in err


def test_the_other_process_ends_with_ours(temporary):
    program = "import onnxscope, time\nprint('started', flush=True)\nonnxscope.isolated(time.sleep, 60)"
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as process:
        process.stdout.readline()
        end_s = time.monotonic() + 20
        while not list(temporary.glob("*/words")) or not descendants(process.pid):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        time.sleep(1)  # it reads from its lifeline
        (other,) = descendants(process.pid)
        process.kill()
    end_s = time.monotonic() + 5
    while list(temporary.iterdir()) or Path(f"/proc/{other}/exe").exists():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_without_a_place_for_temporary_files_nothing_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"^no folder for temporary files can be made \(No such file or directory\): "):
        onnxscope.isolated(onnxscope.inspect, DIGITS)
