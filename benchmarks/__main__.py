"""Measure and print one table: each row a ratio, taken in pairs in one run; the median is shown.

python -m benchmarks [--pairs 3]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

import onnxscope
from onnxscope.base.tables import Table

PHOTOGRAPH = str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
COMMAND = [sys.executable, "-m", "onnxscope"]


@dataclass(frozen=True)
class Row:
    """One measured ratio.

    Attributes:
        what: What was compared with what.
        ours_s: Median time of ours, in seconds.
        other_s: Median time of the other, in seconds.
        ratio: Median over the pairs of the other's time by ours, or ours by the other's where smaller is better.
        aim: As the design states it.
    """

    what: str
    ours_s: float
    other_s: float
    ratio: float
    aim: str


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes; what it prints is thrown away."""
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


def compare(what: str, ours: Callable[[], Any], other: Callable[[], Any], aim: str, pairs: int, *, slower: bool) -> Row:
    """Time both in turn; `slower` says that the aim bounds how much longer ours may take."""
    ours()  # warm the file cache and the imports
    mine, theirs = [], []
    for _ in range(pairs):
        mine.append(timed(ours))
        theirs.append(timed(other))
    ratios = [a / b if slower else b / a for a, b in zip(mine, theirs, strict=True)]
    row = Row(what, statistics.median(mine), statistics.median(theirs), statistics.median(ratios), aim)
    print(f"{what}: {row.ratio:.3g} (aim {aim})", file=sys.stderr)
    return row


def program(*arguments: str) -> Callable[[], Any]:
    """A whole process, start-up included."""
    return lambda: subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def private_bytes(*arguments: str) -> int:
    """Largest anonymous memory that a command had, sampled from the kernel's account of it."""
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    largest = 0
    while child.poll() is None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    largest = max(largest, int(line.split()[1]) * 1024)
        time.sleep(0.005)
    if child.returncode:
        raise RuntimeError(f"{arguments} ended with {child.returncode}")
    return largest


def big_model(folder: Path) -> Path:
    """A model of 2 GB of weights: 32 matrices of 64 MB in an external file."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    side, count = 4096, 32
    rng = np.random.default_rng(0)
    with open(folder / "big.data", "wb") as stream:
        for _ in range(count):
            stream.write(rng.standard_normal((side, side), np.float32).data)
    tensors, nodes = [], []
    for index in range(count):
        tensor = TensorProto(name=f"layer{index}.weight", data_type=TensorProto.FLOAT, dims=[side, side])
        tensor.data_location = TensorProto.EXTERNAL
        length = side * side * 4
        for key, value in (("location", "big.data"), ("offset", index * length), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        source = f"h{index - 1}" if index else "x"
        nodes.append(helper.make_node("MatMul", [source, tensor.name], [f"h{index}"]))
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", side])],
        [helper.make_tensor_value_info(f"h{count - 1}", TensorProto.FLOAT, ["batch", side])],
        tensors,
    )
    path = folder / "big.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def chain(folder: Path, nodes: int) -> Path:
    """A model of many small nodes."""
    from onnx import TensorProto, helper, save

    steps = [helper.make_node("Relu", [f"h{index}"], [f"h{index + 1}"], name=f"relu{index}") for index in range(nodes)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("h0", f"h{nodes}")]
    graph = helper.make_graph(steps, "chain", ends[:1], ends[1:])
    path = folder / f"chain{nodes}.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def measure(folder: Path, pairs: int) -> list[Row]:
    """Run every comparison; models and results go into `folder`."""
    import numpy as np
    import torch

    from benchmarks import tutorial
    from onnxscope_torch.networks import resnet50

    model = folder / "resnet50.onnx"
    onnxscope.convert("torch", "resnet50", model)
    drawn = folder / "tutorial"
    drawn.mkdir()
    torch.manual_seed(0)
    parameters = resnet50().state_dict()

    def our_weights() -> None:
        loaded = onnxscope.load_model(model)
        onnxscope.save_weights(onnxscope.weights(loaded), loaded, folder / "w")

    maps = onnxscope.features(str(model), PHOTOGRAPH, at="pre")
    arrays = {tap.tap.layer: np.ascontiguousarray(tap.data[0]) for tap in maps}

    rows = [
        compare(
            "weights with histograms, in process: tutorial / ours",
            our_weights,
            lambda: tutorial.draw_weights(parameters, drawn),
            "60",
            pairs,
            slower=False,
        ),
        compare(
            "weights with histograms, whole command: tutorial / ours",
            program(*COMMAND, "weights", str(model), "-o", str(folder / "w")),
            program(sys.executable, "-m", "benchmarks.tutorial", "weights", str(drawn)),
            "30",
            pairs,
            slower=False,
        ),
        compare(
            "pictures of 53 layers, in process: subplots / ours",
            lambda: onnxscope.save_features(maps, folder / "f"),
            lambda: tutorial.draw_pictures(arrays, drawn),
            "100",
            pairs,
            slower=False,
        ),
        compare(
            "pictures of 53 layers, whole command: hooks and subplots / ours",
            program(*COMMAND, "features", str(model), "-i", PHOTOGRAPH, "-o", str(folder / "f"), "--at", "pre"),
            program(sys.executable, "-m", "benchmarks.tutorial", "pictures", str(drawn), PHOTOGRAPH),
            "20",
            pairs,
            slower=False,
        ),
        compare(
            "--help / python -c pass (aim: 100 ms)",
            program(*COMMAND, "--help"),
            program(sys.executable, "-c", "pass"),
            "100 ms",
            5 * pairs,
            slower=True,
        ),
        compare(
            "inspect ResNet50 / python -c 'import onnx'",
            program(*COMMAND, "inspect", str(model)),
            program(sys.executable, "-c", "import onnx"),
            "1.7",
            5 * pairs,
            slower=True,
        ),
    ]
    small, large = (chain(folder, nodes) for nodes in (10_000, 100_000))
    rows.append(
        compare(
            "inspect 100,000 nodes / 10,000 nodes",
            lambda: onnxscope.inspect(large),
            lambda: onnxscope.inspect(small),
            "10 (linear)",
            pairs,
            slower=True,
        )
    )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.setdefault("MPLBACKEND", "Agg")
    with tempfile.TemporaryDirectory(prefix="onnxscope-bench-") as name:
        folder = Path(name)
        rows = measure(folder, pairs)
        anonymous = private_bytes(*COMMAND, "weights", str(big_model(folder)))
    cells = tuple((row.what, row.ours_s, row.other_s, row.ratio, row.aim) for row in rows)
    print(Table("", ("what", "ours (s)", "other (s)", "ratio", "aim"), cells).text(max_cell=100))
    print(f"weights of a 2 GB model: {anonymous / 1e6:.0f} MB that are not file-backed (aim: under 300 MB)")


if __name__ == "__main__":
    main()
