"""A command that is ended: by a crash, a limit, a signal; with one line, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import onnxscope
from onnxscope.cli.main import run
from onnxscope.terminal import supervision

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS, DEPLOYED, IMAGES = (FIXTURES / name for name in ("digits.onnx", "digits_deployed.onnx", "digits.npz"))
# What a driver does in place of the first run of a session, before it runs the command.
CRASH = """
    with doing("running digits.onnx for 'y' and 1 more"):
        os.kill(os.getpid(), signal.SIGSEGV)"""
HANG = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}); time.sleep(60)"
HANG_AND_WRITE = f"writing = writing_whole(os.environ['TARGET']); writing.__enter__(); {HANG}"
WITHIN_S = 1.0


def ended_with(*arguments, instead=None, tmp_path, **options):
    with started(*arguments, instead=instead, tmp_path=tmp_path, **options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def started(*arguments, instead=None, tmp_path, **environment):
    (tmp_path / "temporary").mkdir(exist_ok=True)
    program = ["-m", "onnxscope"]
    if instead is not None:
        lines = [
            "import atexit, os, signal, subprocess, sys, time",
            "from onnxscope.base.files import writing_whole",
            "from onnxscope.base.last_words import doing",
            "from onnxscope.cli.main import main",
            "from onnxscope.runtime.session import Session",
            "def instead(*arguments, **options):",
            "    open(os.environ['STARTED'], 'w').close()",
            f"    {instead}",
            "Session.run = instead",
            "main()",
        ]
        program = ["-c", "\n".join(lines)]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary"), "STARTED": str(tmp_path / "started"), **environment},
    )


def is_true_within(seconds, condition):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def is_there(process):
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children_of(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.fixture
def hanging(tmp_path):
    """A command within its first run, with half of an output written; and the process that does its work."""
    target = tmp_path / "output"
    process = started(
        *("stats", DIGITS, "-i", "random", "-o", tmp_path / "p.json"),
        instead=HANG_AND_WRITE,
        tmp_path=tmp_path,
        TARGET=str(target),
    )
    with process:
        assert is_true_within(60, (tmp_path / "started").exists)
        assert is_true_within(10, lambda: list(tmp_path.glob(".onnxscope-*.partial")))
        yield process, children_of(process.pid)
        process.kill()


def nothing_is_left(tmp_path):
    return not list(tmp_path.glob(".*")) and not list((tmp_path / "temporary").iterdir())


def test_a_crash_of_the_engine_is_one_line(tmp_path):
    code, out, err = ended_with("stats", DIGITS, "-i", "random", "-o", "p.json", instead=CRASH, tmp_path=tmp_path)
    assert (code, out) == (2, "")
    error, hint = [line for line in err.splitlines() if not line.startswith("the input is random")]
    assert error == "onnxscope: error: onnxruntime has crashed (SIGSEGV) while running digits.onnx for 'y' and 1 more"
    assert hint.startswith("hint: ")
    assert nothing_is_left(tmp_path)


def batch_norm(outputs):
    """In training mode, which makes onnxruntime 1.32 write through a null pointer where an output has no name."""
    node = helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], outputs, training_mode=1)
    return [node], [2, 4], [numpy_helper.from_array(np.ones(4, np.float32), "s")], 1


def layer_norm():
    """Whose scale is longer than its axis and whose axis lies outside."""
    node = helper.make_node("LayerNormalization", ["x", "s"], ["y"], axis=-5)
    return [node], [2, 4], [numpy_helper.from_array(np.ones(4096, np.float32), "s")], 1


def half_lstm():
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)
    weights = [
        numpy_helper.from_array(np.ones(shape, np.float16), n) for n, shape in (("w", (1, 16, 3)), ("r", (1, 16, 4)))
    ]
    return [node], [5, 2, 3], weights, 10


CRASHERS = {"batch norm": batch_norm(["y", "", ""]), "layer norm": layer_norm(), "half lstm": half_lstm()}


@pytest.mark.parametrize("name", CRASHERS)
def test_a_model_that_crashes_onnxruntime_does_not_crash_the_command(name, tmp_path):
    (node,), shape, stored, kind = CRASHERS[name]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        stored,
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    code, _, err = ended_with(
        "stats", path, "-i", "random", "-s", "value:*", "-o", tmp_path / "p.json", tmp_path=tmp_path
    )
    print(err)
    assert code in (0, 2)  # an onnxruntime that has been mended runs it
    assert "Traceback" not in err
    if code:
        assert "m.onnx" in err
        assert f"of {node.op_type}" in err or f"({node.op_type})" in err
    assert nothing_is_left(tmp_path)


def test_without_isolation_the_command_dies_with_its_engine(tmp_path):
    options = ("stats", DIGITS, "-i", "random", "-o", "p.json", "--isolation", "none")
    assert ended_with(*options, instead=CRASH, tmp_path=tmp_path)[0] == -signal.SIGSEGV


def test_a_loop_without_end_ends_in_time(tmp_path):
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1] x) => (float[1] y) <int64 count = {1099511627776}, bool yes = {1}, float[1] one = {1}> {
            y = Loop(count, yes, x) <body = b (int64 i, bool c, float[1] v) => (bool d, float[1] w) {
                d = Identity(c)
                w = Add(v, one)
            }>
        }""")
    onnx.save(model, tmp_path / "loop.onnx")
    start = time.monotonic()
    code, _, err = ended_with(
        *("stats", tmp_path / "loop.onnx", "-i", "random", "-o", tmp_path / "p.json", "--timeout", "3"),
        tmp_path=tmp_path,
    )
    assert time.monotonic() - start < 3 + WITHIN_S + 2  # with two starts of Python on a busy machine
    assert code == 2
    assert re.match(r"onnxscope: error: stopped after 3 s(: /.*loop.onnx| while \w+ing loop.onnx.*)\n", err)
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("filling", "message"),
    [
        (
            "held = [bytearray(os.urandom(1 << 20) * 64) for _ in range(100)]; time.sleep(9)",
            "stopped at 0.5 GiB of memory",
        ),
        ("held = bytearray(1 << 40)", "not enough memory"),
        (
            "filling = [sys.executable, '-c', 'import time; x = bytes(1) * (1 << 28); time.sleep(60)']; "
            "children = [subprocess.Popen(filling) for _ in range(3)]; time.sleep(60)",
            "stopped at 0.5 GiB of memory",
        ),
    ],
)
def test_what_takes_more_memory_than_is_allowed_ends(filling, message, tmp_path):
    code, _, err = ended_with(
        *("stats", DIGITS, "-i", "random", "-o", "p.json", "--memory-limit", "0.5G"), instead=filling, tmp_path=tmp_path
    )
    assert code == 2
    assert f"onnxscope: error: {message}: {DIGITS}" in err
    assert "--memory-limit" in err
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize(("given", "code"), [("SIGINT", 2), ("SIGTERM", -15), ("SIGHUP", -1)])
def test_a_signal_ends_everything_within_a_second(given, code, hanging, tmp_path):
    process, children = hanging
    process.send_signal(getattr(signal, given))
    start = time.monotonic()
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - start < WITHIN_S + 0.5  # of a busy machine
    assert process.returncode == code
    assert "onnxscope: error: interrupted" in err
    assert children
    assert not any(map(is_there, children))
    assert nothing_is_left(tmp_path)


