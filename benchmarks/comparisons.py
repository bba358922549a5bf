"""Comparing two models, and running both: each way in a process of its own.

python -m benchmarks.comparisons [--pairs 3]    the tables: a run in the steady state, and whole processes
python -m benchmarks.comparisons run WAY A B    one way, printing the seconds of a run and its peak memory
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxscope.base.tables import Table

BATCH = 4
RUNS = 7
NOISE = 1e-4
WAYS = {"plain": "two plain sessions", "entire": "merged, entire errors", "own": "merged, own errors too"}
AIMS = {"plain": "", "entire": "1.15x, 1.5x", "own": "1.8x, 1.5x"}
WHOLE_BATCH = 16
PLAIN = """
import sys, numpy, onnxruntime
sessions = [onnxruntime.InferenceSession(path) for path in sys.argv[1:3]]
images = numpy.load(sys.argv[3])
for session in sessions:
    session.run(None, {session.get_inputs()[0].name: images})
"""
DIFF = f"""
import sys, onnxscope
onnxscope.diff(*sys.argv[1:4], batch_size={WHOLE_BATCH})
"""
REPORT = """
import sys, onnxscope
a, b, images = sys.argv[1:4]
onnxscope.report(a, images, against=b)
"""
ENCODERS = f"""
import sys, numpy, torch
from onnxruntime.quantization import quantize_dynamic
torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True, norm_first=True)
network = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
for values in network.parameters():  # which are the first block's until now
    torch.nn.init.normal_(values, 1.0 if values.dim() == 1 else 0.0, 0.02)
x = torch.randn({WHOLE_BATCH}, 64, 512)
options = dict(input_names=["x"], dynamo=False, dynamic_axes=dict(x=dict([(0, "batch")])), opset_version=17)
torch.onnx.export(network, (x,), sys.argv[1], **options)
quantize_dynamic(sys.argv[1], sys.argv[2])
numpy.save(sys.argv[3], x.numpy())
"""
PROGRAMS = {
    "two plain runs, whole process": (PLAIN, ""),
    "diff, whole process, one batch of 16 with noise floor": (DIFF, "3x, 1.6x"),
    "report --against, whole process, pictures of six samples": (REPORT, ""),
}


def plain(a: str, b: str, images: np.ndarray[Any, Any]) -> Callable[[], Any]:
    """Two ordinary sessions, one after the other."""
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(path) for path in (a, b)]
    name = sessions[0].get_inputs()[0].name
    return lambda: [session.run(None, {name: images}) for session in sessions]


def merged(a: str, b: str, images: np.ndarray[Any, Any], *, own: bool) -> Callable[[], Any]:
    """The graph that `diff()` runs on every batch, with or without its own errors."""
    from onnxscope.comparison.merged_graph import merge_models
    from onnxscope.model.channel_axes import default_axis
    from onnxscope.model.loading import load_model
    from onnxscope.pairing.match_values import match_inputs, match_values
    from onnxscope.runtime.session import Session
    from onnxscope.runtime.tap_outputs import expose
    from onnxscope.runtime.tapped_runs import TapShapes
    from onnxscope.selection.selectors import Tap

    models = [load_model(path) for path in (a, b)]
    values = [layer.value for layer in models[0].layers]
    taps = [Tap(value, value, (), value, "", None, None, (0,)) for value in values]
    shapes = TapShapes(models[0], taps).of({models[0].inputs[0].name: images})
    counterparts = []
    for tap, shape in shapes.items():
        axes = (default_axis(len(shape), 1),) * 2
        pair = match_values(tap.value, tap.value, (shape, shape), ("float32", "float32"), axes, replaced=True)
        assert pair is not None
        counterparts.append(pair)
    protos = [expose(model, taps).proto for model in models]
    fed, _ = match_inputs(models[0].inputs, models[1].inputs)
    made = merge_models(models[0], protos[0], models[1], protos[1], counterparts, fed, tolerance=None)
    if not own:
        _cut(made.proto.graph, {output for each in made.outputs for key, output in each.items() if "own" not in key})
    session = Session(made.proto, folder=made.folder, where="merged", plan_memory=False)
    return lambda: session.run({f"a:{models[0].inputs[0].name}": images})


def _cut(graph: Any, wanted: set[str]) -> None:
    """Leave only these outputs, and the nodes that they need."""
    outputs = [value for value in graph.output if value.name in wanted]
    nodes = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
    for field, kept in ((graph.output, outputs), (graph.node, nodes[::-1])):
        copies = [type(each).FromString(each.SerializeToString()) for each in kept]
        del field[:]
        field.extend(copies)


def run_way(way: str, a: str, b: str) -> None:
    """Run one way here and print what it took."""
    images = np.random.default_rng(0).standard_normal((BATCH, 3, 224, 224), np.float32)
    run = plain(a, b, images) if way == "plain" else merged(a, b, images, own=way == "own")
    run()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": statistics.median(seconds), "peak_mib": peak}))


def measured(way: str, a: Path, b: Path) -> tuple[float, float]:
    """Seconds of a run and peak memory of one way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.comparisons", "run", way, str(a), str(b)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["peak_mib"]


