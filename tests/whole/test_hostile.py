"""Any file may be hostile: one clear line, exit 2, nothing half-written, no code run, nothing left behind.

Every case runs the command line in this process, in a folder whose whole content is compared before and after.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import random
import re
import signal
import struct
import xml.etree.ElementTree
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from evil_names import EVIL_NAMES, commands_of_ci
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

from onnxscope.cli.main import run
from onnxscope.errors import ModelError
from onnxscope.model.loading import Model, load_model

Builder = Callable[[Path], list[str]]
Edit = Callable[[ModelProto], Any]

LIMIT_S = 60  # a hang must fail the test, a busy machine must not
CASES: dict[str, Builder] = {}


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"still busy after {LIMIT_S} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def network() -> ModelProto:
    """A convolution, its activation and a classifier; the weights are large enough to be left in the file."""
    rng = np.random.default_rng(11)
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17], producer_name: "maker">
        net (float[N, 3, 8, 8] image) => (float[N, 10] scores) {
            [first] features = Conv <pads = [1, 1, 1, 1]> (image, kernel, bias)
            [second] active = Relu(features)
            [third] flat = Flatten(active)
            [fourth] scores = Gemm(flat, matrix)
        }""")
    for name, shape in (("kernel", (16, 3, 3, 3)), ("bias", (16,)), ("matrix", (1024, 10))):
        array = (rng.normal(size=shape) * 0.1).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def case(name: str) -> Callable[[Builder], Builder]:
    def add(builder: Builder) -> Builder:
        assert name not in CASES
        CASES[name] = builder
        return builder

    return add


def file_case(name: str, content: Callable[[], bytes], command: str = "inspect") -> None:
    """A hostile file of these bytes."""

    def build(folder: Path) -> list[str]:
        (folder / "m.onnx").write_bytes(content())
        return [command, "m.onnx"]

    case(name)(build)


def edited(name: str, edit: Edit, command: str = "inspect") -> None:
    """The network with one hostile change."""

    def content() -> bytes:
        model = network()
        edit(model)
        return model.SerializeToString()

    file_case(name, content, command)


def text_case(name: str, text: str) -> None:
    file_case(name, lambda: onnx.parser.parse_model(text).SerializeToString())


def external_case(name: str, prepare: Callable[[Path], Any] = lambda folder: None, **fields: str) -> None:
    """The network with its kernel outside, in a folder prepared by the attacker."""

    def build(folder: Path) -> list[str]:
        (folder / "model").mkdir()
        (folder / "outside.bin").write_bytes(b"\0" * 2048)
        (folder / "model" / "w.bin").write_bytes(b"\0" * 1728)
        prepare(folder / "model")
        model = network()
        refer(model.graph.initializer[0], **fields)
        onnx.save(model, folder / "model" / "m.onnx")
        return ["weights", "model/m.onnx"]

    case(name)(build)


def refer(tensor: TensorProto, **fields: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=value)


def nested(depth: int) -> bytes:
    """Bodies within bodies, written without protobuf, which would not write so many."""
    graph = b""
    for _ in range(depth):
        attribute = field(1, b"body") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(4, b"Loop") + field(5, attribute))
    return b"\x08\x09" + field(7, graph) + b"\x42\x04\x0a\x00\x10\x11"


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


# ---- no file, or no model

case("a missing file")(lambda folder: ["inspect", "missing.onnx"])
case("an empty path")(lambda folder: ["inspect", ""])
case("a folder")(lambda folder: ["inspect", "."])
case("a path with escapes")(lambda folder: ["weights", "\x1b]0;owned\x07\x1b[2J\n.onnx"])
file_case("an empty file", lambda: b"")
file_case("a text file", lambda: b"This is a text file, no model.\n" * 100)
file_case("a JSON file", lambda: b'{"graph": {}}')
file_case("a pickle", lambda: evil_pickle(Path("marker")))
file_case("a zip archive", lambda: b"PK\x03\x04" + b"\0" * 200)
file_case("random bytes", lambda: random.Random(4).randbytes(5000))
file_case("zeros", lambda: b"\0" * 100_000)
file_case("ones", lambda: b"\xff" * 100_000)


@case("a FIFO")
def _fifo(folder: Path) -> list[str]:
    os.mkfifo(folder / "m.onnx")
    return ["inspect", "m.onnx"]