def test_a_command_that_can_ends_by_itself_at_a_signal(tmp_path):
    process = started(
        "stats", DIGITS, "-i", "random", "-o", tmp_path / "p.json", instead="time.sleep(60)", tmp_path=tmp_path
    )
    with process:
        assert is_true_within(60, (tmp_path / "started").exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 2
    assert "interrupted before the first shard was done" in err
    assert nothing_is_left(tmp_path)


def test_what_is_said_once_is_not_said_again_by_what_waits(tmp_path):
    """A command that tells of its interruption, and then takes longer to end than it may."""
    process = started(
        *("stats", DIGITS, "-i", "random", "-o", tmp_path / "p.json"),
        instead="atexit.register(time.sleep, 60); os._exit = lambda code: time.sleep(60); time.sleep(60)",
        tmp_path=tmp_path,
    )
    with process:
        assert is_true_within(60, (tmp_path / "started").exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 2
    assert [line for line in err.splitlines() if "error" in line] == [
        f"onnxscope: error: interrupted before the first shard was done: {DIGITS}"
    ]


def test_what_waits_may_be_killed_and_takes_all_with_it(hanging, tmp_path):
    process, children = hanging
    process.kill()
    process.wait(10)
    assert is_true_within(2, lambda: not any(map(is_there, children)))
    assert is_true_within(2, lambda: nothing_is_left(tmp_path))


def test_nothing_is_left_where_what_waits_is_killed_as_the_command_ends(tmp_path):
    end = (
        "leave = os._exit; os._exit = lambda code: (os.kill(os.getppid(), signal.SIGKILL), leave(code)); raise OSError"
    )
    command = ("stats", DIGITS, "-i", "random", "-o", tmp_path / "p.json")
    with started(*command, instead=end, tmp_path=tmp_path) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert is_true_within(2, lambda: nothing_is_left(tmp_path))


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "killed from outside"), (signal.SIGTERM, "ended from outside (SIGTERM)")]
)
def test_the_process_that_works_may_be_killed(number, words, hanging, tmp_path):
    process, (child,) = hanging
    os.kill(child, number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 2
    assert f"onnxscope: error: {words}" in err
    assert nothing_is_left(tmp_path)


def test_a_terminal_stops_and_continues_both(hanging):
    process, children = hanging

    def state(one):
        return Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0]

    process.send_signal(signal.SIGTSTP)
    assert is_true_within(5, lambda: {state(one) for one in (process.pid, *children)} == {"T"})
    process.send_signal(signal.SIGCONT)
    assert is_true_within(5, lambda: "T" not in {state(one) for one in (process.pid, *children)})


