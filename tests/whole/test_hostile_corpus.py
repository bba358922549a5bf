"""`make hostile` runs, and says so where something does not come out as expected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PLANTED = """
import os, hostile
def writing(folder):
    hostile.main = lambda arguments: (open(folder / 'elsewhere', 'w').close(), os._exit(0))
    return []
def talking(folder):
    hostile.main = lambda arguments: (os.write(1, b'::error::x'), os._exit(0))
    return []
def failing(folder):
    hostile.main = lambda arguments: 1 / 0
    return []
def silent(folder):
    hostile.main = lambda arguments: os._exit(2)
    return []
for build, codes in (
    (lambda folder: ['doctor'], hostile.DONE),
    (lambda folder: ['doctor'], hostile.REFUSED),
    (lambda folder: ['inspect', 'nowhere.onnx'], hostile.REFUSED),
    (writing, hostile.DONE),
    (talking, hostile.DONE),
    (failing, hostile.REFUSED),
    (silent, hostile.REFUSED),
):
    print(hostile.faults_of(hostile.Case('planted', 'planted', build, codes)))
print(len(hostile.every_case(0)))
"""


def run_python(*arguments: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    return done.stdout.splitlines() + done.stderr.splitlines()


def test_faults_that_are_planted_are_found() -> None:
    done, refused, nowhere, writing, talking, failing, silent, count = run_python("-c", PLANTED)
    assert done == nowhere == "[]"
    assert "exit code 0, not 2" in refused
    assert "a file outside" in writing
    assert "words that a terminal or CI acts upon" in talking
    assert "a traceback" in failing
    assert "not one line" in silent
    assert int(count) >= 250


def test_a_part_of_the_corpus_comes_out_as_expected() -> None:
    lines = run_python(str(TESTS / "hostile.py"), "--only", "engine, a loop", "--mutants", "0")
    assert lines[-1].startswith("3 of 3 cases as expected, in "), lines