@case("a link to an endless device")
def _device(folder: Path) -> list[str]:
    (folder / "m.onnx").symlink_to("/dev/zero")
    return ["weights", "m.onnx"]


@case("a link to itself")
def _loop(folder: Path) -> list[str]:
    (folder / "m.onnx").symlink_to("m.onnx")
    return ["inspect", "m.onnx"]


@case("gigabytes of zeros")
def _zeros(folder: Path) -> list[str]:
    with (folder / "m.onnx").open("wb") as stream:
        stream.truncate(3 << 30)
    return ["inspect", "m.onnx"]


# ---- broken encodings

for _eighth in range(1, 32):
    file_case(
        f"cut after {_eighth}/32",
        lambda part=_eighth: network().SerializeToString()[: len(network().SerializeToString()) * part // 32],
    )
for _less in (1, 2, 3, 4, 5, 6):
    file_case(f"cut {_less} bytes before its end", lambda less=_less: network().SerializeToString()[:-less])
file_case("a length beyond the end", lambda: b"\x08\x09\x3a\xff\x7f" + b"x" * 50)
file_case("a length of 2**63", lambda: b"\x08\x09\x3a" + varint(1 << 63))
file_case("a length that never ends", lambda: b"\x3a" + b"\xff" * 40)
file_case("a number that never ends", lambda: b"\x08" + b"\x80" * 40)
file_case("a group", lambda: b"\x08\x09\x3b\x3c")
file_case("an unknown wire type", lambda: b"\x08\x09\x3e\x00")
file_case("field number 0", lambda: b"\x02\x00" + network().SerializeToString())
file_case("a graph that is a number", lambda: b"\x08\x09\x38\x07\x42\x02\x10\x11")
file_case("a node cut short inside its graph", lambda: b"\x08\x09\x3a\x04\x0a\x02\x0a\x05\x42\x02\x10\x11")
file_case("an initializer cut short", lambda: b"\x08\x09" + field(7, field(5, b"\x4a" + varint(1 << 33) + b"x" * 1500)))
file_case("50 bodies deep", lambda: nested(50))
file_case("5,000 bodies deep", lambda: nested(5000))
file_case("no graph", lambda: b"\x08\x09\x42\x04\x0a\x00\x10\x11")
file_case("two graphs", lambda: network().SerializeToString() * 2)
file_case("two million fields and no graph", lambda: b"\x08\x09" * 2_000_000)
file_case(
    "a million empty nodes", lambda: b"\x08\x09" + field(7, b"\x0a\x00" * 1_000_000) + b"\x42\x04\x0a\x00\x10\x11"
)
file_case(
    "a million nodes",
    lambda: b"\x08\x09" + field(7, field(1, field(4, b"Relu")) * 1_000_000) + b"\x42\x04\x0a\x00\x10\x11",
)
edited("no operator set", lambda m: m.ClearField("opset_import"))
edited("no IR version", lambda m: m.ClearField("ir_version"))

for _text in (b"maker", b"kernel", b"features", b"first", b"Conv", b"pads", b"image", b"net", b"N"):
    file_case(
        f"{_text.decode()!r} that is not UTF-8",
        lambda text=_text: network().SerializeToString().replace(text, b"\xff" + text[1:]),
    )

# ---- graphs that contradict themselves

edited("a cycle", lambda m: m.graph.node[0].input.__setitem__(0, "active"))
edited("a node that reads itself", lambda m: m.graph.node[1].input.__setitem__(0, "active"))
edited("a value that nothing produces", lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"))
edited("an output that nothing produces", lambda m: m.graph.output.append(ValueInfoProto(name="nowhere")))
edited("a value produced twice", lambda m: m.graph.node[1].output.__setitem__(0, "features"))
edited("an input produced by a node", lambda m: m.graph.node[1].output.__setitem__(0, "image"))
edited("an input twice", lambda m: m.graph.input.append(m.graph.input[0]))
edited("an input without a name", lambda m: m.graph.input.append(ValueInfoProto()))
edited("an output without a name", lambda m: m.graph.output.append(ValueInfoProto()))
edited("an initializer twice", lambda m: m.graph.initializer.append(m.graph.initializer[0]))
edited("an initializer without a name", lambda m: m.graph.initializer[0].ClearField("name"))
edited(
    "an attribute twice",
    lambda m: m.graph.node[0].attribute.append(onnx.helper.make_attribute("pads", [0, 0, 0, 0])),
)
edited(
    "a graph hidden in a number",
    lambda m: m.graph.node[0].attribute.append(
        AttributeProto(name="h", type=AttributeProto.INT, g=GraphProto(name="b"))
    ),
)
text_case(
    "a body that reads its own node's output",
    """<ir_version: 9, opset_import: ["": 17]> g (bool c) => (float y) {
        y = If (c) <then_branch = t () => (float y) {}, else_branch = e () => (float y) {}> }""",
)
text_case(
    "a function that calls itself",
    """<ir_version: 9, opset_import: ["": 17, "l": 1]> g (float x) => (float y) { y = l.f(x) }
    <domain: "l", opset_import: ["l": 1]> f (x) => (y) { y = l.f(x) }""",
)
text_case(
    "functions that double 64 times",
    """<ir_version: 9, opset_import: ["": 17, "l": 1]> g (float x) => (float y) { y = l.f64(x) }
    <domain: "l", opset_import: ["": 17]> f0 (x) => (y) { y = Relu(x) }"""
    + "".join(
        f'<domain: "l", opset_import: ["l": 1]> f{i} (x) => (y) {{ a = l.f{i - 1}(x)  y = l.f{i - 1}(a) }}\n'
        for i in range(1, 65)
    ),
)
text_case(
    "a chain of 2,000 functions",
    """<ir_version: 9, opset_import: ["": 17, "l": 1]> g (float x) => (float y) { y = l.f2000(x) }
    <domain: "l", opset_import: ["": 17]> f0 (x) => (y) { y = Relu(x) }"""
    + "".join(
        f'<domain: "l", opset_import: ["l": 1]> f{i} (x) => (y) {{ y = l.f{i - 1}(x) }}\n' for i in range(1, 2001)
    ),
)

# ---- tensors that contradict themselves

edited("a shape larger than its bytes", lambda m: m.graph.initializer[0].dims.__setitem__(0, 17), "weights")
edited("a shape smaller than its bytes", lambda m: m.graph.initializer[2].dims.__setitem__(0, 1), "weights")
edited("a dimension of -1", lambda m: m.graph.initializer[0].dims.__setitem__(0, -1), "weights")
edited(
    "two negative dimensions", lambda m: m.graph.initializer[2].dims.__setitem__(slice(None), [-1024, -10]), "weights"
)
edited("a dimension of 2**62", lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 62), "weights")
edited("dimensions whose product wraps", lambda m: m.graph.initializer[2].dims.extend([1 << 32, 1 << 32]), "weights")
edited("nothing times 2**62", lambda m: m.graph.initializer.add(name="e", data_type=1, dims=[0, 1 << 62], raw_data=b""))
edited("a thousand dimensions", lambda m: m.graph.initializer[2].dims.extend([1] * 1000), "weights")
edited("an unknown element type", lambda m: setattr(m.graph.initializer[0], "data_type", 77), "weights")
edited("no element type", lambda m: setattr(m.graph.initializer[0], "data_type", 0), "weights")
edited("another element type", lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.DOUBLE), "weights")
edited("strings of bytes", lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.STRING), "weights")
edited("segments", lambda m: m.graph.initializer[0].segment.SetInParent(), "weights")
edited("no data", lambda m: m.graph.initializer[0].ClearField("raw_data"), "weights")
edited(
    "a hostile tensor in an attribute",
    lambda m: m.graph.node[0].attribute.append(
        onnx.helper.make_attribute("t", TensorProto(data_type=1, dims=[1 << 40], raw_data=b"\0" * 4))
    ),
)
edited(
    "a large dimension of a random input",
    lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].__setattr__("dim_value", 1 << 62),
    "features",
)

