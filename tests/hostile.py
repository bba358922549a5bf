"""`make hostile`: what strangers may send us, given to the commands from outside, and how many came out as expected.

Every case is a command in a folder of its own. It has to end by itself and within its time, with the exit code that is
expected of it; where that is 2 with one line, and a hint at most, and nothing written. No case may show a traceback or
a command of CI, leave a process or a temporary file, write outside of `out`, or take more than 2 GB.

    python tests/hostile.py [--only TEXT] [--mutants N]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from evil_names import EVIL_NAMES, commands_of_ci
from onnx import helper, numpy_helper
from selection.test_large_values import BOMBS
from whole.test_hostile import CASES, mutate, named, network

import onnxscope.profiling.dataset_statistics  # what most commands need, once for all cases
import onnxscope.reporting.reports
import onnxscope.runtime.session
from onnxscope.cli.main import main

onnxscope.runtime.session.runtime_version()  # imports onnxruntime
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
DIGITS, IMAGES = FIXTURES / "digits.onnx", FIXTURES / "digits.npz"
REFUSED, DONE, ANSWERED = (2,), (0, 1), (0, 1, 2)
MAX_BYTES = 2 << 30
OUTPUTS = ("out", "out.html", "out.partial")
OPSET = '<ir_version: 9, opset_import: ["": 17]>'


@dataclass(frozen=True)
class Case:
    """A command and what has to become of it.

    Attributes:
        kind: What is hostile about it.
        name: In a few words.
        build: Prepares a folder, and returns the command's arguments.
        codes: Exit codes, one of which is expected.
        says: What the line of an error has to hold.
        within_s: Seconds that it may take, on a busy machine.
    """

    kind: str
    name: str
    build: Callable[[Path], list[str]]
    codes: tuple[int, ...] = REFUSED
    says: str = ""
    within_s: float = 60


def every_case(mutants: int) -> list[Case]:
    """All cases, in order."""
    return [
        *files(),
        *names(),
        *bombs(),
        *engines(),
        *records(),
        *selections(),
        *outputs(),
        *(mutant(seed) for seed in range(mutants)),
    ]


def files() -> list[Case]:
    """Files, encodings, graphs, tensors, external data, images and arrays."""
    cases = []
    for name, build in CASES.items():

        def complete(folder: Path, build: Callable[[Path], list[str]] = build) -> list[str]:
            arguments = build(folder)
            return arguments + (
                ["-i", "random", "-o", "out"] if arguments[0] == "features" and "-i" not in arguments else []
            )

        cases.append(Case("files", name, complete))
    return cases


def names() -> list[Case]:
    """Names that would escape, wherever a model has names."""
    cases = []
    for index, name in enumerate(EVIL_NAMES):
        if "\udce9" in name:  # no protobuf holds it
            continue
        for command in (
            ["inspect", "m.onnx"],
            ["weights", "m.onnx", "-o", "out"],
            ["features", "m.onnx", "-i", "random", "-o", "out"],
            ["diff", "m.onnx", "m.onnx", "--format", "md"],
            ["report", "m.onnx", "-i", "random", "-o", "out.html"],
            ["extract", "m.onnx", "-s", "op:*", "-i", "random", "-o", "out"],
        ):

            def build(folder: Path, name: str = name, command: list[str] = command) -> list[str]:
                onnx.save(named(name), folder / "m.onnx")
                return command

            cases.append(Case("names", f"{command[0]} of name {index}", build, DONE))
    return cases


def bombs() -> list[Case]:
    """Models whose arithmetic tells that they do not fit."""
    cases = []
    for name, (proto, _) in BOMBS.items():
        for command in (
            ["stats", "m.onnx", "-o", "out"],
            ["features", "m.onnx", "-o", "out"],
            ["diff", "m.onnx", "m.onnx"],
        ):

            def build(folder: Path, proto: onnx.ModelProto = proto, command: list[str] = command) -> list[str]:
                onnx.save(proto, folder / "m.onnx")
                return [*command, "-i", "random", "-s", "value:*"]

            cases.append(Case("bombs", f"{command[0]} of {name}", build, says="would make"))
    return cases


def model_case(kind: str, name: str, text: str, *options: str, **expected: object) -> Case:
    """`stats` of a model that is written as text."""

    def build(folder: Path) -> list[str]:
        onnx.save(onnx.parser.parse_model(f"{OPSET} {text}"), folder / "m.onnx")
        return ["stats", "m.onnx", "-i", "random", "-s", "value:*", "-o", "out", *options]

    return Case(kind, name, build, **expected)


def engines() -> list[Case]:
    """Models that hang onnxruntime, fill its memory or crash it."""
    endless = "<int64 count = {1099511627776}, bool yes = {1}, float[1] one = {1}>"
    loop = f"""g (float[1] x) => (float[1] y) {endless} {{
        y = Loop(count, yes, x) <body = b (int64 i, bool c, float[1] v) => (bool d, float[1] w) {{
            d = Identity(c)  w = Add(v, one) }}> }}"""
    growing = f"""g (float[1] x) => (float[N] y) {endless} {{
        y = Loop(count, yes, x) <body = b (int64 i, bool c, float[M] v) => (bool d, float[K] w) {{
            d = Identity(c)  w = Concat<axis = 0>(v, v) }}> }}"""
    scanning = f"""g (float[1] x) => (float[N, 1] y) {endless} {{
        last, y = Loop(count, yes, x) <body = b (int64 i, bool c, float[1] v) => (bool d, float[1] w, float[1] s) {{
            d = Identity(c)  w = Identity(v)  s = Add(v, one) }}> }}"""
    cases = [
        model_case("engine", "a loop without end", loop, "--timeout", "4", says="stopped after 4 s"),
        model_case("engine", "a loop that doubles", growing, "--memory-limit", "1G"),
        model_case("engine", "a loop that gathers", scanning, "--memory-limit", "1G", "--timeout", "20"),
    ]
    for name, (nodes, kind, shape, stored) in crashers().items():

        def build(
            folder: Path, nodes: object = nodes, kind: int = kind, shape: object = shape, stored: object = stored
        ) -> list[str]:
            graph = helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("x", kind, shape)],
                [helper.make_tensor_value_info("y", kind, None)],
                [numpy_helper.from_array(array, name) for name, array in stored.items()],
            )
            proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
            onnx.save(proto, folder / "m.onnx")
            return ["stats", "m.onnx", "-i", "random", "-s", "value:*", "-o", "out"]

        cases.append(Case("engine", name, build, ANSWERED))
    return cases


def crashers() -> dict[str, tuple[object, ...]]:
    """Nodes on which some onnxruntime has crashed, or that look like such."""
    ones = np.ones(4, np.float32)

    def node(operator: str, inputs: str, outputs: list[str], **attributes: object) -> list[onnx.NodeProto]:
        return [helper.make_node(operator, inputs.split(), outputs, **attributes)]

    half = {"w": np.ones((1, 16, 3), np.float16), "r": np.ones((1, 16, 4), np.float16)}
    norm = {"s": ones}
    return {
        "training without names": (
            node("BatchNormalization", "x s s s s", ["y", "", ""], training_mode=1),
            1,
            [2, 4],
            norm,
        ),
        "training": (node("BatchNormalization", "x s s s s", ["y"], training_mode=1), 1, [2, 4], norm),
        "a long scale": (node("LayerNormalization", "x s", ["y"]), 1, [2, 4], {"s": np.ones(4096, np.float32)}),
        "an empty scale": (node("LayerNormalization", "x s", ["y"]), 1, [2, 4], {"s": np.ones(0, np.float32)}),
        "an axis outside": (node("LayerNormalization", "x s", ["y"], axis=-5), 1, [2, 4], norm),
        "nothing to normalize": (node("LayerNormalization", "x s", ["y"]), 1, [2, 0], {"s": np.ones(0, np.float32)}),
        "a half precision LSTM": (node("LSTM", "x w r", ["y"], hidden_size=4), 10, [5, 2, 3], half),
        "an LSTM without steps": (node("LSTM", "x w r", ["y"], hidden_size=4), 10, [0, 2, 3], half),
        "an LSTM of another size": (node("LSTM", "x w r", ["y"], hidden_size=400), 10, [5, 2, 3], half),
        "a Split without names": (node("Split", "x", ["", "y"], axis=1), 1, [2, 4], {}),
        "a pool of nothing": (node("MaxPool", "x", ["y"], kernel_shape=[9, 9]), 1, [1, 1, 4, 4], {}),
        "a kernel of nothing": (node("Conv", "x w", ["y"]), 1, [1, 1, 4, 4], {"w": np.ones((1, 1, 0, 0), np.float32)}),
        "no groups": (node("Conv", "x w", ["y"], group=0), 1, [1, 1, 4, 4], {"w": np.ones((1, 1, 1, 1), np.float32)}),
        "a stride of 0": (node("MaxPool", "x", ["y"], kernel_shape=[1, 1], strides=[0, 0]), 1, [1, 1, 4, 4], {}),
        "indices outside": (node("Gather", "x k", ["y"]), 1, [2, 4], {"k": np.array([1 << 40])}),
        "a negative Tile": (node("Tile", "x k", ["y"]), 1, [2, 4], {"k": np.array([-1, 2])}),
        "a negative Pad": (node("Pad", "x k", ["y"]), 1, [2, 4], {"k": np.array([-9, 0, 0, 0])}),
        "a Reshape of another size": (node("Reshape", "x k", ["y"]), 1, [2, 4], {"k": np.array([3, -1])}),
        "a division by 0": (node("Mod", "k z", ["y"]), 1, [2, 4], {"k": np.array([1]), "z": np.array([0])}),
        "the least by -1": (
            node("Div", "k z", ["y"]),
            1,
            [2, 4],
            {"k": np.array([-(2**63)]), "z": np.array([-1])},
        ),
        "TopK of too many": (node("TopK", "x k", ["y", "i"]), 1, [2, 4], {"k": np.array([1 << 40])}),
        "an Einsum without sense": (node("Einsum", "x", ["y"], equation="ij,jk->...zz"), 1, [2, 4], {}),
        "a long Einsum": (node("Einsum", "x", ["y"], equation="ij->" + "i" * 10_000), 1, [2, 4], {}),
        "a Cast to nothing": (node("Cast", "x", ["y"], to=99), 1, [2, 4], {}),
    }


RECORDS: dict[str, str | bytes] = {
    "nothing": "",
    "a list": "[]",
    "a number": "1e999",
    "NaN": '{"schema": "onnxscope.baseline/1", "samples": NaN}',
    "deep": "[" * 100_000,
    "a deep object": '{"a":' * 50_000,
    "a key twice": '{"schema": "onnxscope.baseline/1", "schema": "x"}',
    "no UTF-8": b'{"schema": "\xff"}',
    "NUL": b"\0" * 1000,
    "another schema": '{"schema": "onnxscope.weights/1"}',
    "a newer schema": '{"schema": "onnxscope.baseline/999"}',
    "an old schema alone": '{"schema": "onnxscope.baseline/1"}',
    "a profile alone": '{"schema": "onnxscope.profile/1"}',
    "a large number": '{"schema": "onnxscope.baseline/1", "samples": ' + "9" * 5000 + "}",
    "a schema that is a command": '{"schema": "::error::x\\n##vso[task.complete]"}',
    "a schema that is long": '{"schema": "' + "x" * 100_000 + '"}',
}


def records() -> list[Case]:
    """Baselines, profiles, recipes and settings that are none."""
    cases = []
    for name, content in RECORDS.items():

        def write(folder: Path, content: str | bytes = content) -> None:
            (folder / "r.json").write_bytes(content if isinstance(content, bytes) else content.encode())

        def check(folder: Path, write: Callable[[Path], None] = write) -> list[str]:
            write(folder)
            return ["check", str(DIGITS), "--baseline", "r.json"]

        def resume(folder: Path, write: Callable[[Path], None] = write) -> list[str]:
            write(folder)
            (folder / "r.json").rename(folder / "out.partial")
            return ["stats", str(DIGITS), "-i", str(IMAGES), "-o", "out", "--resume"]

        def recipe(folder: Path, write: Callable[[Path], None] = write) -> list[str]:
            write(folder)
            return ["features", str(DIGITS), "-i", str(picture(folder)), "--preprocess", "r.json", "-o", "out"]

        def settings(folder: Path, write: Callable[[Path], None] = write) -> list[str]:
            write(folder)
            return ["check", str(DIGITS), "--baseline", "r.json", "--config", "r.json"]

        cases += [
            Case("records", f"a baseline: {name}", check),
            Case("records", f"a profile to go on from: {name}", resume, ANSWERED),
            Case("records", f"a recipe: {name}", recipe),
            Case("records", f"settings: {name}", settings),
        ]
    return cases


def picture(folder: Path) -> Path:
    """A small picture."""
    from PIL import Image

    path = folder / "photo.png"
    Image.new("L", (8, 8)).save(path)
    return path


def selections() -> list[Case]:
    """Selectors and other arguments."""
    selectors = {
        "a range without end": "re:[",
        "a pattern that is long": "re:" + "(" * 5000,
        "a glob of stars": "*a" * 500,
        "nothing": "",
        "an exclamation mark": "!",
        "a command": "::error::x\n##vso[y]",
        "escapes": "\x1b[31mred",
        "a long name": "x" * 100_000,
        "a rank that is none": "rank:many",
        "a prefix alone": "op:",
    }
    cases = [
        Case(
            "selectors", f"{command}: {name}", lambda _, command=command, text=text: [command, str(DIGITS), "-s", text]
        )
        for name, text in selectors.items()
        for command in ("inspect", "weights")
    ]
    arguments = {
        "a size that is none": ["--memory-limit", "much"],
        "too small a limit": ["--memory-limit", "1K"],
        "a time that is none": ["--timeout", "nan"],
        "no time": ["--timeout", "0"],
        "a format that is none": ["--format", "xml"],
        "no nodes": ["--max-nodes", "0"],
        "too few nodes": ["--max-nodes", "1"],
        "an option that is none": ["--\x1b[31mred"],
    }
    cases += [
        Case("arguments", name, lambda _, more=more: ["inspect", str(DIGITS), *more])
        for name, more in arguments.items()
    ]
    return cases


def outputs() -> list[Case]:
    """Places that cannot be written to, or must not be."""

    def linked(command: list[str], target: str) -> Callable[[Path], list[str]]:
        def build(folder: Path) -> list[str]:
            (folder / "precious").write_text("")
            (folder / "there").symlink_to(target)
            return command

        return build

    def taken(command: list[str]) -> Callable[[Path], list[str]]:
        def build(folder: Path) -> list[str]:
            (folder / "there").write_text("mine")
            (folder / "here").mkdir()
            (folder / "here" / command[0]).with_suffix(".json").write_text("mine")
            os.mkfifo(folder / "fifo")
            return command

        return build

    model, given = str(DIGITS), ["-i", "random"]
    cases = []
    for command in (
        ["stats", model, *given],
        ["snapshot", model],
        ["report", model, *given],
        ["features", model, *given],
        ["weights", model],
        ["extract", model, "-s", "stem.0"],
    ):
        name = command[0]
        places = ["there", "fifo", "/dev/full", "/dev/null", "/proc/1/x", "x" * 300, "there/deeper"]
        cases += [Case("outputs", f"{name} to {place[:20]}", taken([*command, "-o", place])) for place in places]
        if name in ("features", "weights", "extract"):
            cases.append(Case("outputs", f"{name} to a folder with a file of theirs", taken([*command, "-o", "here"])))
        else:
            targets = {"a file": "precious", "nothing": "nowhere", "itself": "there"}
            cases += [
                Case("outputs", f"{name} to a link to {what}", linked([*command, "-o", "there"], target))
                for what, target in targets.items()
            ]
    return cases


def mutant(seed: int) -> Case:
    """A model of which some bytes are others."""

    def build(folder: Path) -> list[str]:
        model = network()
        (folder / "m.onnx").write_bytes(mutate(model.SerializeToString(), random.Random(seed)))
        return ["stats", "m.onnx", "-i", "random", "-s", "value:*", "-o", "out", "--timeout", "30"]

    return Case("mutants", f"{seed}", build, ANSWERED)


# ---- running


def contents(folder: Path) -> set[str]:
    """What is in a folder, but for what a command was told to write."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in paths if path.parts[0] not in OUTPUTS}


