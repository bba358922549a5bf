"""A part with a fault becomes small, in a folder whose script shows the fault with onnxruntime and numpy alone."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from reproducing import reproduce
from shrink_cases import CRASH, HEADER

import onnxscope
from onnxscope.cli.main import run
from onnxscope.errors import InputError
from onnxscope.extracting.chosen_part import choose_part
from onnxscope.extracting.shrunk_part import reaching_values, whole_model

RNG = np.random.default_rng(7)
KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
IMAGE = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)


def network():
    proto = onnx.parser.parse_model(
        HEADER
        + """(float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) {
            [stem] a = Conv <pads = [1, 1, 1, 1]> (x, kernel)  [stem_relu] b = Relu(a)
            [odd] n = Neg(b)  [root] c = Sqrt(n)
            y = Tanh(c)
        }"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(KERNEL, "kernel"))
    return proto


@pytest.fixture
def part():
    return onnxscope.extract(network(), {"x": IMAGE}, shrink=True)


def test_the_folder_shows_the_fault_and_no_weight(part, tmp_path):
    assert [node.op_type for node in part.model.proto.graph.node] == ["Sqrt"]
    assert part.layers == ("root",)
    assert not part.reproduces
    assert part.shrunk.nodes_before == 5
    assert part.shrunk.bytes_before > KERNEL.nbytes > part.shrunk.bytes
    title = part.table().text().splitlines()[0]
    assert title == (
        f"root of model: onnxruntime gives NaN, and no input holds one; 5 nodes and {part.shrunk.bytes_before:,} bytes"
        f" became 1 node and {part.shrunk.bytes} bytes"
    ).replace(" of model:", f" of {part.source['name']}:")
    files = part.save(tmp_path)
    assert part.shrunk.bytes == (tmp_path / "model.onnx").stat().st_size
    code, said, _ = reproduce(tmp_path)
    assert (code, said) == (1, f"onnxruntime {onnxruntime.__version__} gives NaN\n")
    text = onnx.parser.parse_model((tmp_path / "model.onnxtxt").read_text())
    assert [node.op_type for node in text.graph.node] == ["Sqrt"]
    held = dict(np.load(tmp_path / "data.npz").items())
    assert not np.isin(held["input_0"], IMAGE).any()
    record = json.loads((tmp_path / "extract.json").read_text())
    assert record["shrunk"]["fault"] == "nan"
    assert record["files"] == files
    proto = onnx.load(tmp_path / "model.onnx")  # mended: the script says so
    proto.graph.node[0].op_type = "Abs"
    onnx.save(proto, tmp_path / "model.onnx")
    assert reproduce(tmp_path)[:2] == (0, f"onnxruntime {onnxruntime.__version__} gives no NaN\n")
    whole = onnxscope.extract(network(), {"x": IMAGE}, select="stem")
    whole.save(tmp_path)
    assert not (tmp_path / "model.onnxtxt").exists()


def test_the_command_cuts_a_crash_out_of_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(CRASH), "net.onnx")
    np.save("x.npy", RNG.standard_normal((2, 3, 4, 4)).astype(np.float32))
    command = ["extract", "net.onnx", "-s", "norm", "-i", "x.npy", "--shrink", "-o", "part", "--format", "json"]
    assert run(command) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["operators"] == {"BatchNormalization": 1}
    assert record["shrunk"]["text"] == "onnxruntime crashes (SIGSEGV)"
    assert err.splitlines()[-1] == "7 files are in part; `python part/reproduce.py` shows the fault"
    code, said, _ = reproduce(tmp_path / "part")
    assert (code, said.splitlines()[1]) == (1, "it ends with -11")


def test_what_crashes_while_constants_are_folded_is_shrunk(tmp_path):
    """onnxruntime divides the least integer by -1, which no processor can."""
    text = (
        "(float[N] x) => (int64[1] y, float[N] z) <int64[1] a = {AA}, int64[1] b = {-1}> { y = Div(a, b)  z = Abs(x) }"
    )
    model = onnx.parser.parse_model(HEADER + text.replace("AA", "1"))
    least = np.array([np.iinfo(np.int64).min])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(least, "a"))
    part = onnxscope.extract(model, {"x": np.ones(3, np.float32)}, shrink=True)
    assert str(part.shrunk.fault) == "onnxruntime crashes (SIGFPE)"
    assert [node.op_type for node in part.model.proto.graph.node] == ["Div"]
    assert not part.inputs
    part.save(tmp_path)
    code, said, _ = reproduce(tmp_path)
    assert (code, said.splitlines()[1]) == (1, "it ends with -8")


def test_a_model_without_a_fault_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(HEADER + "(float[N, 3] x) => (float[N, 3] y) { y = Tanh(x) }"), "net.onnx")
    np.save("x.npy", RNG.standard_normal((2, 3)).astype(np.float32))
    assert run(["extract", "net.onnx", "-i", "x.npy", "--shrink", "-o", "part"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "onnxscope: error: nothing is wrong that can be shrunk: onnxruntime runs it within 20 s, gives neither NaN nor"
        " infinite numbers, and gives the same without its optimizations and by onnx's ReferenceEvaluator: net.onnx",
        "hint: feed what shows the fault",
    ]
    assert not (tmp_path / "part").exists()


def test_a_model_that_computes_nothing_is_refused():
    model = onnx.parser.parse_model(HEADER + "(float[N, 3] x) => (float[N, 3] x) { }")
    with pytest.raises(InputError, match="nothing is computed, so there is nothing to shrink"):
        whole_model(onnxscope.load_model(model))


def test_what_reaches_a_part_is_computed_without_the_part():
    """The part itself would crash."""
    model = onnxscope.load_model(onnx.parser.parse_model(CRASH))
    x = RNG.standard_normal((2, 3, 4, 4)).astype(np.float32)
    values = reaching_values(model, choose_part(model, ["norm"]), {"x": x})
    np.testing.assert_allclose(values["h"], np.tanh(x), rtol=1e-6)


def test_steps_of_codes_are_no_fault():
    """Rounded before or behind the sum, which is what a fused kernel changes, codes are one step apart."""
    model = onnx.parser.parse_model(
        HEADER
        + """(float[N, 8] x) => (float[N, 8] y) <float s = {0.05}, int8 z = {0}> {
            q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
            e = Mul(d, d)
            r = QuantizeLinear(e, s, z)  y = DequantizeLinear(r, s, z)
        }"""
    )
    with pytest.raises(InputError, match="nothing is wrong that can be shrunk"):
        onnxscope.extract(model, {"x": RNG.standard_normal((4, 8)).astype(np.float32)}, shrink=True)