# ---- external data

external_case("external data without a place")
external_case("external data at an absolute path", location="/etc/hostname")
external_case("external data above", location="../outside.bin")
external_case(
    "external data above by a detour", location="sub/../../outside.bin", prepare=lambda f: (f / "sub").mkdir()
)
external_case("external data above with backslashes", location="..\\outside.bin")
external_case("external data with a drive", location="C:\\outside.bin")
external_case(
    "external data whose backslash hides a link",
    location="sub\\w.bin",
    prepare=lambda f: (
        (f / "sub").mkdir(),
        (f / "sub" / "w.bin").write_bytes(b"\0" * 1728),
        (f / "sub\\w.bin").symlink_to(f.parent / "outside.bin"),
    ),
)
external_case(
    "external data through a link", location="link", prepare=lambda f: (f / "link").symlink_to(f.parent / "outside.bin")
)
external_case(
    "external data through a linked folder", location="up/outside.bin", prepare=lambda f: (f / "up").symlink_to("..")
)
external_case(
    "external data through a hard link",
    location="hard",
    prepare=lambda f: os.link(f.parent / "outside.bin", f / "hard"),
)
external_case("external data that is missing", location="missing.bin")
external_case("external data that is a folder", location="sub", prepare=lambda f: (f / "sub").mkdir())
external_case("external data that is the folder", location=".")
external_case("external data that is a FIFO", location="fifo", prepare=lambda f: os.mkfifo(f / "fifo"))
external_case("external data that is a device", location="zero", prepare=lambda f: (f / "zero").symlink_to("/dev/zero"))
external_case("external data that is empty", location="empty", prepare=lambda f: (f / "empty").touch())
external_case("external data with a NUL byte", location="w.bin\0")
external_case("external data with escapes", location="\x1b[31m\n.bin")
external_case("external data beyond the end", location="w.bin", offset="1000", length="1728")
external_case("external data from beyond the end", location="w.bin", offset="5000", length="1728")
external_case("external data from before the start", location="w.bin", offset="-1728", length="1728")
external_case("external data of negative length", location="w.bin", offset="1728", length="-1728")
external_case("external data whose end wraps", location="w.bin", offset=str(2**63 - 1), length="1728")
external_case("external data at an enormous offset", location="w.bin", offset="9" * 6000, length="1728")
external_case("external data at an unreadable offset", location="w.bin", offset="0x0", length="1728")
external_case("external data of unreadable length", location="w.bin", length="many")
external_case("external data that is too short", location="w.bin", length="1000")
external_case("external data at an address", location="*/_ORT_MEM_ADDR_/*", offset="4096", length="1728")
external_case(
    "external data at an address with a decoy",
    location="*/_ORT_MEM_ADDR_/*",
    length="1728",
    prepare=lambda f: (
        (f / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True),
        (f / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(b"\0" * 1728),
    ),
)


@case("external strings")
def _external_strings(folder: Path) -> list[str]:
    (folder / "w.bin").write_bytes(b"\0" * 1728)
    model = network()
    refer(model.graph.initializer[0], location="w.bin")
    model.graph.initializer[0].data_type = TensorProto.STRING
    onnx.save(model, folder / "m.onnx")
    return ["weights", "m.onnx"]


@case("two places for one tensor")
def _two_places(folder: Path) -> list[str]:
    (folder / "w.bin").write_bytes(b"\0" * 1728)
    model = network()
    refer(model.graph.initializer[0], location="w.bin")
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    onnx.save(model, folder / "m.onnx")
    return ["weights", "m.onnx"]


# ---- hostile inputs


class Evil:
    """What a pickle of it does when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def evil_pickle(marker: Path) -> bytes:
    return pickle.dumps(Evil(marker), protocol=2)


def input_case(name: str, file: str, write: Callable[[Path], Any]) -> None:
    def build(folder: Path) -> list[str]:
        onnx.save(network(), folder / "m.onnx")
        write(folder / file)
        return ["features", "m.onnx", "-i", file, "-o", "out", "--preprocess", "unit"]

    case(name)(build)


def objects(folder: Path) -> Any:
    return np.array([Evil(folder / "marker")], dtype=object)


def npy_header(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def png(width: int, height: int, pixels: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"
input_case("a missing image", "photo.jpg", lambda path: None)
input_case("a text file as an image", "photo.jpg", lambda path: path.write_text("no image"))
input_case("an image cut short", "photo.png", lambda path: path.write_bytes(png(64, 64, b"\0" * 12352)[:60]))
input_case("a decompression bomb", "photo.png", lambda path: path.write_bytes(png(60_000, 60_000, b"\0" * 10_000_000)))
input_case("a FIFO as an image", "photo.png", os.mkfifo)
input_case("an array of objects", "x.npy", lambda path: np.save(path, objects(path.parent), allow_pickle=True))
input_case("an archive of objects", "x.npz", lambda path: np.savez(path, image=objects(path.parent)))
input_case("a pickle as an array", "x.npy", lambda path: path.write_bytes(evil_pickle(path.parent / "marker")))
input_case("a pickle as an archive", "x.npz", lambda path: path.write_bytes(evil_pickle(path.parent / "marker")))
input_case("an array with an enormous shape", "x.npy", lambda path: path.write_bytes(npy_header(HUGE, b"\0" * 64)))
input_case("an array with code for a header", "x.npy", lambda path: path.write_bytes(npy_header("__import__('os')\n")))
input_case("an array with a deep header", "x.npy", lambda path: path.write_bytes(npy_header("(" * 60_000)))
input_case("an archive with an enormous member", "x.npz", lambda path: zipped(path, {"image.npy": npy_header(HUGE)}))
input_case("an archive that leads out", "x.npz", lambda path: zipped(path, {"../image.npy": npy_header(HUGE)}))


# ---- the harness


def contents(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Every path below a folder, with what it is and holds."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        small = path.is_file() and not path.is_symlink() and status.st_size < 1 << 20
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, path.read_bytes() if small else None)
    return found


def safe_for_terminals(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def assert_refused(arguments: list[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    before = contents(folder)
    capfd.readouterr()
    code = run(arguments)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert code == 2, err
    assert out == ""
    assert lines[0].startswith("onnxscope: error: ")
    assert "unexpected" not in lines[0]
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), err
    assert "Traceback" not in err
    assert safe_for_terminals(err)
    assert len(lines[0]) <= 300
    assert not commands_of_ci(err)
    assert contents(folder) == before
    return lines[0]


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 120


@pytest.mark.parametrize("name", CASES)
def test_hostile_files_are_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = CASES[name](tmp_path)
    if arguments[0] == "features" and "-i" not in arguments:
        arguments += ["-i", "random", "-o", "out"]
    assert_refused(arguments, tmp_path, capfd)
    assert_refused([*arguments, "--format", "json"], tmp_path, capfd)


def test_a_model_cut_between_two_of_its_fields_is_the_shorter_model(tmp_path: Path) -> None:
    """Metadata at the end of a file may be lost without a trace; what is left is a model, and harmless."""
    model = network()
    length = len(model.SerializeToString())
    model.metadata_props.add(key="author", value="someone")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString()[:length])
    assert load_model(tmp_path / "m.onnx").metadata == {}


def test_features_leaves_no_folder_behind_when_the_runtime_refuses_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = network()
    model.graph.node[0].op_type = "NoSuchOperator\x1b[31m"
    onnx.save(model, tmp_path / "m.onnx")
    line = assert_refused(["features", "m.onnx", "-s", "*", "-i", "random", "-o", "out"], tmp_path, capfd)
    assert "onnxruntime cannot load the model" in line


@pytest.mark.parametrize("suffix", ["pth", "pt"])
def test_a_malicious_checkpoint_is_not_unpickled(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    evil = evil_pickle(tmp_path / "marker")
    if suffix == "pth":
        (tmp_path / "evil.pth").write_bytes(evil)
    else:  # the format that torch.save writes today
        zipped(tmp_path / "evil.pt", {"evil/data.pkl": evil, "evil/version": b"3\n", "evil/byteorder": b"little"})
    line = assert_refused(
        ["convert", "torch", "alexnet", "--weights", f"evil.{suffix}", "-o", "out.onnx"], tmp_path, capfd
    )
    assert f"evil.{suffix}" in line


def test_the_evil_pickle_would_run_if_it_were_loaded(tmp_path: Path) -> None:
    pickle.loads(evil_pickle(tmp_path / "marker"))
    assert (tmp_path / "marker").is_dir()


# ---- hostile names are no errors

# No protobuf holds a surrogate, and no archive a name with NUL.
NAMES = [name for name in EVIL_NAMES if "\udce9" not in name]
LONGEST_IN_ARCHIVE = 60_000  # zip has 16 bits for the length of a name


def named(name: str) -> ModelProto:
    """The network with a hostile name in every place that a name can have."""
    model = network()
    renamed = {
        old: f"{name}{old}" for old in ("image", "kernel", "bias", "matrix", "features", "active", "flat", "scores")
    }
    for node in model.graph.node:
        node.name = f"{name}{node.name}"
        for names in (node.input, node.output):
            names[:] = [renamed[each] for each in names]
    for each in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        each.name = renamed[each.name]
    model.graph.name = model.producer_name = model.producer_version = name
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    model.opset_import.add(domain=name, version=1)
    model.metadata_props.add(key=name, value=name)
    return model


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_names_are_shown_and_written_safely(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(named(name), tmp_path / "m.onnx")
    archived = len(name) < LONGEST_IN_ARCHIVE and "\0" not in name
    before = contents(tmp_path)
    for command in (
        ["inspect", "m.onnx"],
        ["weights", "m.onnx", "-o", "weights"],
        ["features", "m.onnx", "-i", "random", "-o", "features", *(["--arrays"] if archived else [])],
    ):
        for form in ("table", "json", "csv", "md"):
            assert run([*command, "--format", form]) == 0
            out, err = capfd.readouterr()
            assert safe_for_terminals(out)
            assert safe_for_terminals(err)
            assert commands_of_ci(out + err) == []
            if form == "json":
                assert any(name in text for text in strings(json.loads(out)))
            elif form == "csv":
                assert len({len(row) for row in csv.reader(io.StringIO(out))}) == 1
    after = contents(tmp_path)
    made = [Path(path) for path in after.keys() - before.keys()]
    assert {path.parts[0] for path in made} == {"weights", "features"}
    assert all(re.fullmatch(r"\w[\w.-]{0,79}", part) for path in made for part in path.parts)
    assert {path: after[path] for path in before} == before
    pictures = [path for path in made if path.suffix == ".svg"]
    assert len(pictures) >= 3
    for path in pictures:
        root = xml.etree.ElementTree.parse(path).getroot()
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert not tags & {"script", "foreignObject", "image", "a"}
        assert not any(key.startswith("on") for element in root.iter() for key in element.attrib)
    if archived:
        record = json.loads(Path("features/features.json").read_text(encoding="utf-8"))
        with np.load("features/features.npz", allow_pickle=False) as arrays:
            assert arrays.files == [tap["name"] for tap in record["taps"]]


def strings(record: Any) -> Iterator[str]:
    if isinstance(record, dict):
        for key, value in record.items():
            yield key
            yield from strings(value)
    elif isinstance(record, list):
        for value in record:
            yield from strings(value)
    elif isinstance(record, str):
        yield record


# ---- mutations


def whole_network() -> ModelProto:
    """The network with few weights, a body and a local function: everything that a reader looks into."""
    model = network()
    for tensor in model.graph.initializer:
        first = onnx.numpy_helper.to_array(tensor).ravel()[:4]
        tensor.CopyFrom(onnx.numpy_helper.from_array(first, tensor.name))
    model.graph.node.append(body_node())
    model.graph.output.add().name = "chosen"
    model.functions.append(
        onnx.helper.make_function(
            "l", "f", ["a"], ["b"], [onnx.helper.make_node("Relu", ["a"], ["b"])], [onnx.helper.make_opsetid("", 17)]
        )
    )
    model.graph.node.append(onnx.helper.make_node("f", ["scores"], ["called"], domain="l"))
    model.opset_import.add(domain="l", version=1)
    return model


def test_every_mutation_gives_a_model_or_a_model_error(tmp_path: Path) -> None:
    """Bytes flipped, cut, doubled and removed at random places outside the weights, where they mean something."""
    chance = random.Random(2026)
    original = whole_network().SerializeToString()
    path = tmp_path / "m.onnx"
    loaded = refused = 0
    for _ in range(400):
        path.write_bytes(mutate(original, chance))
        result: Model | None = None
        with contextlib.suppress(ModelError):
            result = load_model(path)
        if result is None:
            refused += 1
            continue
        loaded += 1
        for graph in result.graphs.values():
            for tensor in graph.initializers.values():
                assert result.array(tensor).shape == tuple(tensor.dims)
    assert loaded > 20
    assert refused > 100


def body_node() -> onnx.NodeProto:
    graph = onnx.parser.parse_graph("""
        g (bool c) => (float chosen) {
            chosen = If (c) <
                then_branch = t () => (float p) { p = ReduceMax(features) },
                else_branch = e () => (float q) { q = ReduceMin(active) }
            >
        }""")
    node = graph.node[0]
    node.input[0] = "image"
    return node


def mutate(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(changed))
        action = chance.randrange(5)
        if action == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif action == 1:
            changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif action == 2:
            del changed[place : place + chance.randrange(1, 9)]
        elif action == 3:
            changed[place:place] = changed[place : place + chance.randrange(1, 40)]
        elif chance.random() < 0.3:
            del changed[place:]
        if not changed:
            break
    return bytes(changed)
