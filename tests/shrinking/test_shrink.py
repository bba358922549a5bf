"""The whole search, judged by plain onnxruntime and by onnx's ReferenceEvaluator."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from shrink_cases import CRASH, HEADER

from onnxscope.errors import InputError
from onnxscope.extracting.recorded_values import TOLERANCES
from onnxscope.model.loading import load_model
from onnxscope.shrinking.shrink import Limited, shrink

RNG = np.random.default_rng(4)


def shrunk(proto, feeds, **options):
    return shrink(load_model(proto), feeds, tolerances=TOLERANCES, **options)


def network(middle):
    """A small classifier with something in its middle."""
    proto = onnx.parser.parse_model(f"""{HEADER} (float[N, 3, 6, 6] x) => (float[N, 5] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, kernel, bias)  b = Relu(a)  {middle}
        d = GlobalAveragePool(c)  e = Flatten(d)  f = Gemm(e, matrix)  y = Softmax(f)
    }}""")
    shapes = {"kernel": (8, 3, 3, 3), "bias": (8,), "matrix": (8, 5), "scale": (8,)}
    read = {name for node in proto.graph.node for name in node.input}
    weights = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items() if name in read}
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return proto, {"x": RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)}, weights


def of_weights(result, weights):
    own = np.concatenate([value.ravel() for value in weights.values()])
    held = [numpy_helper.to_array(tensor) for tensor in result.model.proto.graph.initializer]
    return sum(int(np.isin(array, own).sum()) for array in held if array.dtype.kind == "f")


def test_a_layer_that_gives_nan_is_left_alone_without_a_weight():
    proto, feeds, weights = network("n = Neg(b)  c = Pow(n, half)".replace("half", "bias_half"))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "bias_half"))
    result = shrunk(proto, feeds)
    graph = result.model.proto.graph
    assert result.fault.kind == "nan"
    assert [node.op_type for node in graph.node] == ["Pow"]
    assert result.model.proto.ByteSize() < 300
    assert (result.original_weights, result.original_inputs, result.is_complete) == (0, 0, True)
    assert of_weights(result, weights) == 0
    onnx.checker.check_model(result.model.proto, full_check=True)
    session = onnxruntime.InferenceSession(result.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isnan(session.run(None, dict(result.feeds))[0]).any()
    assert np.isnan(result.given[graph.output[0].name]).any()


def test_a_crash_is_kept_in_a_process_of_its_own(tmp_path):
    result = shrunk(onnx.parser.parse_model(CRASH), {"x": RNG.standard_normal((2, 3, 4, 4)).astype(np.float32)})
    assert str(result.fault) == "onnxruntime crashes (SIGSEGV)"
    assert [node.op_type for node in result.model.proto.graph.node] == ["BatchNormalization"]
    onnx.save(result.model.proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **result.feeds)
    program = (
        "import numpy, onnxruntime, sys; onnxruntime.InferenceSession('m.onnx').run(None, dict(numpy.load('x.npz')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True).returncode == -11
    assert not result.given


def test_what_has_no_fault_is_not_shrunk():
    proto, feeds, _ = network("c = Identity(b)")
    with pytest.raises(
        InputError, match="nothing is wrong that can be shrunk: onnxruntime runs it within 20 s"
    ) as caught:
        shrunk(proto, feeds)
    assert caught.value.hint == "feed what shows the fault"


def test_the_search_ends_with_its_trials_and_keeps_the_fault():
    proto, feeds, _ = network("n = Neg(b)  c = Sqrt(n)")
    result = shrunk(proto, feeds, limits=Limited(most_trials=6))
    assert not result.is_complete
    session = onnxruntime.InferenceSession(result.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isnan(session.run(None, dict(result.feeds))[0]).any()


def test_weights_in_files_stay_there_until_they_are_replaced(tmp_path):
    proto, feeds, weights = network("n = Neg(b)  c = Sqrt(n)")
    path = tmp_path / "net.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    model = load_model(path)
    result = shrink(model, feeds, tolerances=TOLERANCES)
    assert [node.op_type for node in result.model.proto.graph.node] == ["Sqrt"]
    assert of_weights(result, weights) == 0
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_is_too_large_to_be_replaced_is_shortened_first(tmp_path, monkeypatch):
    """As a model over 2 GB, whose weights lie in files; the product is too large for float32."""
    monkeypatch.setattr("onnxscope.shrinking.simpler_values._MOST_ELEMENTS", 1000)
    monkeypatch.setattr("onnxscope.shrinking.search._MOST_BYTES", 4000)
    weight = RNG.standard_normal((64, 64)).astype(np.float32) * np.float32(3e37)
    proto = onnx.parser.parse_model(HEADER + "(float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w)  y = Tanh(a) }")
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("a"))
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    result = shrink(
        load_model(tmp_path / "net.onnx"),
        {"x": np.full((2, 64), 10, np.float32)},
        tolerances=TOLERANCES,
    )
    (stored,) = (numpy_helper.to_array(tensor) for tensor in result.model.proto.graph.initializer)
    assert result.fault.kind == "infinity"
    assert [node.op_type for node in result.model.proto.graph.node] == ["MatMul"]
    assert stored.size <= 64
    assert not np.isin(stored, weight).any()
    session = onnxruntime.InferenceSession(result.model.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.isinf(session.run(None, dict(result.feeds))[0]).any()
