"""Loading: what is taken as a model, and what a model works out of itself once."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from nested_models import function, with_functions
from onnx import ModelProto, TensorProto

from onnxscope.errors import ModelError
from onnxscope.model import loading
from onnxscope.model.graphs import ValueType
from onnxscope.model.loading import load_model
from onnxscope.runtime.session import open_session

PLAIN = """
    <ir_version: 9, opset_import: ["": 17, "own.domain": 2], producer_name: "maker", producer_version: "1.5">
    plain (float[N, 3] x, float[3] d, string[?] s) => (float[N, 3] y) <float[3] d = {1, 2, 3}> { y = Add(x, d) }"""


def parse(text: str) -> ModelProto:
    return onnx.parser.parse_model(text)


def test_a_model_from_memory_is_copied_and_left_alone() -> None:
    proto = with_functions(
        "g (float[-1, 4] x) => (float[-1, 2] y) { a, b = Split <axis = 1> (x)  y = l.f(a) }",
        function("f (x) => (y)", "y = Relu(x)"),
    )
    proto.graph.node[0].output[1] = ""
    before = proto.SerializeToString(deterministic=True)
    model = load_model(proto)
    assert model.proto.graph.node[0].output[1] != ""
    assert proto.SerializeToString(deterministic=True) == before
    assert (model.name, model.folder, model.size_bytes) == ("g", None, proto.ByteSize())


def test_a_loaded_model_is_taken_as_it_is() -> None:
    model = load_model(parse(PLAIN))
    assert load_model(model) is model


def test_a_model_is_found_through_a_symbolic_link_with_its_data_beside_the_real_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    proto = parse(PLAIN)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones(3, np.float32), "d"))
    onnx.save(proto, tmp_path / "real" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "link.onnx").symlink_to("real/m.onnx")
    model = load_model(str(tmp_path / "link.onnx"))
    assert model.name == "link.onnx"
    assert model.array(model.main.initializers["d"]).tolist() == [1, 1, 1]


def test_what_is_neither_a_path_nor_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^a model is a path or a ModelProto, not bytes$"):
        load_model(b"onnx")


def test_what_the_scanner_passes_but_protobuf_cannot_parse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\x08\x09\x3a\x02\x0a\x05\x42\x02\x10\x11")  # a node longer than its graph: scanned, not parsed
    with pytest.raises(ModelError, match=r"^not an ONNX model \(.*\): bad.onnx$"):
        load_model(path)
    path.write_bytes(b"\x08\x09\x3a\x04\x0a\x02\x0a\x05\x42\x02\x10\x11")
    with pytest.raises(ModelError, match=r"^not an ONNX model \(protobuf cannot parse it\): bad.onnx$"):
        load_model(path)


def test_a_model_travels_as_its_path_or_as_its_bytes(tmp_path):
    path = tmp_path / "m.onnx"
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[2] x) => (float[2] y) { y = Relu(x) }""")
    onnx.save(model, path)
    loaded = load_model(path)
    whole = hashlib.sha256(hashlib.sha256(model.SerializeToString()).digest()).hexdigest()
    assert loaded.digest == whole
    travelling = pickle.dumps(loaded)
    assert pickle.loads(travelling).proto == loaded.proto
    assert pickle.loads(pickle.dumps(load_model(model))).proto == loaded.proto
    path.write_bytes(path.read_bytes() + b"\x32\x01a")  # one more field, doc_string
    with pytest.raises(ModelError, match=r"^the file has changed while it was in use: m\.onnx$"):
        pickle.loads(travelling)
    assert load_model(path).digest != whole


# ---- what a model knows of itself


NETWORK = """
    <ir_version: 9, opset_import: ["": 17]>
    net (int64[N, 4] ids) => (float[N, 4, 2] y)
    <float[5, 3] table = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, float[3, 2] w = {1,2,3,4,5,6}>
    { e = Gather(table, ids)  m = MatMul(e, w)  y = Relu(m) }"""


