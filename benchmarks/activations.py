"""Activation statistics over a dataset, and what a user would otherwise do: each way in a process of its own.

python -m benchmarks.activations [--pairs 3]          the tables
python -m benchmarks.activations run WAY MODEL DATA   one way, printing its seconds and peak memory
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onnxscope.base.tables import Table

BATCH = 8
SIDE = 224


def plain(model: str, data: np.ndarray[Any, Any], select: list[str]) -> None:
    """An ordinary session and a loop."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    for start in range(0, len(data), BATCH):
        session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(data[start : start + BATCH])})


def ours(model: str, data: np.ndarray[Any, Any], select: list[str]) -> None:
    """stats(), from loading the model to the last statistic."""
    import onnxscope

    onnxscope.stats(model, data, select=select, batch_size=BATCH)


def _ray(workers: int) -> Callable[..., None]:
    def run(model: str, data: np.ndarray[Any, Any], select: list[str]) -> None:
        import onnxscope

        onnxscope.stats(model, data, select=select, batch_size=BATCH, engine="ray", workers=workers, threads=1)

    return run


def _tapped(model: str, select: list[str]) -> tuple[Any, list[str], bytes]:
    import onnx

    import onnxscope
    from onnxscope.runtime.tap_outputs import expose
    from onnxscope.selection.selectors import select_taps

    taps = select_taps(onnxscope.load_model(model), select, at="post")
    tapped = expose(onnxscope.load_model(onnx.load(model)), taps)
    return tapped, [tap.value for tap in taps], tapped.proto.SerializeToString()


def raw(model: str, data: np.ndarray[Any, Any], select: list[str]) -> None:
    """Every tap as an output, reduced in numpy batch by batch: the best that can be written by hand."""
    import onnxruntime

    _, names, content = _tapped(model, select)
    session = onnxruntime.InferenceSession(content)
    totals: dict[str, Any] = {}
    for start in range(0, len(data), BATCH):
        feeds = {session.get_inputs()[0].name: np.ascontiguousarray(data[start : start + BATCH])}
        for name, value in zip(names, map(np.atleast_1d, session.run(names, feeds)), strict=True):
            axes = (0, *range(2, value.ndim))
            found = (value.min(axes), value.max(axes), value.sum(axes), np.square(value).sum(axes))
            totals[name] = found if name not in totals else [a + b for a, b in zip(totals[name], found, strict=True)]


def polygraphy(model: str, data: np.ndarray[Any, Any], select: list[str]) -> None:
    """What `polygraphy run --onnx-outputs mark all` does; it keeps every tensor of every run."""
    from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator
    from polygraphy.constants import MARK_ALL
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    loader = BytesFromOnnx(ModifyOutputs(OnnxFromPath(model), outputs=MARK_ALL))
    feeds = list(_Reader(model, data))
    Comparator.run([OnnxrtRunner(SessionFromOnnx(loader))], data_loader=feeds)


class _Reader:
    """A calibration data reader over an array."""

    def __init__(self, model: str, data: np.ndarray[Any, Any]) -> None:
        import onnx

        self._name = onnx.load(model, load_external_data=False).graph.input[0].name
        self._batches = (np.ascontiguousarray(data[start : start + BATCH]) for start in range(0, len(data), BATCH))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, Any]:
        batch = self.get_next()
        if batch is None:
            raise StopIteration
        return batch


def collect_activations(model: str, data: np.ndarray[Any, Any], select: list[str]) -> None:
    """onnxruntime's own debugging helper; it keeps every tensor of every run."""
    from onnxruntime.quantization.qdq_loss_debug import collect_activations as collect
    from onnxruntime.quantization.qdq_loss_debug import modify_model_output_intermediate_tensors

    changed = str(Path(model).with_suffix(".debug.onnx"))
    modify_model_output_intermediate_tensors(model, changed)
    collect(changed, _Reader(model, data))


