"""Types by inference in a child process: what it finds, inside bodies too, and that nothing depends on it."""

from __future__ import annotations

import subprocess
import sys

import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from onnxscope.model import type_inference
from onnxscope.model.graphs import ValueType
from onnxscope.model.loading import load_model
from onnxscope.model.type_inference import infer_types


def parsed(text, *, opset=17):
    return load_model(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> {text}'))


def by_name(types):
    """Types of all graphs together, by value name: the models here use each name once."""
    return {name: known for graph in types.values() for name, known in graph.items()}


SMALL = "g (float[N, 3] x) => (float[M] y) { a = Neg(x) s = Shape(a) k = SequenceConstruct(a) y = Relu(a) }"


def test_types_of_the_main_graph():
    types = infer_types(parsed(SMALL))
    assert types[()]["a"] == ValueType("float32", ("N", 3), TensorProto.FLOAT, "tensor")
    assert types[()]["s"] == ValueType("int64", (2,), TensorProto.INT64, "tensor")
    assert types[()]["k"].kind == "sequence"
    assert types[()]["x"] == ValueType("float32", ("N", 3), TensorProto.FLOAT, "tensor")


def test_the_model_does_not_change():
    model = parsed(SMALL)
    before = model.proto.SerializeToString(deterministic=True)
    infer_types(model)
    assert model.proto.SerializeToString(deterministic=True) == before


def test_types_inside_nested_bodies():
    model = parsed(
        """g (bool outer, int64 m, float[2, 3] x) => (float[A, B] y) {
            h = Cast<to=10>(x)
            y = If(outer) <
                then_branch = t () => (float[C, D] p) {
                    go = Constant<value=bool {1}>()
                    hh = Cast<to=11>(h)
                    p = Loop(m, go, x) <body = b (int64 i, bool c, float[2, 3] s) => (bool d, float[E, F] n) {
                        d = Identity(c)  deep = Transpose(hh)  n = Neg(s)
                    }>
                },
                else_branch = e () => (q) { q = Abs(x) }>
        }"""
    )
    types = by_name(infer_types(model))
    assert types["h"] == ValueType("float16", (2, 3), TensorProto.FLOAT16, "tensor")
    assert types["hh"] == ValueType("float64", (2, 3), TensorProto.DOUBLE, "tensor")
    assert types["deep"] == ValueType("float64", (3, 2), TensorProto.DOUBLE, "tensor")
    assert types["q"] == ValueType("float32", (2, 3), TensorProto.FLOAT, "tensor")
    assert set(infer_types(model)) == set(model.graphs)


def test_a_body_sees_the_weights_of_the_graph_around_it():
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17]> g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] p) { k = Neg(w)  p = Cast<to=1>(k) },
                       else_branch = e () => (float[2] q) { q = Abs(x) }>
        }"""
    )
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.INT32, [2], [1, 2]))
    assert by_name(infer_types(load_model(proto)))["k"] == ValueType("int32", (2,), TensorProto.INT32, "tensor")


def test_operators_that_inference_does_not_know_leave_the_rest_known():
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 17, "com.example": 1]>
        g (float[3] x) => (float[N] y) { a = Neg(x)  b = com.example.Odd(a)  y = Neg(b) }"""
    )
    types = infer_types(load_model(proto))
    assert types[()]["a"].shape == (3,)
    assert "b" not in types[()]


@pytest.mark.parametrize(
    "program",
    [
        "import os; os.abort()",
        "import sys; sys.exit(3)",
        "import time; time.sleep(60)",
        "import sys; sys.stdout.write('no protobuf')",
        "import sys; sys.stdout.write('*\\x80')",
    ],
)
def test_a_child_that_crashes_hangs_or_says_nonsense_leaves_the_types_unknown(monkeypatch, program):
    monkeypatch.setattr(type_inference, "_COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr(type_inference, "_TIMEOUT_S", 1)
    assert infer_types(parsed(SMALL)) == {}


def test_a_child_that_cannot_be_started_leaves_the_types_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(type_inference, "_COMMAND", (str(tmp_path / "no-such-program"),))
    assert infer_types(parsed(SMALL)) == {}


def test_a_contradictory_model_leaves_the_types_unknown_or_partial():
    model = parsed("g (float[3] x, float[4] z) => (float[3] y) { a = Add(x, z)  y = Neg(a) }")
    assert by_name(infer_types(model)).get("a") in (None, ValueType("float32", None, TensorProto.FLOAT, "tensor"))


def test_a_module_in_the_working_folder_is_not_run(monkeypatch, tmp_path):
    for name in ("onnx", "numpy", "onnxscope"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    assert infer_types(parsed(SMALL))[()]["a"].elem_type == TensorProto.FLOAT
    assert not (tmp_path / "was-run").exists()


def test_the_child_starts_without_onnx_and_ends_with_its_questions():
    child, library = type_inference._COMMAND[-2:]
    program = (
        f"import runpy, sys; sys.argv = [{child!r}, {library!r}]; runpy.run_path({child!r}, run_name='__main__'); "
        "print(sorted({'onnx', 'numpy', 'google', 'onnxscope'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], input=b"", capture_output=True, check=True)
    assert (done.stdout, done.stderr.strip()) == (b"", b"[]")


def test_many_bodies_end_with_the_time(monkeypatch):
    then, other = "then_branch = t () => (p{0}) {{ p{0} = Neg(x) }}", "else_branch = e () => (q{0}) {{ q{0} = Abs(x) }}"
    body = f"y{{0}} = If(c) <{then}, {other}>"
    model = parsed(f"g (bool c, float[2] x) => (float[2] y0) {{ {' '.join(body.format(n) for n in range(40))} }}")
    assert len(infer_types(model)) == 81
    monkeypatch.setattr(type_inference, "_TIMEOUT_S", 0)
    assert infer_types(model) == {}


def test_the_body_of_a_scan_is_told_what_it_is_fed_where_it_does_not_say():
    proto = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[2, 3] start, float[5, 2, 3] x, float[2, 5, 3] z) => (float[2, 3] end, float[5, 2, 3] y) {
            end, y = Scan<num_scan_inputs = 2, scan_input_axes = [0, 1],
                body = b (float[2, 3] s, float[2, 3] e, float[2, 3] f) => (float[2, 3] n, float[2, 3] o) {
                    n = Add(s, e)  o = Mul(n, f) }>(start, x, z) }""")
    body = next(attribute.g for attribute in proto.graph.node[0].attribute if attribute.name == "body")
    for value in (*body.input, *body.output):
        value.ClearField("type")
    model = load_model(proto)
    (path,) = [path for path in model.graphs if path]
    shapes = {name: model.type_of(model.graphs[path], name).shape for name in ("s", "e", "f", "n", "o")}
    assert shapes == dict.fromkeys("sefno", (2, 3))
