"""Tensors read in place, and the checks that their type, shape and bytes agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxscope
from onnxscope.errors import ModelError
from onnxscope.model.loading import load_model
from onnxscope.model.tensors import Storage

KINDS = [kind for kind in sorted(TensorProto.DataType.keys()) if kind not in ("UNDEFINED", "STRING")]
GRAPH = '<ir_version: 9, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }'


def holding(*tensors: TensorProto) -> ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(tensors)
    return model


def values_of(kind: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind))
    return np.random.default_rng(5).integers(0, 2, shape).astype(np.float32).astype(dtype)


def assert_same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


# ---- values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["inline", "in the file", "outside"])
def test_raw_data_of_every_element_type_reads_as_onnx_reads_it(tmp_path: Path, kind: str, place: str) -> None:
    shape = (3, 1501) if place == "in the file" else (3, 5)  # odd counts: 4-bit types end in half a byte
    onnx.save(
        holding(onnx.numpy_helper.from_array(values_of(kind, shape), "w")),
        tmp_path / "m.onnx",
        save_as_external_data=place == "outside",
        size_threshold=0,
        location="w.bin",
    )
    model = load_model(tmp_path / "m.onnx")
    tensor = model.main.initializers["w"]
    assert (tensor.data_location == TensorProto.EXTERNAL) == (place != "inline")
    reference = onnx.load(tmp_path / "m.onnx").graph.initializer[0]
    assert_same(model.array(tensor), onnx.numpy_helper.to_array(reference))
    assert model.storage.stored_bytes(tensor) == len(reference.raw_data)
    assert not model.array(tensor).flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_typed_data_of_every_element_type_reads_as_onnx_reads_it(kind: str) -> None:
    values = values_of(kind, (3, 5))
    numbers = values.ravel() if values.dtype.kind == "c" else values.ravel().astype(np.float32)
    stored = onnx.helper.make_tensor("w", TensorProto.DataType.Value(kind), (3, 5), numbers)
    assert not stored.HasField("raw_data")
    model = load_model(holding(stored))
    assert_same(model.array(model.main.initializers["w"]), onnx.numpy_helper.to_array(stored))
    packed = onnx.numpy_helper.from_array(values).raw_data
    assert model.storage.stored_bytes(model.main.initializers["w"]) == len(packed)


def test_strings_are_read_even_where_they_are_not_utf_8() -> None:
    stored = TensorProto(name="w", data_type=TensorProto.STRING, dims=[2, 1], string_data=["é".encode(), b"\xff\x1b"])
    model = load_model(holding(stored))
    tensor = model.main.initializers["w"]
    assert model.array(tensor).tolist() == [["é"], ["\\xff\x1b"]]
    assert model.storage.stored_bytes(tensor) == 4


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,) * 64])
def test_scalars_and_empty_and_deep_shapes_are_read(shape: tuple[int, ...]) -> None:
    model = load_model(holding(onnx.numpy_helper.from_array(np.ones(shape, np.float32), "w")))
    assert_same(model.array(model.main.initializers["w"]), np.ones(shape, np.float32))


def test_external_values_are_a_view_of_the_file_not_a_copy(tmp_path: Path) -> None:
    onnx.save(
        holding(onnx.numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    model = load_model(tmp_path / "m.onnx")
    before = model.array(model.main.initializers["w"])
    with (tmp_path / "w.bin").open("r+b") as stream:
        stream.write(np.float32(-5).tobytes())
    assert before[0] == -5


def test_external_data_without_offset_and_length_is_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(4, dtype="<i8").tobytes())
    model = holding(external(TensorProto.INT64, [4], location="w.bin"))
    loaded = load_model(model, base_dir=tmp_path)
    assert loaded.array(loaded.main.initializers["w"]).tolist() == [0, 1, 2, 3]


def test_out_of_range_numbers_in_typed_fields_do_no_harm() -> None:
    for kind, field, number in (("INT8", "int32_data", 300), ("BOOL", "int32_data", -7), ("UINT4", "int32_data", -999)):
        stored = TensorProto(name="w", data_type=TensorProto.DataType.Value(kind), dims=[1])
        getattr(stored, field).append(number)
        model = load_model(holding(stored))
        assert_same(model.array(model.main.initializers["w"]), onnx.numpy_helper.to_array(stored))


# ---- checks


def external(data_type: int, dims: list[int], **fields: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def raw(dims: list[int], size: int, data_type: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", data_type=data_type, dims=dims, raw_data=b"\0" * size)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (raw([4], 15), r"shape \[4\] of FLOAT needs 16 bytes, 15 are stored: tensor 'w': g"),
        (raw([3], 1, TensorProto.INT4), r"shape \[3\] of INT4 needs 2 bytes, 1 are stored: tensor 'w': g"),
        (raw([5], 3, TensorProto.FLOAT6E2M3), r"shape \[5\] of FLOAT6E2M3 needs 4 bytes, 3 are stored: tensor 'w': g"),
        (
            TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], float_data=[1.0]),
            r"shape \[3\] of FLOAT needs 3 numbers, 1 are stored: tensor 'w': g",
        ),
        (
            TensorProto(name="w", data_type=TensorProto.COMPLEX64, dims=[3], float_data=[1.0] * 3),
            r"shape \[3\] of COMPLEX64 needs 6 numbers, 3 are stored: tensor 'w': g",
        ),
        (
            TensorProto(name="w", data_type=TensorProto.UINT2, dims=[5], int32_data=[1] * 5),
            r"shape \[5\] of UINT2 needs 2 numbers, 5 are stored: tensor 'w': g",
        ),
        (
            TensorProto(name="w", data_type=TensorProto.STRING, dims=[2], string_data=[b"one"]),
            r"shape \[2\] does not fit 1 strings: tensor 'w': g",
        ),
        (raw([-1], 4), r"negative dimension in \[-1\]: tensor 'w': g"),
        (raw([1 << 62, 0], 0), r"dimensions too large in \[4611686018427387904, 0\]: tensor 'w': g"),
        (raw([1 << 32, 1 << 32], 4), r"dimensions too large in \[4294967296, 4294967296\]: tensor 'w': g"),
        (raw([1] * 65, 4), "65 dimensions, more than 64: tensor 'w': g"),
        (raw([1], 4, 99), "unknown element type 99: tensor 'w': g"),
        (raw([1], 4, 0), "unknown element type 0: tensor 'w': g"),
        (
            TensorProto(name="w", data_type=1, dims=[1], segment=TensorProto.Segment(begin=0, end=1)),
            "stored in segments, which nothing supports: tensor 'w': g",
        ),
        (external(1, [4]), "external data of 'w': g names no file"),
        (external(1, [4], location="missing"), "external data not found: 'missing' of 'w': g"),
        (external(1, [4], location="w.bin", offset="1"), r"shape \[4\] of FLOAT needs 16 bytes, 15 are stored: .*"),
        (
            external(1, [4], location="w.bin", offset="8", length="16"),
            "external data of 'w': g covers bytes 8 to 24, the file has 16",
        ),
        (
            external(1, [4], location="w.bin", offset="-16", length="16"),
            "external data of 'w': g covers bytes -16 to 0, the file has 16",
        ),
        (external(1, [4], location="w.bin", offset="17"), "external data of 'w': g covers bytes 17 to 16, .*"),
        (external(1, [4], location="w.bin", offset="9" * 19), "external data of 'w': g covers bytes 9{19} to 16, .*"),
        (
            external(1, [4], location="w.bin", offset="9" * 30),
            "external data of 'w': g has an unreadable offset '9{30}'",
        ),
        (external(1, [4], location="w.bin", length="0x10"), "external data of 'w': g has an unreadable length '0x10'"),
        (external(1, [4], location="w.bin", length=" 16"), "external data of 'w': g has an unreadable length ' 16'"),
        (external(1, [4], location="w.bin", length="1_6"), "external data of 'w': g has an unreadable length '1_6'"),
        (external(1, [4], location="w.bin", length="١٦"), "external data of 'w': g has an unreadable length '١٦'"),
        (external(TensorProto.STRING, [1], location="w.bin"), r"shape \[1\] does not fit 0 strings: tensor 'w': g"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tmp_path: Path, tensor: TensorProto, message: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    with pytest.raises(ModelError, match=f"^{message}$"):
        load_model(holding(tensor), base_dir=tmp_path)


def test_a_repeated_key_of_external_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    tensor = external(1, [4], location="w.bin")
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(ModelError, match=r"^external data of 'w': g names something twice$"):
        load_model(holding(tensor), base_dir=tmp_path)


def test_inline_and_external_data_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    tensor = external(1, [4], location="w.bin")
    tensor.raw_data = b"\0" * 16
    with pytest.raises(ModelError, match=r"^holds both inline and external data: tensor 'w': g$"):
        load_model(holding(tensor), base_dir=tmp_path)


def test_external_data_of_a_model_from_memory_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^external data of 'w': g needs a folder$") as caught:
        load_model(holding(external(1, [4], location="w.bin")))
    assert caught.value.hint == "pass base_dir=, or give the model's path"


@pytest.mark.parametrize(
    "place", ["attribute", "list", "sparse attribute", "sparse list", "sparse initializer", "body"]
)
def test_tensors_are_checked_wherever_they_are(place: str) -> None:
    bad = raw([4], 3)
    sparse = onnx.SparseTensorProto(values=raw([1], 4), indices=bad, dims=[9])
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (bool c, float[N] x) => (float[N] y) {
            y = If (c) <
                then_branch = t () => (float[N] p) { p = Relu(x) },
                else_branch = e () => (float[N] q) { q = Neg(x) }
            >
        }""")
    node = model.graph.node[0]
    if place == "attribute":
        node.attribute.append(onnx.helper.make_attribute("value", bad))
    elif place == "list":
        node.attribute.append(onnx.helper.make_attribute("values", [bad]))
    elif place == "sparse attribute":
        node.attribute.append(onnx.helper.make_attribute("value", sparse))
    elif place == "sparse list":
        node.attribute.append(onnx.helper.make_attribute("values", [sparse]))
    elif place == "sparse initializer":
        model.graph.sparse_initializer.append(sparse)
    else:
        node.attribute[1].g.initializer.append(bad)
    with pytest.raises(ModelError, match=r"^shape \[4\] of FLOAT needs 16 bytes, 3 are stored: tensor 'w': g$"):
        load_model(model)