def calibrater(model: str, data: np.ndarray[Any, Any], select: list[str]) -> None:
    """onnxruntime's MinMax calibrater: extremes of whole tensors, nothing else."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    changed = str(Path(model).with_suffix(".calibrate.onnx"))
    made = create_calibrator(model, augmented_model_path=changed, calibrate_method=CalibrationMethod.MinMax)
    made.collect_data(_Reader(model, data))
    made.compute_data()


WAYS: dict[str, Callable[..., None]] = {
    "plain": plain,
    "ours": ours,
    "raw": raw,
    "polygraphy": polygraphy,
    "collect_activations": collect_activations,
    "calibrater": calibrater,
    "ray1": _ray(1),
    "ray2": _ray(2),
}


def run_way(way: str, model: str, data: str, select: list[str]) -> None:
    """Run one way here and print what it took."""
    samples = np.load(data, mmap_mode="r")
    start = time.perf_counter()
    WAYS[way](model, samples, select)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


def measured(way: str, model: Path, data: Path, select: list[str]) -> tuple[float, float]:
    """Seconds and peak memory of one way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.activations", "run", way, str(model), str(data), *select]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["peak_mib"]


def against_plain(ways: list[tuple[str, str, list[str]]], model: Path, data: Path, pairs: int) -> list[tuple[Any, ...]]:
    """Rows of medians and of ratios to the plain loop, taken in turn."""
    seen: dict[str, list[tuple[float, float, float, float]]] = {label: [] for label, _, _ in ways}
    for _ in range(pairs):
        base = measured("plain", model, data, [])
        for label, way, select in ways:
            seconds, peak = measured(way, model, data, select)
            seen[label].append((seconds, peak, seconds / base[0], peak / base[1]))
            print(f"{label}: {seconds:.2f} s, {peak:.0f} MiB", file=sys.stderr)
    return [(label, *(statistics.median(column) for column in zip(*rows, strict=True))) for label, rows in seen.items()]


def tables(folder: Path, pairs: int) -> list[Table]:
    """Measure everything; models and data go into `folder`."""

    import onnxscope

    model = folder / "resnet50.onnx"
    onnxscope.convert("torch", "resnet50", model)
    rng = np.random.default_rng(0)
    data = {}
    for samples in (1, 8, 64, 256):
        data[samples] = folder / f"{samples}.npy"
        np.save(data[samples], rng.standard_normal((samples, 3, SIDE, SIDE), np.float32))
    columns = ("way", "seconds", "peak MiB", "time / plain", "memory / plain")
    made = []
    ways = [
        ("53 convolutions", "ours", []),
        ("every value", "ours", ["*"]),
        ("53 convolutions, raw taps in numpy", "raw", []),
        ("every value, raw taps in numpy", "raw", ["*"]),
        ("Polygraphy, mark all", "polygraphy", []),
        ("collect_activations", "collect_activations", []),
        ("MinMax calibrater", "calibrater", []),
    ]
    for samples in (1, 8, 64):
        rows = against_plain(ways, model, data[samples], 1 if samples == 64 else pairs)
        made.append(Table(f"ResNet50, {samples} samples, start of the session included", columns, tuple(rows)))
    steady = [
        ("1 convolution", "ours", ["conv1"]),
        ("9 convolutions", "ours", ["layer1.*.conv*"]),
        ("53 convolutions", "ours", []),
        ("every value", "ours", ["*"]),
    ]
    rows = against_plain(steady, model, data[256], pairs)
    made.append(Table("ResNet50, 256 samples, by the number of taps", columns, tuple(rows)))
    made += [_workers(model, data[256], pairs), _projection(rows[2][1], measured("ours", model, data[8], [])[0])]
    return made


def _workers(model: Path, data: Path, pairs: int) -> Table:
    """Two Ray workers of one thread each against one, without the start of Ray."""
    ratios = []
    small = data.parent / "8.npy"
    for _ in range(pairs):
        one, two = (measured(way, model, data, [])[0] - measured(way, model, small, [])[0] for way in ("ray1", "ray2"))
        ratios.append(one / two)
    row = ("two workers / one", statistics.median(ratios))
    return Table("Ray, 256 samples less 8: throughput (aim: 1.7)", ("what", "ratio"), (row,))


def _projection(long_s: float, short_s: float) -> Table:
    """A million images, from what 256 and 8 samples took; decoding and the network between machines are left out."""
    sample_s = (long_s - short_s) / (256 - 8)
    rows = tuple((machines, sample_s * 1e6 / machines / 3600) for machines in (1, 4, 16, 64))
    title = f"A million images, at {sample_s * 1000:.1f} ms each as measured here, shards shared evenly"
    return Table(title, ("machines like this one", "hours"), rows)


def main() -> None:
    """Print the tables, or run one way."""
    if sys.argv[1:2] == ["run"]:
        run_way(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory(prefix="onnxscope-bench-") as name:
        for table in tables(Path(name), pairs):
            print(table.text())


if __name__ == "__main__":
    main()