def test_results_and_exit_codes_pass(tmp_path):
    other = onnx.load(DIGITS)
    tensor = other.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    onnx.save(other, tmp_path / "other.onnx")
    for isolation in ("none", "process"):
        (tmp_path / "temporary" / ".ses").unlink(missing_ok=True)  # of onnxruntime, which leaves it behind
        code, out, err = ended_with(
            "diff", DIGITS, tmp_path / "other.onnx", "--isolation", isolation, tmp_path=tmp_path
        )
        assert code == 1
        assert "\ndiffers: " in out
        assert "error" not in err
    assert ended_with("inspect", tmp_path / "none.onnx", tmp_path=tmp_path)[0] == 2
    assert nothing_is_left(tmp_path)


def test_a_size_that_is_none_is_refused(capsys):
    for wrong in ("much", "-1G", "0", "4 PB", "1M"):
        assert run(["inspect", str(DIGITS), f"--memory-limit={wrong}"]) == 2
        assert "for example 800M or 4G" in capsys.readouterr().err


COMMANDS = {
    "inspect": ["inspect", DIGITS],
    "weights": ["weights", DIGITS, "-o", "w"],
    "features": ["features", DIGITS, "-i", IMAGES, "-o", "f", "--arrays"],
    "stats": ["stats", DIGITS, "-i", IMAGES, "-o", "p.json", "--batch-size", "1", "--workers", "2"],
    "diff": ["diff", DIGITS, DEPLOYED, "-i", IMAGES],
    "snapshot": ["snapshot", DIGITS, "-i", IMAGES, "-o", "s.json"],
    "check": ["check", DIGITS, "--baseline", "baseline.json"],
    "report": ["report", DIGITS, "-i", IMAGES, "-o", "r.html"],
    "extract": ["extract", DIGITS, "-s", "block.0", "-i", IMAGES, "-o", "part"],
    "recipe": ["recipe", DIGITS, "-i", IMAGES, "-o", "recipe.json"],
    "sensitivity": ["sensitivity", DIGITS, "-i", IMAGES, "--as", "int8,int4,fp8"],
    "doctor": ["doctor"],
}
HEAVY = {
    "convert": ["convert", "torch", "alexnet", "-o", "a.onnx"],
    "convert to verify": ["convert", "tensorflow", "alexnet", "-o", "a.onnx", "--verify"],
    "demo": ["demo", "-o", "d"],
    "extract to shrink": ["extract", "odd.onnx", "-i", "random", "--shrink", "-o", "part"],
    "diff to explain": ["diff", DIGITS, "odd.onnx", "-i", IMAGES, "--explain"],
    "stats on ray": ["stats", DIGITS, "-i", IMAGES, "-o", "p.json", "--batch-size", "1", "--engine", "ray"],
}