@pytest.mark.parametrize("place", ["node", "body", "default"])
def test_tensors_of_a_function_are_checked_though_nothing_calls_it(place: str) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17, "own": 1]>
        g (float[N] x) => (float[N] y) { y = Relu(x) }
        <domain: "own", opset_import: ["": 17]>
        f (c, x) => (y) { y = If (c) <
            then_branch = t () => (float[N] p) { p = Neg(x) }, else_branch = e () => (float[N] q) { q = Abs(x) }> }""")
    stored, bad = model.functions[0], raw([4], 3)
    if place == "node":
        stored.node.append(onnx.helper.make_node("Constant", [], ["k"], value=bad))
    elif place == "body":
        stored.node[0].attribute[0].g.initializer.append(bad)
    else:
        stored.attribute_proto.append(onnx.helper.make_attribute("k", bad))
    with pytest.raises(ModelError, match=r"^shape \[4\] of FLOAT needs 16 bytes, 3 are stored: tensor 'w': g$"):
        load_model(model)


def test_a_data_file_is_opened_once_and_only_when_it_is_needed(tmp_path: Path) -> None:
    storage = Storage(tmp_path.resolve(), None, where="m")
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    tensor = external(1, [2], location="w.bin", length="8")
    assert storage.stored_bytes(tensor) == 8
    (tmp_path / "w.bin").unlink()
    assert storage.array(tensor).tolist() == [0, 0]


def storage_forms():
    """A product with a sparse weight, half precision in int32 fields, and constants in every form."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 6] x) => (float[N, 4] y) {
            bias = Constant<value_floats = [0.5, -0.5, 0.25, 0.0]>()  one = Constant<value_float = 2.0>()
            first = Constant<value_int = 0>()  axes = Constant<value_ints = [0, 1]>()
            a = MatMul(x, W)  b = Add(a, bias)  c = Mul(b, one)  e = Cast<to = 1>(H)  f = Mul(c, e)  y = Add(f, k) }""")
    values, places = numpy_helper.from_array(np.array([1.5, -2, 0.25], np.float32), "W"), [1, 11, 20]
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(places), "places"), [6, 4])
    )
    half = onnx.TensorProto(name="H", data_type=onnx.TensorProto.FLOAT16, dims=[4])
    half.int32_data.extend(np.array([1, -2, 0.5, 4], np.float16).view(np.uint16).tolist())
    model.graph.initializer.append(half)
    three = numpy_helper.from_array(np.array([3], np.float32))
    sparse = helper.make_sparse_tensor(three, numpy_helper.from_array(np.array([[2]])), [4])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], sparse_value=sparse))
    return model


def test_sparse_weights_and_constants_of_every_form_are_read_like_others(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(storage_forms(), path)
    model = load_model(path)
    expected = np.zeros((6, 4), np.float32)
    expected[[0, 2, 5], [1, 3, 0]] = [1.5, -2, 0.25]
    stored = {name: model.array(tensor) for name in ("W", "H") if (tensor := model.main.stored(name)) is not None}
    assert stored["W"].tolist() == expected.tolist()
    assert stored["H"].tolist() == [1, -2, 0.5, 4]
    constants = {name: model.array(model.main.stored(name)).tolist() for name in ("bias", "one", "first", "axes", "k")}
    assert constants == {"bias": [0.5, -0.5, 0.25, 0], "one": 2, "first": 0, "axes": [0, 1], "k": [0, 0, 3, 0]}
    weight = next(row for row in onnxscope.weights(path) if row.parameter.name == "W")
    assert weight.summary.overall.mean == pytest.approx(expected.mean(dtype=np.float64))
    assert weight.summary.overall.std == pytest.approx(expected.astype(np.float64).std(ddof=1))
    assert weight.summary.overall.zero_fraction == 21 / 24
    x = np.random.default_rng(3).standard_normal((3, 6)).astype(np.float32)
    y = ((x @ expected + [0.5, -0.5, 0.25, 0]) * 2 * [1, -2, 0.5, 4] + [0, 0, 3, 0]).astype(np.float32)
    np.testing.assert_allclose(onnxscope.features(path, x, select="value:y")[0].data, y, rtol=1e-6)
    assert [layer.layer for layer in onnxscope.inspect(path).layers] == ["MatMul_0"]


def test_the_proto_that_was_handed_in_keeps_its_forms():
    proto = storage_forms()
    before = proto.SerializeToString()
    load_model(proto)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize(
    ("dims", "places", "message"),
    [
        ([6, 4], np.array([1, 24]), "a value lies outside of"),
        ([6, 4], np.array([-1, 2]), "a value lies outside of"),
        ([6, 4], np.array([[0, 0], [0, 4]]), "a value lies outside of"),
        ([6, 4], np.array([1, 2, 3]), "2 values at places of shape"),
        ([6, 4], np.array([1, 2], np.int32), "places of int64"),
        ([-6, 4], np.array([1, 2]), "the shape .* is none"),
    ],
)
def test_places_that_a_sparse_weight_does_not_have_are_refused(dims, places, message):
    proto = storage_forms()
    sparse = proto.graph.sparse_initializer[0]
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([1, 2], np.float32), "W"))
    sparse.indices.CopyFrom(numpy_helper.from_array(places, "places"))
    sparse.dims[:] = dims
    with pytest.raises(ModelError, match=message):
        load_model(proto)


def test_a_sparse_weight_of_many_gigabytes_stays_sparse():
    proto = storage_forms()
    proto.graph.sparse_initializer[0].dims[:] = [1 << 30, 1 << 20]
    model = load_model(proto)
    assert "W" not in model.main.initializers
    assert len(model.proto.graph.sparse_initializer) == 1


@pytest.mark.parametrize("place", ["attribute", "initializer"])
def test_places_outside_of_a_sparse_tensor_that_stays_sparse_are_refused(place):
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "W")
    sparse = helper.make_sparse_tensor(
        values, numpy_helper.from_array(np.array([[0, 0], [0, 1 << 20]]), "places"), [1 << 30, 1 << 20]
    )
    proto = storage_forms()
    if place == "initializer":
        proto.graph.sparse_initializer[0].CopyFrom(sparse)
    else:
        proto.graph.node[0].attribute.append(helper.make_attribute("other", sparse))
    with pytest.raises(ModelError, match=r"^a value lies outside of \[1073741824, 1048576\]: sparse tensor 'W': "):
        load_model(proto)


def test_a_hole_that_many_tensors_share_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "w.bin", "wb") as stream:
        stream.truncate(3 << 30)
    proto = storage_forms()
    for index in range(16):
        tensor = external(TensorProto.FLOAT, [3 << 28], location="w.bin")
        tensor.name = f"shared{index}"
        proto.graph.initializer.append(tensor)
    assert load_model(proto, base_dir=tmp_path)
    for index in range(16, 2000):
        tensor = external(TensorProto.FLOAT, [3 << 28], location="w.bin")
        tensor.name = f"shared{index}"
        proto.graph.initializer.append(tensor)
    with pytest.raises(
        ModelError, match=r"^its tensors cover 6,442,450,944,000 bytes of files that have 3,221,225,472"
    ):
        load_model(proto, base_dir=tmp_path)
