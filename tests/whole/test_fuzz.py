"""What fuzzing has found stays mended, and what breaks a target is found; see tests/fuzz.py."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import fuzz
import numpy as np
import pytest

TESTS = Path(__file__).resolve().parents[1]


def nested() -> bytes:
    """An array whose elements are arrays."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": ("<f4", (2,)), "fortran_order": False, "shape": (3,)})
    return stream.getvalue() + bytes(24)


# What broke a target: the name of a node without an operator is no text; a baseline's inputs are no objects.
REGRESSIONS = {
    "a name that is no text": ("wire", b"\x08\x08:\x08\n\x06\x1a\x01\xff\x32\x01xB\x02\x10\x11"),
    "an Identity of nothing": ("loader", bytes([122, 1, 7, 9, 149])),
    "inputs that are no objects": ("baseline", b"\x01\x03\x00\x00"),
    "elements that are arrays": ("npy", nested()),
}


@pytest.mark.parametrize("what", REGRESSIONS)
def test_what_was_found_stays_mended(what):
    name, data = REGRESSIONS[what]
    fuzz.TARGETS[name](data)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_target_takes_what_it_begins_with(name):
    for data in fuzz.seeds(name):
        fuzz.TARGETS[name](data)


PLANTED = """
import sys
sys.argv[1:] = [{name!r}, "--seconds", "20", "--with", {engine!r}, "--here"]
import fuzz
def planted(data):
    if b"a" in data[:4]:
        raise KeyError("planted")
fuzz.TARGETS[{name!r}] = planted
sys.exit(fuzz.run())
"""


@pytest.mark.parametrize("engine", ["hypothesis", *(["atheris"] if fuzz.HAS_ATHERIS else [])])
def test_what_is_planted_is_found(engine, tmp_path):
    program = PLANTED.format(name="settings", engine=engine)
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "FUZZ_FOUND": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode != 0
    assert "planted" in done.stdout + done.stderr


def test_a_target_that_holds_says_how_much_it_was_given(capsys):
    held, words = fuzz.report_of("settings", 2, 1, "hypothesis")
    assert held, words
    assert int(words.split()[1].replace(",", "")) >= 200
    assert words.endswith("inputs, nothing found")
