"""The one onnxruntime path: what goes in, what comes out and who owns it, and what is said when it fails."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxscope.errors import InputError, RunError
from onnxscope.model.loading import load_model
from onnxscope.providers.provider import read_provider
from onnxscope.runtime.session import Session, evaluate_constants, open_session, providers, runtime_version

X = np.array([1, -2, 3], np.float32)
RNG = np.random.default_rng(5)


def parsed(text, *, opset=17, ir_version=9, **initializers):
    model = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> {text}')
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def session(model, **options):
    return Session(model, folder=None, where="model.onnx", **options)


NEGATE = "g (float[N] x) => (float[N] y) { y = Neg(x) }"


def test_it_runs():
    opened = session(parsed(NEGATE))
    assert opened.outputs == {"y": "tensor(float)"}
    answers = opened.run({"x": X})
    np.testing.assert_array_equal(answers["y"], -X)


def test_only_the_outputs_asked_for_come_back_in_that_order():
    opened = session(parsed("g (float[N] x) => (float[N] y, float[N] z) { y = Neg(x) z = Relu(x) }"))
    assert list(opened.run({"x": X})) == ["y", "z"]
    assert list(opened.run({"x": X}, ["z", "y"])) == ["z", "y"]
    assert list(opened.run({"x": X}, ["z"])) == ["z"]


def test_several_inputs_of_several_types():
    opened = session(
        parsed(
            """g (float[N] x, int64[M] i, bool b, double d) => (float[K] y, double e) {
                h = Gather(x, i)  y = If(b) <then_branch = t () => (float[K] p) { p = Neg(h) },
                                             else_branch = e () => (float[K] q) { q = Identity(h) }>
                e = Neg(d)
            }"""
        )
    )
    answers = opened.run({"d": np.float64(2), "i": np.array([2, 0]), "b": np.array(True), "x": X})
    np.testing.assert_array_equal(answers["y"], [-3, -1])
    assert answers["e"] == -2


@pytest.mark.parametrize("options", [{"optimization": "none"}, {"threads": 1}, {"threads": 2}, {}])
def test_options_do_not_change_the_answer(options):
    np.testing.assert_array_equal(session(parsed(NEGATE), **options).run({"x": X})["y"], -X)


def test_arrays_belong_to_the_caller():
    opened = session(
        parsed(
            "g (float[N] x) => (float[N] y, float[N] x, float[3] w, float[N] r) { y = Add(x, w) r = Reshape(x, s) }",
            w=X,
            s=np.array([-1]),
        )
    )
    x = X.copy()
    first = opened.run({"x": x})
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array[...] = 99
    np.testing.assert_array_equal(x, X)
    second = opened.run({"x": X * 2})
    third = opened.run({"x": X})
    for name in kept:
        np.testing.assert_array_equal(third[name], kept[name])
        np.testing.assert_array_equal(first[name], np.full(3, 99, np.float32))
    np.testing.assert_array_equal(second["y"], 3 * X)


def test_arrays_outlive_the_session_and_what_was_fed():
    opened = session(parsed("g (double[N] x) => (double[N] x, double[N] y) { y = Neg(x) }"))
    expected = np.arange(50_000, dtype=np.float64)
    answers = opened.run({"x": expected.astype(">f8")})  # a native copy is fed, which nobody else holds
    del opened
    gc.collect()
    clutter = [np.full(50_000, 7.0) for _ in range(50)]
    np.testing.assert_array_equal(answers["x"], expected)
    np.testing.assert_array_equal(answers["y"], -expected)
    assert len(clutter) == 50


@pytest.mark.parametrize("order", [">", "<", "="])
@pytest.mark.parametrize("kind", ["f4", "f8", "f2", "i2", "i4", "i8", "u2"])
def test_any_byte_order_gives_the_same_numbers(order, kind):
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = parsed(f"g (float[N] x) => (double[N] y) {{ y = Cast<to={TensorProto.DOUBLE}>(x) }}")
    model.graph.input[0].type.tensor_type.elem_type = elem_type
    x = np.array([1, 2, 300], np.dtype(order + kind))
    np.testing.assert_array_equal(session(model).run({"x": x})["y"], [1, 2, 300])


@pytest.mark.parametrize("x", [np.arange(12, dtype=np.float32)[::-2], np.zeros(0, np.float32), np.ones(1, np.float32)])
def test_strided_and_empty_arrays(x):
    np.testing.assert_array_equal(session(parsed(NEGATE)).run({"x": x})["y"], -x)


def test_scalars_keep_their_rank():
    opened = session(parsed("g (float x) => (float y) { y = Neg(x) }"))
    for x in (np.float32(2), np.array(2, np.float32), np.array(2, ">f4")):
        answer = opened.run({"x": x})["y"]
        assert answer.shape == ()
        assert answer == -2


EXTENSION = [
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2),
    *(ml_dtypes.float8_e5m2fnuz, ml_dtypes.float4_e2m1fn, ml_dtypes.int4, ml_dtypes.uint4),
]


@pytest.mark.parametrize("dtype", EXTENSION)
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_types_that_numpy_lacks_go_in_and_come_out(dtype, count):
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = parsed("g (float[N] x, float z) => (float[N] x, float y) { y = Neg(z) }", opset=21, ir_version=11)
    model.graph.input[0].type.tensor_type.elem_type = elem_type
    model.graph.output[0].type.tensor_type.elem_type = elem_type
    x = np.array([0, 1, 2, 3, 1.5, 6, 4][:count], np.float32).astype(dtype)
    answers = session(model).run({"x": x, "z": np.float32(count)})
    answer = answers["x"]
    assert answers["y"] == -count
    assert answer.dtype == dtype
    np.testing.assert_array_equal(answer.astype(np.float32), x.astype(np.float32))
    answer[...] = 0  # writable, as it is the caller's


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4])
def test_casts_agree_with_ml_dtypes(dtype):
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = parsed(f"g (float[N] x) => (float[N] y) {{ y = Cast<to={elem_type}>(x) }}", opset=21, ir_version=10)
    model.graph.output[0].type.tensor_type.elem_type = elem_type
    x = np.array([0, 1, -2, 3, -7, 5], np.float32)
    answer = session(model).run({"x": x})["y"]
    assert answer.dtype == dtype
    np.testing.assert_array_equal(answer.astype(np.float32), x.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("x", [np.array(["a", "émile", ""]), np.array(["a", "émile", ""], object)])
def test_strings_go_in_and_come_out(x):
    answer = session(parsed("g (string[N] x) => (string[N] y) { y = Identity(x) }")).run({"x": x})["y"]
    assert answer.dtype == object
    assert answer.tolist() == ["a", "émile", ""]


def test_sequences_come_out_beside_tensors_and_go_in():
    split = session(
        parsed("g (float[N] x) => (seq(float[M]) s, float[N] y) { s = SplitToSequence(x, n) y = Neg(x) }", n=[1, 2])
    )
    answers = split.run({"x": X})
    assert list(answers) == ["s", "y"]
    assert [part.tolist() for part in answers["s"]] == [[1], [-2, 3]]
    np.testing.assert_array_equal(answers["y"], -X)
    join = session(
        parsed(
            """g (seq(float[M]) s, float[N] x) => (float[K] j, float[N] y) {
                j = ConcatFromSequence<axis=0>(s) y = Neg(x)
            }"""
        )
    )
    joined = join.run({"s": answers["s"], "x": X})
    np.testing.assert_array_equal(joined["j"], X)
    np.testing.assert_array_equal(joined["y"], -X)


def test_sequences_and_tensors_are_of_one_run():
    """What is random would not fit together otherwise."""
    opened = session(
        parsed("""g (float[N] x) => (seq(float[N]) s, float[N] r) {
            r = RandomNormalLike(x) n = Neg(r) s = SequenceConstruct(n, x) }""")
    )
    answers = opened.run({"x": X})
    np.testing.assert_array_equal(answers["s"][0], -answers["r"])
    np.testing.assert_array_equal(answers["s"][1], X)
    again = opened.run({"x": X})
    assert not np.array_equal(again["r"], answers["r"])


def test_an_optional_may_be_absent():
    opened = session(parsed("g (optional(float[N]) o) => (bool b) { b = OptionalHasElement(o) }", opset=18))
    assert not opened.run({"o": None})["b"]


def test_a_missing_input_names_what_the_model_takes():
    opened = session(parsed("g (float[N] x, float[N] z) => (float[N] y) { y = Add(x, z) }"))
    with pytest.raises(InputError) as caught:
        opened.run({"x": X})
    assert str(caught.value) == "no array for the input 'z': model.onnx"
    assert caught.value.hint == "the model's inputs: x, z"


def test_an_unknown_input_names_the_closest():
    with pytest.raises(InputError) as caught:
        session(parsed(NEGATE)).run({"X1": X})
    assert str(caught.value) == "the model has no input 'X1': model.onnx"
    assert caught.value.hint == "its inputs: x"
    constant = session(parsed("g () => (float[3] y) { y = Identity(w) }", w=X))
    with pytest.raises(InputError) as caught:
        constant.run({"x": X})
    assert caught.value.hint == "its inputs: none"


def refused(call):
    with pytest.raises(RunError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "onnxruntime_src" not in message
    assert "ONNXRuntimeError" not in message
    assert ".cc" not in message
    assert message.endswith(": model.onnx")
    return message


def test_an_array_of_the_wrong_type_or_shape_is_said_in_one_line():
    opened = session(parsed("g (float[2, 3] x) => (float[2, 3] y) { y = Neg(x) }"))
    message = refused(lambda: opened.run({"x": np.zeros((2, 3))}))
    assert message.startswith("onnxruntime cannot run the model (Unexpected input data type")
    message = refused(lambda: opened.run({"x": np.zeros((2, 4), np.float32)}))
    assert "index: 1 Got: 4 Expected: 3" in message


def test_something_that_is_no_array_is_said_in_one_line():
    assert refused(lambda: session(parsed(NEGATE)).run({"x": "text"})).startswith("onnxruntime cannot run the model (")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("g (float[N] x) => (float[N] y) { y = NoSuchOperator(x) }", "NoSuchOperator"),
        ("g (float[2] x, float[3] z) => (float[N] y) { y = MatMul(x, z) }", "Incompatible dimensions"),
        ("g (bool[N] x) => (bool[N] y) { y = Relu(x) }", "Type 'tensor(bool)'"),
        ("g (float[N] x) => (float[N] y) { y = Cast(x) }", "'to' is missing"),
    ],
)
def test_a_model_that_onnxruntime_refuses_is_said_in_one_line(text, fault):
    message = refused(lambda: session(parsed(text)))
    assert message.startswith("onnxruntime cannot load the model (")
    assert fault in message


def test_a_failure_while_running_is_said_in_one_line():
    opened = session(parsed("g (float[N] x, int64[M] s) => (float[K] y) { y = Reshape(x, s) }"))
    message = refused(lambda: opened.run({"x": X, "s": np.array([2, 2])}))
    assert message.startswith("onnxruntime cannot run the model (")
    assert "{3}, requested shape:{2,2}" in message


def test_a_provider_that_is_not_there_is_said_in_one_line():
    with pytest.raises(InputError, match="no execution provider is called 'NoSuchProvider'") as fault:
        session(parsed(NEGATE), provider=read_provider("NoSuchProvider"))
    assert "CPUExecutionProvider" in fault.value.hint


def test_versions_and_providers_are_onnxruntimes():
    assert runtime_version() == onnxruntime.__version__
    own = [name for name, origin in providers() if origin == "onnxruntime"]
    assert own == [name for name in onnxruntime.get_available_providers() if name in own]
    assert "CPUExecutionProvider" in own


NUMPY_TYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]
OTHERS = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
PACKED = ["float4_e2m1fn", "int4", "uint4", "int2", "uint2"]


def stored_array(name, shape):
    """Values of a type, all bit patterns of the small ones among them; NaN payloads and signed zeros of the others."""
    dtype = np.dtype(getattr(ml_dtypes, name)) if name in (*OTHERS, *PACKED) else np.dtype(name)
    count = int(np.prod(shape))
    if name in PACKED:
        levels = {"float4_e2m1fn": 16, "int4": 16, "uint4": 16, "int2": 4, "uint2": 4}[name]
        patterns = np.resize(np.arange(levels, dtype=np.uint8), count)
        return patterns.view(dtype).reshape(shape)
    if name == "bool":
        return RNG.integers(0, 2, shape).astype(bool)
    content = RNG.integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    content[: min(256, len(content))] = np.arange(256, dtype=np.uint8)[: min(256, len(content))]
    return content.view(dtype).reshape(shape)


def bits(array):
    return (array.shape, array.dtype, np.ascontiguousarray(array).view(np.uint8).tobytes())


def model_of(tensor):
    """A model that only stores: its one node has an input that nothing feeds."""
    model = parsed("g (float[N] x) => (float[N] y) { y = Neg(x) }", opset=23, ir_version=12)
    model.graph.initializer.append(numpy_helper.from_array(X, "another"))
    model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize("shape", [(300, 3), (5,), (0, 4), ()])
@pytest.mark.parametrize("kind", [*NUMPY_TYPES, *FLOATS, *OTHERS, *PACKED])
@pytest.mark.parametrize("place", ["memory", "file", "external"])
def test_initializers_read_in_place_are_bit_for_bit_onnxruntimes(kind, shape, place, tmp_path):
    array = stored_array(kind, shape)
    proto = model_of(numpy_helper.from_array(array, "w"))
    path = tmp_path / "m.onnx"
    if place == "memory":
        model = load_model(proto)
    else:
        options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
        onnx.save(proto, path, **(options if place == "external" else {}))
        model = load_model(path)
    in_place = model.array(model.main.initializers["w"])
    assert bits(in_place) == bits(evaluate_constants(model, ["w"])["w"])
    assert in_place.dtype == array.dtype
    assert bits(in_place) == bits(array)


@pytest.mark.parametrize("kind", [*NUMPY_TYPES, *FLOATS, "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_initializers_in_typed_fields_too(kind):
    dtype = np.dtype(getattr(ml_dtypes, kind)) if kind in OTHERS else np.dtype(kind)
    values = np.array([0, 1, 2, 3, 1, 0]).astype(dtype).reshape(2, 3)
    elem_type = helper.np_dtype_to_tensor_dtype(dtype)
    tensor = helper.make_tensor(
        "w", elem_type, [2, 3], values.astype(float if dtype.kind not in "iub" else int).ravel()
    )
    assert not tensor.HasField("raw_data")
    model = load_model(model_of(tensor))
    assert bits(model.array(tensor)) == bits(evaluate_constants(model, ["w"])["w"])
    np.testing.assert_array_equal(model.array(tensor).astype(float), values.astype(float))


def test_stored_strings_are_onnxruntimes():
    tensor = numpy_helper.from_array(np.array([["a", "é"]], object), "w")
    model = load_model(model_of(tensor))
    in_place = model.array(tensor)
    answer = evaluate_constants(model, ["w"])["w"]
    assert [[str(each) for each in row] for row in answer] == [["a", "é"]]
    decoded = [each.decode() if isinstance(each, bytes) else each for each in in_place.ravel()]
    assert decoded == ["a", "é"]


def test_constants_are_computed_without_the_models_inputs():
    model = load_model(
        parsed(
            """g (float[N] x) => (float[N] y) {
                t = Transpose(w)  d = DequantizeLinear(q, scale)  s = MatMul(d, t)  y = MatMul(x, s)
            }""",
            w=np.arange(6, dtype=np.float32).reshape(3, 2),
            q=np.array([[1, -2], [3, 4]], np.int8),
            scale=np.float32(0.5),
        )
    )
    answers = evaluate_constants(model, ["s", "t"])
    assert list(answers) == ["s", "t"]
    t = np.arange(6, dtype=np.float32).reshape(3, 2).T
    np.testing.assert_array_equal(answers["t"], t)
    np.testing.assert_array_equal(answers["s"], np.array([[0.5, -1], [1.5, 2]], np.float32) @ t)


def test_constants_that_a_body_captures_come_along():
    model = load_model(
        parsed(
            """g (float[N] x) => (float[N] y) {
                c = Constant<value=bool {1}>()
                h = If(c) <then_branch = t () => (float[3] p) { p = Neg(w) },
                           else_branch = e () => (float[3] q) { q = Abs(w) }>
                y = Add(x, h)
            }""",
            w=X,
        )
    )
    np.testing.assert_array_equal(evaluate_constants(model, ["h"])["h"], -X)


def test_a_constant_that_onnxruntime_refuses_is_an_error():
    model = load_model(parsed("g (float[N] x) => (float[N] y) { h = NoSuchOperator(w) y = Add(x, h) }", w=X))
    with pytest.raises(RunError, match=r"^onnxruntime cannot load the model \(.*NoSuchOperator.*\): g$"):
        evaluate_constants(model, ["h"])


def test_external_data_is_read_from_the_models_folder_not_the_working_one(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    weights = np.arange(1000, dtype=np.float32)
    proto = parsed("g (float[1000] x) => (float[1000] y) { y = Add(x, w) }", w=weights)
    onnx.save(proto, home / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (elsewhere / "m.data").write_bytes((weights + 1).tobytes())
    monkeypatch.chdir(elsewhere)
    model = load_model(home / "m.onnx")
    opened = open_session(model)
    np.testing.assert_array_equal(opened.run({"x": np.zeros(1000, np.float32)})["y"], weights)
    np.testing.assert_array_equal(evaluate_constants(model, ["w"])["w"], weights)


def test_a_session_over_a_copy_of_a_model_reads_its_weights_where_they_lie(tmp_path, monkeypatch):
    weights = np.arange(1000, dtype=np.float32)
    proto = parsed("g (float[1000] x) => (float[1000] y) { y = Add(x, w) }", w=weights)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = load_model(tmp_path / "m.onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    copy.graph.node[0].op_type = "Sub"
    for threads, optimize in ((1, True), (0, False)):
        session = open_session(model, copy, threads=threads, optimize=optimize)
        np.testing.assert_array_equal(session.run({"x": np.zeros(1000, np.float32)})["y"], -weights)
    copy.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(RunError, match=r"NoSuchOperator.*: m\.onnx$"):
        open_session(model, copy)