def test_a_model_knows_its_layers_parameters_axes_and_types() -> None:
    model = load_model(parse(NETWORK))
    assert [layer.kind for layer in model.layers] == ["Gather", "Linear"]
    assert {parameter.initializer: parameter.shape for parameter in model.parameters} == {"table": (5, 3), "w": (3, 2)}
    assert model.absent == []
    assert model.index_bounds == {"ids": (0, 5)}
    assert model.channel_axes(())["m"] == -1
    assert model.types[()]["e"] == ValueType("float32", ("N", 4, 3), TensorProto.FLOAT, "tensor")
    assert {name: model.ranks[name] for name in ("ids", "e", "m", "y")} == {"ids": 2, "e": 3, "m": 3, "y": 3}
    assert {model.names.layers[node] for node in model.main.nodes} == {"Gather_0", "MatMul_0", "Relu_0"}


@pytest.mark.parametrize(
    ("worker", "ask"),
    [
        ("Names", lambda model: model.names),
        ("find_layers", lambda model: model.layers),
        ("find_parameters", lambda model: (model.parameters, model.absent)),
        ("_index_bounds", lambda model: model.index_bounds),
        ("activation_axes", lambda model: model.channel_axes(())),
        ("infer_types", lambda model: model.types),
        ("infer_ranks", lambda model: model.ranks),
    ],
)
def test_each_is_worked_out_once_and_not_before_it_is_asked_for(worker, ask, monkeypatch) -> None:
    calls = []
    work = getattr(loading, worker)
    monkeypatch.setattr(loading, worker, lambda *given: calls.append(worker) or work(*given))
    model = load_model(parse(NETWORK))
    assert calls == []
    first = ask(model)
    assert ask(model) == first
    assert calls == [worker]


def test_of_threads_that_ask_for_types_at_once_one_infers(monkeypatch) -> None:
    calls = []

    def slow(model):
        calls.append(threading.get_ident())
        time.sleep(0.05)
        return {(): {}}

    monkeypatch.setattr(loading, "infer_types", slow)
    model = load_model(parse(NETWORK))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: model.types, range(4)))
    assert len(calls) == 1
    assert all(types is answers[0] for types in answers)


def test_what_a_model_has_worked_out_neither_travels_nor_stands_in_the_way() -> None:
    model = load_model(parse(NETWORK))
    before = len(pickle.dumps(model))
    assert model.types
    assert model.layers
    assert model.parameters
    assert len(pickle.dumps(model)) == before
    assert [layer.name for layer in pickle.loads(pickle.dumps(model)).layers] == [layer.name for layer in model.layers]


def test_a_model_that_is_let_go_is_gone_at_once() -> None:
    model = load_model(parse(NETWORK))
    layers, parameters, names = model.layers, model.parameters, model.names
    there = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert there() is None  # and with it the map of its file: nothing that it knows refers to it
    finally:
        gc.enable()
    assert (len(layers), len(parameters), len(names.weighted)) == (2, 2, 2)