def started(arguments: list[str], folder: Path, temporary: Path) -> int:
    """Start a command as its users do, but that everything is imported already; returns the process."""
    process = os.fork()
    if process:
        return process
    os.setsid()
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(temporary.parent / name, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    sys.stdout, sys.stderr = (open(descriptor, "w", closefd=False) for descriptor in (1, 2))  # noqa: SIM115
    try:
        main(arguments)
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    os._exit(99)


def wait_for(process: int, within_s: float) -> tuple[int, int]:
    """The exit code of a process, -9 where it had to be killed, and the memory that it and its children had."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss << 10
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return -9, 0


def faults_of(case: Case) -> list[str]:
    """Run a case: what is not as it should be."""
    with tempfile.TemporaryDirectory() as place:
        folder, temporary = Path(place, "work"), Path(place, "temporary")
        folder.mkdir()
        temporary.mkdir()
        arguments = case.build(folder)
        before = contents(folder)
        code, size = wait_for(started(arguments, folder, temporary), case.within_s)
        out, err = (Path(place, name).read_text(errors="replace") for name in ("stdout", "stderr"))
        faults = []
        if code not in case.codes:
            faults.append(f"exit code {code}, not {' or '.join(map(str, case.codes))}")
        if "Traceback" in out + err or "unexpected" in err:
            faults.append("a traceback")
        if not all(c.isprintable() or c == "\n" for c in out + err) or commands_of_ci(out + err):
            faults.append("words that a terminal or CI acts upon")
        errors = [line for line in err.splitlines() if line.startswith(("onnxscope: error: ", "hint: "))]
        if code == 2:
            if not errors or not errors[0].startswith("onnxscope: error: ") or len(errors) > 2 or len(errors[0]) > 300:
                faults.append("not one line")
            elif case.says not in errors[0]:
                faults.append(f"no word of {case.says!r}")
            if any((folder / name).exists() for name in OUTPUTS[:2]):
                faults.append("something was written")
        if contents(folder) != before:
            faults.append("a file outside")
        if any(temporary.iterdir()):
            faults.append("a temporary file")
        if size > MAX_BYTES:
            faults.append(f"{size / (1 << 30):.1f} GB")
        return faults and [*faults, (errors or err.splitlines() or [""])[0][:200]]


def run_all(cases: list[Case], workers: int) -> int:
    """Run cases, a few at a time; print what is not as expected, and how many are."""
    start = time.monotonic()
    wrong = 0
    counts: dict[str, list[int]] = {}
    with ThreadPoolExecutor(workers) as pool:
        for case, faults in zip(cases, pool.map(faults_of, cases), strict=True):
            count = counts.setdefault(case.kind, [0, 0])
            count[0] += not faults
            count[1] += 1
            if faults:
                wrong += 1
                print(f"{case.kind}, {case.name}: {'; '.join(faults)}".encode("unicode_escape").decode(), flush=True)
    for kind, (right, of) in counts.items():
        print(f"{kind}: {right} of {of} as expected")
    print(f"{len(cases) - wrong} of {len(cases)} cases as expected, in {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


def run() -> int:
    """Read the arguments, and run the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose kind and name hold this text")
    parser.add_argument("--mutants", type=int, default=50, help="how many models of which some bytes are others")
    given = parser.parse_args()
    cases = [case for case in every_case(given.mutants) if given.only in f"{case.kind}, {case.name}"]
    return run_all(cases, os.cpu_count() or 1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(run())
