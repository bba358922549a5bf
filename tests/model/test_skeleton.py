"""The scanner of untrusted bytes: opening files, contained paths, skeletons."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, TensorProto

from onnxscope.errors import ModelError
from onnxscope.model.loading import load_model
from onnxscope.model.skeleton import MappedFile, contained_path, skeleton_of
from onnxscope.runtime.session import open_session

TWO_LAYERS = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 64] x) => (float[N, 16] y) { h = MatMul(x, w1)  r = Relu(h)  m = MatMul(r, w2)  y = Add(m, b) }"""


def two_layers() -> ModelProto:
    rng = np.random.default_rng(7)
    model = onnx.parser.parse_model(TWO_LAYERS)
    for name, shape in (("w1", (64, 32)), ("w2", (32, 16)), ("b", (16,))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return model


def plain_run(path: Path, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """What onnxruntime computes from the file itself, without anything of ours."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return list(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds))


def varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def skeleton(path: Path) -> ModelProto:
    return ModelProto.FromString(skeleton_of(MappedFile(path), where=path.name))


# ---- skeletons


def test_a_skeleton_points_at_the_bytes_of_large_weights_and_keeps_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(two_layers(), path)
    proto = skeleton(path)
    original = two_layers()
    for tensor, stored in zip(proto.graph.initializer, original.graph.initializer, strict=True):
        assert (tensor.name, tensor.data_type, list(tensor.dims)) == (stored.name, stored.data_type, list(stored.dims))
    w1 = proto.graph.initializer[0]
    reference = {entry.key: entry.value for entry in w1.external_data}
    offset, length = int(reference["offset"]), int(reference["length"])
    assert reference["location"] == "model.onnx"
    assert w1.data_location == TensorProto.EXTERNAL
    assert not w1.HasField("raw_data")
    assert path.read_bytes()[offset : offset + length] == original.graph.initializer[0].raw_data
    assert proto.graph.initializer[2].raw_data == original.graph.initializer[2].raw_data  # 64 bytes stay inline
    for message in (proto, original):
        del message.graph.initializer[:]
    assert proto == original


def test_a_skeleton_of_a_large_file_is_tiny(tmp_path: Path) -> None:
    model = two_layers()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((64, 65536), np.float32), "w1"))
    onnx.save(model, tmp_path / "large.onnx")
    file = MappedFile(tmp_path / "large.onnx")
    assert file.size_bytes > 16 << 20
    assert len(skeleton_of(file, where="large.onnx")) < 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell which pages are resident")
def test_pages_that_were_read_are_given_back_and_read_again(tmp_path: Path) -> None:
    def resident_kilobytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:"))

    path = tmp_path / "large"
    numbers = np.arange(4 << 20, dtype=np.int64)
    path.write_bytes(numbers.tobytes())
    file = MappedFile(path)
    values = np.frombuffer(file.data, np.int64)
    assert np.array_equal(values, numbers)
    before = resident_kilobytes()
    file.release()
    assert resident_kilobytes() < before - 30_000
    assert np.array_equal(values, numbers)


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_onnxruntime_gives_the_same_bits_from_skeleton_and_file(tmp_path: Path, external: bool) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(two_layers(), path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists() == external
    feeds = {"x": np.random.default_rng(3).normal(size=(5, 64)).astype(np.float32)}
    model = load_model(path)
    mine = open_session(model).run(feeds)
    assert len(model.proto.SerializeToString()) < 1500
    np.testing.assert_array_equal(mine["y"], plain_run(path, feeds)[0])


def test_the_working_folder_is_never_searched_for_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    for place, scale in ((folder, 1.0), (elsewhere, 100.0)):
        place.mkdir()
        model = two_layers()
        for tensor in model.graph.initializer:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * scale, tensor.name))
        onnx.save(model, place / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    feeds = {"x": np.ones((1, 64), np.float32)}
    expected = plain_run(folder / "model.onnx", feeds)[0]
    monkeypatch.chdir(elsewhere)
    loaded = load_model("../model/model.onnx")
    found = open_session(loaded).run(feeds)["y"]
    np.testing.assert_array_equal(found, expected)


def test_typed_data_stays_inline(tmp_path: Path) -> None:
    model = two_layers()
    values = np.arange(64 * 32, dtype=np.float32)
    model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("w1", TensorProto.FLOAT, (64, 32), values))
    onnx.save(model, tmp_path / "typed.onnx")
    assert list(skeleton(tmp_path / "typed.onnx").graph.initializer[0].float_data) == list(values)


def test_millions_of_small_fields_take_little_memory() -> None:
    import tracemalloc

    many = varint(1 << 3) + b"\x08"  # ir_version, again and again
    message = many * 200_000 + field(7, b"") + many * 200_000

    class Bytes:
        data = memoryview(message)
        path = Path("many.onnx")

    tracemalloc.start()
    try:
        skeleton_of(Bytes(), where="many.onnx")  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(message)


def test_a_repeated_raw_data_field_means_its_last_value(tmp_path: Path) -> None:
    first, last = b"\x01" * 2048, b"\x02" * 2048
    tensor = (
        varint(1 << 3) + varint(2048) + varint(2 << 3) + b"\x03" + field(8, b"w") + field(9, first) + field(9, last)
    )
    content = b"\x08\x09" + field(7, field(5, tensor)) + field(8, field(1, b"") + b"\x10\x11")
    path = tmp_path / "twice.onnx"
    path.write_bytes(content)
    assert ModelProto.FromString(content).graph.initializer[0].raw_data == last
    model = load_model(path)
    np.testing.assert_array_equal(model.array(model.main.initializers["w"]), np.full(2048, 2, np.int8))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\x08\x09", "no graph in it"),
        (field(7, b"") + field(7, b""), "2 graphs in it"),
        (b"\x38\x01", "the graph has wire type 0"),
        (b"\x00\x01", "field number 0 at byte 0"),
        (b"\x08\x09\x0b\x0c", "wire type 3 at byte 2"),
        (b"\x3f", "wire type 7 at byte 0"),
        (b"\x08" + b"\xff" * 11, "a broken number at byte 1"),
        (b"\x08\xff", "a broken number at byte 1"),
        (b"\xff", "a broken number at byte 0"),
        (b"\x3a\x05\x0a", "a field at byte 0 ends 4 bytes beyond its end"),
        (b"\x3a" + varint((1 << 63) - 1), "beyond its end"),
        (b"\x39\x00", "a field at byte 0 ends 7 bytes beyond its end"),
        (b"\x3d\x00", "a field at byte 0 ends 3 bytes beyond its end"),
        (field(7, b"\x2a\xff\x01" + b"x" * 8), "beyond its end"),
        (field(7, field(5, b"\x4a" + varint(1 << 40) + b"x" * 2000)), "beyond its end"),
    ],
)
def test_what_is_not_protobuf_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"^not an ONNX model .*{fault}.*: bad.onnx$") as caught:
        skeleton_of(MappedFile(path), where="bad.onnx")
    assert caught.value.hint == "give a file that an ONNX exporter wrote"


def sparse_model(path: Path, value_bytes: int) -> int:
    """Write by hand a model whose one weight is a hole in the file with a mark at its end; return its length."""
    head = varint(1 << 3) + varint(value_bytes // 4) + b"\x10\x01" + field(8, b"w")
    raw = varint(9 << 3 | 2) + varint(value_bytes)
    tensor_size = len(head) + len(raw) + value_bytes
    nodes = field(1, onnx.helper.make_node("ReduceMax", ["w"], ["y"], keepdims=0).SerializeToString())
    output = field(12, onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, []).SerializeToString())
    graph_size = len(nodes) + len(varint(5 << 3 | 2) + varint(tensor_size)) + tensor_size + len(output)
    tail = output + field(8, b"\x10\x11")
    with path.open("wb") as stream:
        stream.write(b"\x08\x09" + varint(7 << 3 | 2) + varint(graph_size) + nodes)
        stream.write(varint(5 << 3 | 2) + varint(tensor_size) + head + raw)
        stream.seek(value_bytes - 4, os.SEEK_CUR)
        stream.write(np.float32(42).tobytes() + tail)
    return path.stat().st_size


def check_sparse_model(path: Path, value_bytes: int) -> None:
    assert sparse_model(path, value_bytes) > value_bytes
    model = load_model(path)
    assert len(model.proto.SerializeToString()) < 500
    weight = model.array(model.main.initializers["w"])
    assert weight.shape == (value_bytes // 4,)
    assert (weight[0], weight[-1]) == (0, 42)
    assert open_session(model).run({})["y"] == 42


def test_a_hand_written_model_with_a_hole_is_read_in_place(tmp_path: Path) -> None:
    check_sparse_model(tmp_path / "hole.onnx", 8 << 20)
    assert ModelProto.FromString((tmp_path / "hole.onnx").read_bytes()).graph.node[0].op_type == "ReduceMax"


@pytest.mark.acceptance
def test_a_model_over_two_gigabytes_is_read_and_run(tmp_path: Path) -> None:
    check_sparse_model(tmp_path / "huge.onnx", (2 << 30) + (64 << 20))


def test_a_model_over_two_gigabytes_without_its_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.write(field(7, b"") + varint(2 << 3 | 2) + varint(2 << 30))
        stream.truncate(stream.tell() + (2 << 30))
    with pytest.raises(ModelError, match=r"2147\d+ bytes without its weights, more than protobuf's 2 GB\): huge.onnx$"):
        skeleton_of(MappedFile(path), where="huge.onnx")


def test_files_with_unusual_names_are_their_own_data_files(tmp_path: Path) -> None:
    expected = onnx.numpy_helper.to_array(two_layers().graph.initializer[0])
    for name in ("with space.onnx", "a:b.onnx", "back\\slash.onnx", "*", "ünïcode.onnx", "-o", "..onnx"):
        path = tmp_path / name
        onnx.save(two_layers(), os.fspath(path))
        model = load_model(path)
        np.testing.assert_array_equal(model.array(model.main.initializers["w1"]), expected)
        y = open_session(model).run({"x": np.ones((1, 64), np.float32)})["y"]
        assert y.shape == (1, 16)


# ---- opening files


def test_a_file_is_mapped_read_only_and_resolved(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(b"abc")
    (tmp_path / "link.bin").symlink_to("real.bin")
    file = MappedFile(tmp_path / "link.bin")
    assert (file.path, file.size_bytes, bytes(file.data)) == ((tmp_path / "real.bin").resolve(), 3, b"abc")
    assert file.data.readonly


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    for name, fault in (
        ("missing\x1b[31m", r"^no such file: .*missing\\x1b\[31m$"),
        ("empty", "^the file is empty: .*empty$"),
        (".", "^not a regular file: "),
        ("fifo", "^not a regular file: .*fifo$"),
        ("loop", "^cannot open .*: .*loop$"),
        ("nul\0byte", r"^cannot open \(not a usable path\): .*nul\\x00byte$"),
        ("x" * 5000, r"^cannot open \(File name too long\): "),
    ):
        with pytest.raises(ModelError, match=fault):
            MappedFile(tmp_path / name)


def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)  # root may read everything, so be nobody for a moment
    try:
        with pytest.raises(ModelError, match=r"^cannot open \(Permission denied\): "):
            MappedFile(tmp_path / "secret")
    finally:
        if as_root:
            os.seteuid(0)


# ---- contained paths


def test_a_contained_path_may_go_down_and_through_links_that_stay_inside(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    (folder / "sub").mkdir()
    (folder / "sub" / "w.bin").write_bytes(b"x")
    (folder / "link.bin").symlink_to("sub/w.bin")
    for location in ("sub/w.bin", "./sub/w.bin", "sub//w.bin", "link.bin"):
        assert contained_path(folder, location, owner="'w': m") == folder / "sub" / "w.bin"


@pytest.mark.parametrize(
    ("location", "fault"),
    [
        ("/etc/hostname", "outside the model's folder"),
        ("\\\\server\\share", "outside the model's folder"),
        ("C:\\w.bin", "outside the model's folder"),
        ("C:w.bin", "outside the model's folder"),
        ("../w.bin", "outside the model's folder"),
        ("sub/../../w.bin", "outside the model's folder"),
        ("sub/../w.bin", "outside the model's folder"),
        ("..\\w.bin", "outside the model's folder"),
        ("", "outside the model's folder"),
        ("w.bin\0.txt", "outside the model's folder"),
        ("sub\\w.bin", "with a backslash in its path"),
        ("*/_ORT_MEM_ADDR_/*", "at a place that no file can have"),
        ("./*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*", "at a place that no file can have"),
        ("link.bin", r"outside the model's folder \(through a symbolic link\)"),
        ("linked/w.bin", r"outside the model's folder \(through a symbolic link\)"),
        ("hard.bin", "has 2 hard links"),
        ("missing.bin", "not found"),
        ("sub/w.bin/deeper", "not found"),
        ("x" * 5000, "not found"),
        ("loop", "not found"),
        ("sub", "is not a regular file"),
        ("fifo", "is not a regular file"),
    ],
)
def test_a_reference_that_leads_elsewhere_is_refused(tmp_path: Path, location: str, fault: str) -> None:
    outside = tmp_path / "w.bin"
    outside.write_bytes(b"secret")
    folder = (tmp_path / "model").resolve()
    (folder / "sub").mkdir(parents=True)
    for place in ("sub/w.bin", "sub\\w.bin", "hard.bin"):
        (folder / place).write_bytes(b"x")
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (folder / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(b"x" * 64)
    os.link(folder / "hard.bin", tmp_path / "other name")
    (folder / "link.bin").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    with pytest.raises(ModelError, match=f"^external data .*{fault}.* of 'w': m$") as caught:
        contained_path(folder, location, owner="'w': m")
    assert "\0" not in str(caught.value)