def whole_process(program: str, a: Path, b: Path, images: Path) -> tuple[float, float]:
    """Seconds and peak memory of a Python program, from its start to its end."""
    # An installed package is compiled; where the environment forbids that, a checkout would be compiled in every run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, str(a), str(b), str(images)], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the process has failed: {program}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def models(folder: Path) -> tuple[Path, Path, Path]:
    """ResNet50 as deployed, a copy with noise in every weight, and the faithful export."""
    import onnx

    import onnxscope

    first, second, faithful = (folder / f"{name}.onnx" for name in ("resnet50", "noisy", "faithful"))
    onnxscope.convert("torch", "resnet50", first, mode="deployed")
    onnxscope.convert("torch", "resnet50", faithful)
    model, rng = onnx.load(first), np.random.default_rng(1)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            noise = 1 + NOISE * rng.standard_normal(values.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array((values * noise).astype(np.float32), tensor.name))
    onnx.save(model, second)
    return first, second, faithful


def encoders(folder: Path) -> tuple[Path, Path, Path]:
    """A transformer encoder of six layers, 512 wide, as it is exported; its dynamically quantized copy; and data."""
    paths = folder / "encoder.onnx", folder / "int8.onnx", folder / "tokens.npy"
    # A process of its own: what one has used before it starts another one counts as the other's peak.
    subprocess.run([sys.executable, "-W", "ignore", "-c", ENCODERS, *map(str, paths)], check=True, capture_output=True)
    return paths


def encoder_table(a: Path, b: Path, data: Path, pairs: int) -> Table:
    """Whole processes: a float transformer against its int8 copy."""
    title = f"A transformer encoder (6 layers, 512 wide) against its dynamic int8 copy, one batch of {WHOLE_BATCH}"
    programs = {way: program for way, (program, _) in list(PROGRAMS.items())[:2]}
    aims = dict(zip(programs, ("", "3x"), strict=True))
    ways = {way: (partial(whole_process, program, a, b, data), aims[way]) for way, program in programs.items()}
    return compared(title, ways, pairs)


def table(a: Path, b: Path, pairs: int) -> Table:
    """The steady state: medians, and ratios to the two plain sessions, taken in turn."""
    title = f"ResNet50 as deployed against a copy with noise of {NOISE:g} in every weight, batches of {BATCH}"
    return compared(title, {WAYS[way]: (partial(measured, way, a, b), AIMS[way]) for way in WAYS}, pairs)


def whole_table(a: Path, b: Path, images: Path, pairs: int) -> Table:
    """Whole processes: the same."""
    title = f"ResNet50, the faithful export against the deployed one, one batch of {WHOLE_BATCH}"
    ways = {way: (partial(whole_process, program, a, b, images), aim) for way, (program, aim) in PROGRAMS.items()}
    return compared(title, ways, pairs)


def compared(title: str, ways: Mapping[str, tuple[Callable[[], tuple[float, float]], str]], pairs: int) -> Table:
    """Medians of what each way takes, and of its ratios to the first, taken in turn."""
    seen: dict[str, list[tuple[float, float, float, float]]] = {way: [] for way in ways}
    for _ in range(pairs):
        taken = {way: measure() for way, (measure, _) in ways.items()}
        base = next(iter(taken.values()))
        for way, (seconds, peak) in taken.items():
            seen[way].append((seconds, peak, seconds / base[0], peak / base[1]))
            print(f"{way}: {seconds:.3f} s, {peak:.0f} MiB", file=sys.stderr)
    rows = tuple(
        (way, *(statistics.median(column) for column in zip(*seen[way], strict=True)), aim)
        for way, (_, aim) in ways.items()
    )
    return Table(title, ("way", "seconds", "peak MiB", "time / plain", "memory / plain", "aim"), rows)


def main() -> None:
    """Print the table, or run one way."""
    if sys.argv[1:2] == ["run"]:
        run_way(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory(prefix="onnxscope-bench-") as name:
        deployed, noisy, faithful = models(Path(name))
        print(table(deployed, noisy, pairs).text())
        images = Path(name, "images.npy")
        np.save(images, np.random.default_rng(0).standard_normal((WHOLE_BATCH, 3, 224, 224), np.float32))
        print(whole_table(faithful, deployed, images, pairs).text())
        print(encoder_table(*encoders(Path(name)), pairs).text())


if __name__ == "__main__":
    main()