def hub(root: Path) -> Path:
    """A model hub's cache: a snapshot of links into a folder of blobs. Returns the model's path in it."""
    snapshot, blobs = root / "snapshots" / "abc" / "onnx", root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    proto = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 64] x) => (float[N, 2] y) <float[64, 64] inside = {{{", ".join(["0.5"] * 4096)}}}> {{
            h = MatMul(x, inside)  y = MatMul(h, outside) }}""")
    inside = onnx.numpy_helper.to_array(proto.graph.initializer[0])
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(inside, "inside"))  # as raw bytes
    weight = np.arange(128, dtype=np.float32).reshape(64, 2)
    outside = proto.graph.initializer.add(name="outside", data_type=1, dims=weight.shape, data_location=1)
    outside.external_data.add(key="location", value="model.onnx_data")
    (blobs / "aaaa").write_bytes(proto.SerializeToString())
    (blobs / "bbbb").write_bytes(weight.tobytes())
    (snapshot / "model.onnx").symlink_to("../../../blobs/aaaa")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/bbbb")
    return snapshot / "model.onnx"


@pytest.mark.parametrize("kind", ["links", "a copied model", "copied data", "through a link to the folder"])
def test_a_model_in_a_hubs_cache_of_links_is_read_and_run(tmp_path: Path, kind: str) -> None:
    path = hub(tmp_path / "hub")
    copied = {"a copied model": path, "copied data": path.with_name("model.onnx_data")}.get(kind)
    if copied is not None:
        content = copied.read_bytes()
        copied.unlink()
        copied.write_bytes(content)
    if kind.startswith("through"):
        (tmp_path / "latest").symlink_to(path.parent)
        path = tmp_path / "latest" / "model.onnx"
    model = load_model(path)
    weight = np.arange(128, dtype=np.float32).reshape(64, 2)
    assert model.name == "model.onnx"
    np.testing.assert_array_equal(model.array(model.main.initializers["outside"]), weight)
    x = np.random.default_rng(4).standard_normal((3, 64)).astype(np.float32)
    for loaded in (model, pickle.loads(pickle.dumps(model))):
        y = open_session(loaded).run({"x": x})["y"]
        np.testing.assert_allclose(y, x @ np.full((64, 64), 0.5, np.float32) @ weight, rtol=1e-4)


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        ("secret beside the store", "through a symbolic link"),
        ("absolute", "through a symbolic link"),
        ("a chain through a blob", "through a symbolic link"),
        ("another store", "through a symbolic link"),
        ("the store is a link", "through a symbolic link"),
        ("below the store", "through a symbolic link"),
        ("hard link", "2 hard links"),
        ("climbing", "outside the model's folder"),
    ],
)
def test_links_that_lead_out_of_a_hubs_store_are_refused(tmp_path: Path, plant: str, fault: str) -> None:
    path = hub(tmp_path / "hub")
    blobs, data = tmp_path / "hub" / "blobs", path.with_name("model.onnx_data")
    secret = tmp_path / "hub" / "secret"
    secret.write_bytes(b"x" * 512)
    data.unlink()
    if plant == "secret beside the store":
        data.symlink_to("../../../secret")
    elif plant == "absolute":
        data.symlink_to("/etc/hostname")
    elif plant == "a chain through a blob":
        (blobs / "bbbb").unlink()
        (blobs / "bbbb").symlink_to(secret)
        data.symlink_to("../../../blobs/bbbb")
    elif plant == "another store":
        data.symlink_to(tmp_path / "other" / "blobs" / "bbbb")
        hub(tmp_path / "other")
    elif plant == "the store is a link":
        data.symlink_to("../../../blobs/bbbb")
        blobs.rename(tmp_path / "elsewhere")
        blobs.symlink_to(tmp_path / "elsewhere")
    elif plant == "below the store":
        (blobs / "sub").mkdir()
        (blobs / "sub" / "bbbb").write_bytes(b"x" * 512)
        data.symlink_to("../../../blobs/sub/bbbb")
    elif plant == "hard link":
        os.link(blobs / "bbbb", tmp_path / "other name")
        data.symlink_to("../../../blobs/bbbb")
    else:
        proto = onnx.ModelProto.FromString((blobs / "aaaa").read_bytes())
        proto.graph.initializer[1].external_data[0].value = "../../../blobs/bbbb"
        (blobs / "aaaa").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=f"^external data .*{fault}.*: model.onnx$"):
        load_model(path)


def test_a_link_to_a_model_finds_data_beside_itself_or_beside_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Add(x, w) }'
    )
    weight = proto.graph.initializer.add(name="w", data_type=1, dims=[2], data_location=1)
    weight.external_data.add(key="location", value="w.bin")
    onnx.save(proto, tmp_path / "real" / "m.onnx")
    (tmp_path / "link.onnx").symlink_to("real/m.onnx")
    for place, numbers in ((tmp_path / "real", [1, 2]), (tmp_path, [3, 4])):
        (place / "w.bin").write_bytes(np.array(numbers, np.float32).tobytes())
        model = load_model(tmp_path / "link.onnx")
        assert model.array(model.main.initializers["w"]).tolist() == numbers
        assert open_session(model).run({"x": np.zeros(2, np.float32)})["y"].tolist() == numbers
