"""One model run in two ways: on two providers, at two levels of optimization, with two numbers of threads."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import islice
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from jsonschema import Draft202012Validator
from provider_models import X, small_network

import onnxscope
from onnxscope.cli.main import run
from onnxscope.comparison import rounding_trial
from onnxscope.comparison.two_ways import Way, precision_of
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model
from onnxscope.numerics.distances import measure
from onnxscope.providers.provider import CPU, DEFAULT_RUNNING, Provider, Running
from onnxscope.runtime.session import Assignment

OTHER = Running(Provider("OtherExecutionProvider"))
F32 = 'OpenVINO:load_config={"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'


@pytest.fixture
def openvino():
    """The plug-in, where it is installed."""
    return pytest.importorskip("onnxruntime_ep_openvino", reason="onnxruntime-ep-openvino is not installed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    onnx.save(small_network(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def computes_in_bfloat16():
    """Whether OpenVINO takes bfloat16 by itself on this processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            return any("avx512_bf16" in line or "amx_bf16" in line for line in stream)
    except OSError:
        return False


def rows(seed, dtype):
    """Own errors of products of matrices whose operands and results are rounded, as rows hold them."""
    rng = np.random.default_rng(seed)
    for side in (16, 40, 100):
        left, right = rng.standard_normal((2, side, side)).astype(np.float32)
        exact = left @ right
        off = (left.astype(dtype).astype(np.float32) @ right.astype(dtype).astype(np.float32)).astype(dtype)
        own = measure(exact, off.astype(np.float32), None, None)
        yield SimpleNamespace(own=own, is_guilty=bool(own.squares.sum() > 1e-9))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (ml_dtypes.bfloat16, "all layers at 2^-8: the second computes in bfloat16"),
        (np.float16, "all layers at 2^-11: the second computes in float16 or TF32"),
    ],
)
def test_rounding_is_recognized(seed, dtype, text):
    found = precision_of(list(rows(seed, dtype)), (DEFAULT_RUNNING, OTHER))
    assert found.text == text


@pytest.mark.parametrize("seed", range(5))
def test_other_errors_are_no_rounding(seed):
    ways = DEFAULT_RUNNING, OTHER
    assert precision_of(list(rows(seed, np.float32)), ways) is None
    assert precision_of(list(rows(seed, ml_dtypes.float8_e4m3fn)), ways) is None
    assert precision_of([*rows(seed, np.float16), *rows(seed, ml_dtypes.bfloat16)], ways) is None
    assert precision_of([], ways) is None


def test_who_rounds_is_who_does_not_run_on_the_processor():
    found = list(rows(1, ml_dtypes.bfloat16))
    assert precision_of(found, (OTHER, DEFAULT_RUNNING)).side == "first"
    assert "one of the two computes in" in precision_of(found, (OTHER, OTHER)).text
    found.append(next(rows(1, np.float32)))
    assert precision_of(found, (DEFAULT_RUNNING, OTHER)).text.startswith("3 of 4 layers at 2^-8")


def test_what_a_provider_takes_is_said():
    parts = (
        Assignment("OtherExecutionProvider", (("a", "Conv"), ("b", "Relu"), ("c", "Conv"))),
        Assignment("OtherExecutionProvider", (("d", "MatMul"),)),
        Assignment("CPUExecutionProvider", (("e", "TopK"),)),
        Assignment("CPUExecutionProvider", (("f", "TopK"),)),
    )
    assert Way(OTHER, parts).text == (
        "OtherExecutionProvider: takes 4 of 6 nodes, 3 of them in 1 part whose inner values it keeps to itself; "
        "the processor's code runs 2 TopK"
    )
    assert Way(Running(CPU, "none"), ()).text == "CPUExecutionProvider, optimization none"


@pytest.mark.parametrize("bits", [8, 11])
@pytest.mark.parametrize("place", ["operands", "everything", "result", "nothing"])
@pytest.mark.parametrize("value", ["c1", "y"])
def test_a_suspicion_is_tried(monkeypatch, bits, place, value):
    model = load_model(small_network()).run_as(OTHER)
    real = rounding_trial._run
    types = {8: ml_dtypes.bfloat16, 11: np.float16}

    def rounding(of, running, node, operands):
        if running is not OTHER or place == "nothing":
            return real(of, DEFAULT_RUNNING, node, operands)
        kept = node.inputs[2:] if place == "operands" else ()
        less = {
            name: array if name in kept else array.astype(types[bits]).astype(np.float32)
            for name, array in operands.items()
        }
        answer = real(of, DEFAULT_RUNNING, node, less)
        return answer.astype(types[bits]).astype(np.float64) if place == "result" else answer

    monkeypatch.setattr(rounding_trial, "_run", rounding)
    assert rounding_trial.rounds_as(model, [value], bits) is (place != "nothing")
    assert rounding_trial.rounds_as(model, [value], 19 - bits) is False


