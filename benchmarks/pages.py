"""The pages of `report`: how long one takes to make, how large it is, how soon a browser shows it and answers.

python -m benchmarks.pages [--runs 5]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxscope import convert, report
from onnxscope.base.tables import Table

PHOTOGRAPH = str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def deep(path: Path, layers: int = 1000, channels: int = 16, side: int = 28) -> None:
    """Store a chain of convolutions."""
    rng = np.random.default_rng(0)
    nodes, weights, previous, before = [], [], "image", 3
    for place in range(layers):
        name = f"stage{place // 100}.block{place // 10 % 10}.conv{place % 10}"
        values = rng.normal(0, 0.2, (channels, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name}.weight"))
        nodes.append(helper.make_node("Conv", [previous, f"{name}.weight"], [f"{name}.out"], name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"{name}.out"], [f"{name}.relu"]))
        previous, before = f"{name}.relu", channels
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info(previous, TensorProto.FLOAT, ["N", channels, side, side])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def subjects(folder: Path) -> Iterator[tuple[str, Path, Any]]:
    """What pages are made of: a name, a model, its input."""
    for network in ("alexnet", "resnet50"):
        path = folder / f"{network}.onnx"
        convert("torch", network, path)
        yield network, path, PHOTOGRAPH
    deep(folder / "deep.onnx")
    yield "1,000 layers", folder / "deep.onnx", "random"


def browsing_ms(path: Path, runs: int) -> tuple[float, float]:
    """Median milliseconds until a page's script has run, and until a search has narrowed table and cards."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)))
    loads, searches = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        for _ in range(runs + 1):
            page = browser.new_page()
            page.goto(path.as_uri())
            loads.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            searches.append(
                page.evaluate(
                    """() => {
                        const start = performance.now(), search = document.getElementById("search");
                        search.value = "conv";
                        search.dispatchEvent(new Event("input"));
                        document.body.offsetHeight;
                        return performance.now() - start;
                    }"""
                )
            )
            page.close()
        browser.close()
    return statistics.median(loads[1:]), statistics.median(searches[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, model, inputs in subjects(folder):
            page = folder / f"{model.stem}.html"
            start = time.perf_counter()
            made = report(model, inputs)
            seconds = time.perf_counter() - start
            made.save(page)
            load_ms, search_ms = browsing_ms(page, runs)
            rows.append((what, made.page.layers, page.stat().st_size / 1e6, seconds, load_ms, search_ms))
            print(f"{what}: done", file=sys.stderr)
    columns = ("page of", "layers", "MB", "made in s", "interactive in ms", "search ms")
    print(Table("aims: ResNet50 under 4 MB and interactive within a second", columns, tuple(rows)).text())


if __name__ == "__main__":
    main()
