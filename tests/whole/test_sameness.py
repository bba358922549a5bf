"""The same input gives the same bytes, whatever the hash seed, locale, time zone, threads and workers."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_networks import transformer

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
PROGRAM = """
import contextlib, pathlib, sys
from onnxscope.cli.main import run
for place, command in enumerate(sys.argv[1:]):
    with open(f"{place}.stdout", "w") as out, contextlib.redirect_stdout(out):
        assert run([*command.split(), "--isolation", "none"]) in (0, 1), command
"""
COMMANDS = (
    "inspect {model} --format json",
    "inspect {model} --format md",
    "weights {model} -o w --format json",
    "features {model} -i {data} -o f --arrays --format json",
    "features {model} -i random:3 -o g --format csv",
    "stats {model} -i {data} -o p.json --format json --batch-size 16 --workers {workers}",
    "diff {model} {other} -i {data} --format json",
    "diff {model} {other} --format md",
    "snapshot {model} -i {data} -o b.json",
    "check {other} --baseline b.json -i {data} --format json --junit j.xml --markdown m.md",
    "report {model} -i {data} --against {other} -o r.html --format json",
)
LOCALES = ("C", "C.UTF-8", "POSIX", "tr_TR.UTF-8")
ZONES = ("UTC", "Asia/Tokyo", "America/St_Johns", "Pacific/Kiritimati")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """For a convolutional network and a transformer: the model, a copy that differs, and what both are fed."""
    folder = tmp_path_factory.mktemp("worlds")
    block = transformer()
    np.savez(folder / "transformer.npz", **block.feeds)
    found = {}
    for name, proto, data in (
        ("digits", onnx.load(FIXTURES / "digits.onnx"), FIXTURES / "digits.npz"),
        ("transformer", block.model, folder / "transformer.npz"),
    ):
        model, other = folder / f"{name}.onnx", folder / f"{name}-other.onnx"
        onnx.save(proto, model)
        weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) > 1)
        array = numpy_helper.to_array(weight).copy()
        array.flat[0] += 0.25
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        onnx.save(proto, other)
        given = {"model": model, "other": other, "data": data}
        found[name] = given, bytes_of(folder / name, given, None)
    return found


def bytes_of(folder: Path, given: dict[str, Path], chance: random.Random | None) -> dict[str, str]:
    """Digests of everything that the commands write, in a world that is drawn, or this one."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    workers, before = 1, []
    if chance is not None:
        environment |= {
            "PYTHONHASHSEED": str(chance.randrange(1, 1 << 32)),
            "LC_ALL": chance.choice(LOCALES),
            "TZ": chance.choice(ZONES),
            "COLUMNS": str(chance.randrange(40, 200)),
            "OMP_NUM_THREADS": str(chance.randrange(1, 4)),
        }
        workers = chance.randrange(1, 4)
        if hasattr(os, "sched_setaffinity"):
            core = chance.choice([None, *sorted(os.sched_getaffinity(0))])
            before = [] if core is None else [f"import os; os.sched_setaffinity(0, {{{core}}})"]
    commands = [command.format(**given, workers=workers) for command in COMMANDS]
    arguments = [sys.executable, "-c", "\n".join([*before, PROGRAM]), *commands]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", ["digits", "transformer"])
def test_another_world_gives_the_same_bytes(name, worlds, tmp_path):
    given, first = worlds[name]
    assert len(first) > len(COMMANDS) + 8
    assert bytes_of(tmp_path / "other", given, random.Random(name)) == first


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["digits", "transformer"])
def test_fifty_worlds_give_the_same_bytes(name, worlds, tmp_path):
    given, first = worlds[name]
    for seed in range(50):
        assert bytes_of(tmp_path / str(seed), given, random.Random(seed)) == first, seed


def test_another_input_gives_other_bytes(worlds, tmp_path):
    given, first = worlds["transformer"]
    other = bytes_of(tmp_path / "other", {**given, "model": given["other"]}, None)
    assert sum(first[name] != other[name] for name in first) > 10