def test_what_cannot_be_tried_is_not_known():
    model = load_model(small_network())
    assert rounding_trial.rounds_as(model, ["p", "nothing"], 8) is None
    assert rounding_trial.rounds_as(model, [], 8) is None


def test_one_layer_whose_rounding_cancels_is_no_other_type():
    found = [*rows(1, ml_dtypes.bfloat16), *islice(rows(2, np.float16), 1)]
    assert precision_of(found, (DEFAULT_RUNNING, OTHER)).text.startswith("all layers at 2^-8")


def test_optimizations_and_threads_change_nothing_here(folder, capsys):
    found = onnxscope.diff("net.onnx", inputs="x.npy", against_optimization="none", against_threads=1)
    assert found.equal
    assert found.precision is None
    record = found.to_dict()
    assert record["ways"]["b"]["running"]["optimization"] == "none"
    assert record["b"]["running"]["threads"] == 1
    assert "running" not in record["a"]
    assert run(["diff", "net.onnx", "-i", "x.npy", "--against-optimization", "basic"]) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[-2:] == ["first: CPUExecutionProvider", "second: CPUExecutionProvider, optimization basic"]


def test_a_second_model_may_run_in_its_own_way(folder):
    model = onnx.load("net.onnx")
    weights = onnx.numpy_helper.to_array(model.graph.initializer[2]).copy()
    weights[3] *= 1.5
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(weights, "w2"))
    onnx.save(model, "other.onnx")
    found = onnxscope.diff("net.onnx", "other.onnx", "x.npy", against_optimization="none")
    assert [row.a.layer for row in found.guilty] == ["Conv_1"]
    assert found.precision is None


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["net.onnx", "-i", "x.npy"], "Missing argument 'B', or another way of running A: --against-provider"),
        (["net.onnx", "--against-threads", "1"], "--against-… needs what the models are fed: -i"),
        (
            ["net.onnx", "-i", "x.npy", "--against-threads", "1", "--explain"],
            "--explain, --mend and --extract run both in the same way: leave --against-… out",
        ),
        (["net.onnx", "-i", "x.npy", "--against-provider", "nobodys"], "no execution provider is called 'nobodys'"),
        (["net.onnx", "-i", "x.npy", "--against-provider", "json"], "the package brings no execution provider"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(folder, capsys, arguments, fault):
    assert run(["diff", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert fault in err.splitlines()[0]
    assert len(err.splitlines()) == 2


def test_the_library_says_the_same(folder):
    with pytest.raises(InputError, match="a model is compared with nothing"):
        onnxscope.diff("net.onnx", inputs="x.npy")
    with pytest.raises(InputError, match="no two ways can be compared"):
        onnxscope.diff("net.onnx", against_threads=1)
    with pytest.raises(InputError, match="0 threads are none"):
        onnxscope.diff("net.onnx", inputs="x.npy", against_threads=0)
    with pytest.raises(InputError, match="no level of optimization: 'O3'"):
        onnxscope.diff("net.onnx", inputs="x.npy", against_optimization="O3")


def test_two_providers_are_equal_at_full_precision(openvino, folder, capsys):
    assert run(["diff", "net.onnx", "-i", "x.npy", "--against-provider", F32, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    schema = json.loads((files(onnxscope) / "schemas" / "diff.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(found)
    assert found["verdict"] == "equal"
    assert found["ways"]["precision"] is None
    (part,) = found["ways"]["b"]["parts"]
    assert part["provider"] == "OpenVINOExecutionProvider"
    assert len(part["nodes"]) == 7
    assert found["ways"]["a"]["parts"] == []


def test_bfloat16_is_said_where_the_processor_has_it(openvino, folder, capsys):
    code = run(["diff", "net.onnx", "-i", "x.npy", "--against-provider", "OpenVINO"])
    out, _ = capsys.readouterr()
    if computes_in_bfloat16():
        assert code == 1
        assert "\ndiffers: all layers at 2^-8: the second computes in bfloat16; " in out
    else:
        assert code == 0
        assert "\nequal: 3 layers and 1 output\n" in out
    assert "second: OpenVINOExecutionProvider: takes 7 of 7 nodes, 7 of them in 1 part" in out


def test_what_a_provider_does_not_give_is_undecided(openvino):
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 2] x) => (float[N, 2] y) <float zero = {0}, float[2, 2] w = {1, 2, 3, 4}> {
          s = ReduceSum<keepdims = 0>(x)
          c = Greater(s, zero)
          y = If(c) <then_branch = a () => (float[N, 2] p) { p = MatMul(x, w) },
                     else_branch = b () => (float[N, 2] q) { q = Relu(x) }>
        }""")
    found = onnxscope.diff(model, inputs=np.ones((3, 2), np.float32), against_provider=F32)
    assert found.verdict == "undecided"
    assert [one.reason for one in found.undecided] == ["OpenVINOExecutionProvider does not give what lies in a body"]
    assert found.outputs[0].verdict == "equal"