def marked(mark):
    """Processes that run and that have been started with a mark in their environment."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark.encode() in Path(f"/proc/{process}/environ").read_bytes() and is_there(process):
                found.append(process)
    return found


def start(arguments, folder, mark=""):
    """A command that runs in a folder of its own: a baseline, a model with a fault, a place for temporary files."""
    (folder / "temporary").mkdir(parents=True)
    onnxscope.snapshot(DIGITS).save(folder / "baseline.json")
    odd = onnx.load(DIGITS)
    odd.graph.node.append(helper.make_node("Sqrt", ["output"], ["root"], "root"))
    odd.graph.output[0].name = "root"
    onnx.save(odd, folder / "odd.onnx")
    return subprocess.Popen(
        [sys.executable, "-m", "onnxscope", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "temporary"), "MARK": mark},
    )


def duration_s(arguments, folder):
    """How long a command takes that nobody disturbs."""
    with start(arguments, folder) as process:
        began = time.monotonic()
        _, err = process.communicate(timeout=400)
        took_s = time.monotonic() - began
    assert process.returncode in (0, 1), err
    return took_s


def interrupt(arguments, moment_s, number, folder):
    """Send a signal to a command some time after its start: exit code, stderr and the seconds from signal to end."""
    mark = uuid.uuid4().hex
    with start(arguments, folder, mark) as process:
        time.sleep(moment_s)
        sent = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        took_s = time.monotonic() - sent
        assert marked(mark) == []
    assert list((folder / "temporary").iterdir()) == []
    assert [path for path in folder.rglob("*") if "onnxscope-" in path.name] == []
    assert "Traceback" not in err or "onnxscope/cli" not in err  # while Python starts it says so in its own way
    if process.returncode == 2 and err:
        assert len([line for line in err.splitlines() if line.startswith("onnxscope: error: interrupted")]) == 1
    return process.returncode, took_s


def moments(seed, count, last_s):
    """The first is before Python has started, others anywhere until the command has nearly ended."""
    return [0.02, *(random.Random(seed).uniform(0.1, last_s) for _ in range(count - 1))]


@pytest.mark.parametrize("name", COMMANDS)
def test_signals_end_a_command_at_any_moment(name, tmp_path):
    codes = set()
    for index, moment_s in enumerate(moments(name, 3, 1.2)):
        number = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)[index]
        code, took_s = interrupt(COMMANDS[name], moment_s, number, tmp_path / str(index))
        assert took_s < WITHIN_S + 1  # of a machine that does several things at a time
        assert code in (0, 1, 2, -number)
        codes.add(code)
    assert codes & {2, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}


def test_no_library_is_interrupted_while_it_is_loaded(monkeypatch):
    reached = []

    def load(self):  # as Python's own loader, whose frame the handler looks for
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(self)

    monkeypatch.setattr(supervision, "_interrupted_here", False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
    signal.signal(signal.SIGINT, supervision._interrupt)
    try:
        load(ExtensionFileLoader("library", "library.so"))
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)
        assert len(reached) == 1
        assert supervision.was_interrupted()
        with pytest.raises(KeyboardInterrupt):
            load(None)
        assert len(reached) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.acceptance
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("name", COMMANDS | HEAVY)
def test_ten_signals_at_random_moments_end_a_command(name, number, tmp_path):
    longest_s, ended = 0.0, 0
    arguments = (COMMANDS | HEAVY)[name]
    last_s = 0.95 * duration_s(arguments, tmp_path / "whole")
    for index, moment_s in enumerate(moments(f"{name} {number}", 10, last_s)):
        code, took_s = interrupt(arguments, moment_s, number, tmp_path / str(index))
        assert code in (0, 1, 2, -number)
        ended += code in (2, -number)
        longest_s = max(longest_s, took_s)
    print(f"{name}, {number.name}: {ended} of 10 ended by it, the longest in {longest_s:.2f} s")
    assert longest_s < WITHIN_S
    assert ended


@pytest.mark.acceptance
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_left_where_what_waits_is_killed_at_random_moments(name, tmp_path):
    last_s = 0.95 * duration_s(COMMANDS[name], tmp_path / "whole")
    for index, moment_s in enumerate(moments(name, 10, last_s)):
        folder, mark = tmp_path / str(index), uuid.uuid4().hex
        with start(COMMANDS[name], folder, mark) as process:
            time.sleep(moment_s)
            process.kill()
        assert is_true_within(2, lambda mark=mark: marked(mark) == [])
        assert is_true_within(2, lambda folder=folder: list((folder / "temporary").iterdir()) == [])
        assert [path for path in folder.rglob("*") if "onnxscope-" in path.name] == []


@pytest.mark.acceptance
def test_workers_of_ray_end_with_what_waits(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "temporary").mkdir()
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-m", "onnxscope", *map(str, HEAVY["stats on ray"])],
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary"), "MARK": mark},
    ) as process:
        assert is_true_within(120, lambda: len(marked(mark)) > 6)  # two of ours, and Ray's own
        process.kill()
    assert is_true_within(5, lambda: marked(mark) == [])
    assert is_true_within(5, lambda: list((tmp_path / "temporary").iterdir()) == [])


# ---- places that cannot be written to


def test_without_a_place_for_temporary_files_a_command_runs_where_it_was_started(tmp_path):
    program = "import tempfile; tempfile.tempdir = {!r}; from onnxscope.cli.main import main; main()"
    command = [sys.executable, "-c", program.format(str(tmp_path / "nowhere")), "inspect", str(DIGITS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command, "--isolation", "process"], capture_output=True, text=True)
    error, hint = done.stderr.splitlines()
    assert done.returncode == 2
    assert error.startswith("onnxscope: error: cannot make a folder for temporary files (No such file or directory: ")
    assert hint == "hint: `TMPDIR` names another place"


def test_a_disk_that_fills_half_way_leaves_nothing(tmp_path):
    """The arrays are more than a file may hold here, the pictures before them are not."""
    arguments = ("features", DIGITS, "-i", IMAGES, "-o", tmp_path / "f", "--arrays")
    command = " ".join(map(shlex.quote, map(str, (sys.executable, "-m", "onnxscope", *arguments))))
    done = subprocess.run(["bash", "-c", f"ulimit -f 64; {command}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "onnxscope: error: cannot write (File too large): " in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---- standard streams


def in_shell(redirection, *arguments):
    """A command whose streams a shell has redirected: its exit code, and what it says on stderr."""
    command = " ".join(map(shlex.quote, map(str, (sys.executable, "-m", "onnxscope", *arguments))))
    done = subprocess.run(["bash", "-c", f"{command} {redirection}"], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("isolation", ["process", "none"])
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_full_stdout_is_an_error(isolation, form):
    code, err = in_shell(">/dev/full", "inspect", DIGITS, "--format", form, "--isolation", isolation)
    assert (code, err) == (
        2,
        "onnxscope: error: cannot write the result (No space left on device): standard output\n",
    )


def test_a_closed_stdout_is_an_error():
    code, err = in_shell(">&-", "inspect", DIGITS)
    assert (code, err) == (2, "onnxscope: error: cannot write the result (it is closed): standard output\n")


@pytest.mark.parametrize("buffering", ["", "1"])
@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_reader_that_goes_away_ends_a_command_quietly(isolation, buffering, monkeypatch):
    """`weights` in JSON is more than a pipe holds."""
    monkeypatch.setenv("PYTHONUNBUFFERED", buffering)
    arguments = ("weights", DIGITS, "--format", "json", "--bins", "2000", "--isolation", isolation)
    code, err = in_shell("| head -c 10; exit ${PIPESTATUS[0]}", *arguments)
    assert (code, err) == (128 + signal.SIGPIPE, '{\n  "schem')


def test_no_file_takes_the_place_of_a_closed_stderr(tmp_path):
    code, _ = in_shell(f"2>&- >{tmp_path / 'out'}", "snapshot", DIGITS, "-o", tmp_path / "s.json")
    assert code == 0
    assert json.loads((tmp_path / "s.json").read_text())["schema"].startswith("onnxscope.baseline/")


# ---- errors are one line that names a file


@pytest.mark.parametrize(
    "arguments",
    [
        ["features", DIGITS, "-i", "x.npy", "-o", "f"],
        ["features", DIGITS, "-i", "photo.png", "-o", "f"],
        ["features", DIGITS, "-i", "x.npz", "-o", "f"],
        ["stats", DIGITS, "-i", "x.npy", "-o", "p.json"],
        ["stats", DIGITS, "-i", "random", "-o", "nowhere/p.json"],
        ["diff", DIGITS, DEPLOYED, "-i", "x.npy"],
        ["weights", DIGITS, "-s", "y" * 100_000],
        ["weights", DIGITS, "-s", "\0"],
        ["inspect", "z" * 3000],
        ["inspect", DIGITS, "--dim", "N=3"],
        ["check", DIGITS, "--baseline", "x.npy"],
    ],
    ids=range(11),
)
def test_an_error_is_one_line_that_names_a_file(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((2, 5, 5), np.float32))
    np.savez("x.npz", other=np.zeros((2, 1, 8, 8), np.float32))
    Image.new("RGB", (8, 8)).save("photo.png")
    assert run(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    error, *hints = err.splitlines()
    assert out == ""
    assert error.startswith("onnxscope: error: ")
    assert len(error) <= 300
    assert all(hint.startswith("hint: ") and len(hint) <= 306 for hint in hints)
    names = ["digits", "x.npy", "x.npz", "photo.png", "p.json", "zzz"]
    assert any(name in error for name in names)
