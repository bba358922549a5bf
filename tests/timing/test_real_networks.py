"""Networks of a real size: nearly all time is somebody's, the rows are what onnxruntime takes, and so is the peak."""

from __future__ import annotations

import json
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxscope.model.loading import load_model
from onnxscope.timing.time_model import time_feeds


def peak_of_arena(path, feeds, folder) -> int:
    """The peak that a profile of our own says, of the file as it is."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "own")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(4):
        session.run(None, feeds)
    with open(session.end_profiling(), encoding="utf-8") as stream:
        events = json.load(stream)
    return max(int(event["args"]["mem_in_use_peak"]) for event in events if event["cat"] == "Node")


def resnet50(batch: int) -> onnx.ModelProto:
    """ResNet50 with its normalizations apart, of random weights."""
    rng = np.random.default_rng(0)
    nodes, stored = [], []

    def weight(name, *shape, low=0.0):
        values = rng.uniform(0.5, 1.5, shape) if low else rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        stored.append(numpy_helper.from_array(values.astype("float32"), name))
        return name

    def conv(name, x, inputs, outputs, kernel, stride=1, relu=True):
        pads = [kernel // 2] * 4
        kernel_name = weight(f"{name}.weight", outputs, inputs, kernel, kernel)
        nodes.append(helper.make_node("Conv", [x, kernel_name], [f"{name}.c"], name, pads=pads, strides=[stride] * 2))
        norms = [weight(f"{name}.{part}", outputs, low=0.5) for part in ("scale", "shift", "mean", "var")]
        nodes.append(helper.make_node("BatchNormalization", [f"{name}.c", *norms], [f"{name}.n"], f"{name}.norm"))
        if relu:
            nodes.append(helper.make_node("Relu", [f"{name}.n"], [f"{name}.r"], f"{name}.relu"))
        return f"{name}.r" if relu else f"{name}.n"

    x = conv("stem", "x", 3, 64, 7, 2)
    nodes.append(helper.make_node("MaxPool", [x], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, width = "p", 64
    for stage, (blocks, inner) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            name, stride = f"{stage}.{block}", 2 if stage and not block else 1
            skip = x if block else conv(f"{name}.skip", x, width, 4 * inner, 1, stride, relu=False)
            y = conv(f"{name}.1", x, width, inner, 1)
            y = conv(f"{name}.2", y, inner, inner, 3, stride)
            y = conv(f"{name}.3", y, inner, 4 * inner, 1, relu=False)
            nodes.append(helper.make_node("Add", [y, skip], [f"{name}.s"], f"{name}.add"))
            nodes.append(helper.make_node("Relu", [f"{name}.s"], [f"{name}.o"], f"{name}.relu"))
            x, width = f"{name}.o", 4 * inner
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["g"], "mean"))
    nodes.append(helper.make_node("Flatten", ["g"], ["f"], "flat"))
    nodes.append(helper.make_node("Gemm", ["f", weight("fc.weight", 1000, 2048)], ["y"], "fc", transB=1))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 224, 224])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 1000])
    graph = helper.make_graph(nodes, "resnet50", [given], [result], stored)
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def check(path, feeds, repeats, tmp_path):
    """Hold what is said of a model to a loop over onnxruntime, and the peak to a profile of our own."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def median():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            session.run(None, feeds)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[2:]))

    around = [median()]
    timing = time_feeds(load_model(path), feeds, repeats=repeats)
    around.append(median())
    peak = peak_of_arena(path, feeds, tmp_path)
    total = sum(row.seconds for row in timing.rows)
    assert timing.attributed >= 0.98
    assert total == pytest.approx(timing.run_s, rel=0.03)
    if min(around) > 0.01:  # what else the machine does moves runs of less by more than that
        assert 0.5 * min(around) < total < 2 * max(around)
    assert timing.peak_bytes == pytest.approx(peak, rel=0.1)
    return timing


@pytest.mark.acceptance
def test_resnet50(tmp_path):
    path = tmp_path / "resnet50.onnx"
    onnx.save(resnet50(4), path)
    timing = check(path, {"x": np.random.default_rng(1).normal(size=(4, 3, 224, 224)).astype("float32")}, 8, tmp_path)
    assert sum(row.share for row in timing.rows if row.kind == "layer") > 0.9
    assert {row.layer for row in timing.rows if row.kind == "layer"} >= {"stem", "0.0.skip", "3.2.3", "fc"}


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("name", "form"), [("encoder", ""), ("encoder", "dynamic"), ("encoder", "qdq"), ("lstm", ""), ("decoder", "")]
)
def test_networks_of_pytorch(name, form, tmp_path):
    networks = pytest.importorskip("quantized_networks")
    path, feeds = networks.export(name, tmp_path)
    check(networks.quantized(path, feeds, form) if form else path, feeds, 30, tmp_path)
