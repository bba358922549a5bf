"""What a process of its own costs a command: time, and memory of both processes together.

python -m benchmarks.isolation [--runs 15] [--samples 256]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from onnxscope import convert
from onnxscope.base.limits import memory_bytes
from onnxscope.base.tables import Table

DIGITS = Path(__file__).resolve().parents[1] / "fixtures" / "digits.onnx"


def measure(arguments: list[str], isolation: str) -> tuple[float, float, float]:
    """Seconds that a command takes, those of processors, and the most MB of anonymous memory of all its processes."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "onnxscope", *arguments, "--isolation", isolation]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        largest = 0
        while process.poll() is None:
            largest = max(largest, memory_bytes(process.pid))
            time.sleep(0.005)
    seconds = time.perf_counter() - start
    assert process.returncode == 0, command
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, busy, largest / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--samples", type=int, default=256, help="of `stats` on ResNet50; 0 leaves it out")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits, output = str(DIGITS), str(folder / "p.json")
        subjects = {
            "inspect digits": (["inspect", digits], given.runs),
            "weights digits": (["weights", digits], given.runs),
            "stats digits": (["stats", digits, "-i", "random", "-o", output], given.runs),
        }
        if given.samples:
            convert("torch", "resnet50", folder / "resnet50.onnx")
            images = np.random.default_rng(0).normal(size=(given.samples, 3, 224, 224)).astype(np.float32)
            np.save(folder / "x.npy", images)
            arguments = ["stats", str(folder / "resnet50.onnx"), "-i", str(folder / "x.npy"), "-o", output]
            subjects[f"stats resnet50, {given.samples} samples"] = (arguments, 5)
        for what, (arguments, runs) in subjects.items():
            taken: dict[str, list[tuple[float, float, float]]] = {"none": [], "process": []}
            for _ in range(runs):  # one after the other, so that both meet the same machine
                for isolation, measured in taken.items():
                    measured.append(measure(arguments, isolation))
            alone, both = (
                [statistics.median(numbers) for numbers in zip(*measured, strict=True)] for measured in taken.values()
            )
            costs = [1000 * (there - here) for here, there in zip(alone[:2], both[:2], strict=True)]
            rows.append((what, alone[0], *costs, 100 * (both[0] / alone[0] - 1), alone[2], both[2]))
            print(f"{what}: done", file=sys.stderr)
    columns = ("command", "s", "cost ms", "of processors", "%", "MB", "MB of both")
    title = "aims: under 60 ms a command, under 3 % of `stats` on ResNet50, memory of both 1.1x"
    print(Table(title, columns, tuple(rows)).text())


if __name__ == "__main__":
    main()
