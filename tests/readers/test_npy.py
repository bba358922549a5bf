""".npy and .npz: what numpy writes is read back; pickles, bombs and broken files are refused unread."""

from __future__ import annotations

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from onnxscope.errors import InputError
from onnxscope.readers.npy import read_npy, read_npz

ARRAYS = {
    "float": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
    "big-endian": np.arange(5, dtype=">f8"),
    "scalar": np.array(7, np.uint8),
    "empty": np.empty((0, 3), np.float64),
    "bool": np.array([True, False]),
    "text": np.array(["a", "bcd"]),
    "large": np.random.default_rng(0).integers(0, 255, 3_000_000, dtype=np.uint8),
}


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def same_names(names):
    return {name: name for name in names}


def load(path):
    with open(path, "rb") as stream:
        return read_npy(stream, "x") if path.suffix == ".npy" else read_npz(stream, "x", same_names)


def refusal(path, data=None):
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def header(descr, shape, version=1, order=False):
    text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text


def archive(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as written:
        for name, data in members:
            written.writestr(name, data)
    return stream.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_an_npy_is_read_as_numpy_wrote_it(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    found = load(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert found.dtype == ARRAYS[name].dtype


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_as_numpy_wrote_it(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = load(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_version_two_and_only_the_chosen(tmp_path):
    data = header("<f4", (2,), version=2) + np.float32([1, 2]).tobytes()
    (tmp_path / "a.npz").write_bytes(archive([("a/b:0.npy", data), ("bad.npy", b"none")]))
    with open(tmp_path / "a.npz", "rb") as stream:
        found = read_npz(stream, "x", lambda names: {"y": names[0]})
    assert list(found) == ["y"]
    np.testing.assert_array_equal(found["y"], [1, 2])


def test_pickles_are_never_opened(tmp_path):
    marker = tmp_path / "marker"
    trap = np.array([Trap(str(marker))], dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=trap)
    message, hint = refusal(tmp_path / "a.npy")
    assert message == "an array of Python objects, which only a pickle could hold: x"
    assert hint == "save numbers"
    assert refusal(tmp_path / "a.npz")[0] == "an array of Python objects, which only a pickle could hold: 'x' in x"
    assert not marker.exists()
    np.load(tmp_path / "a.npy", allow_pickle=True)[0].close()
    assert marker.exists(), "the trap works when it is sprung"


def test_objects_inside_a_structure_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(1, [("a", "f4"), ("b", "O")]), allow_pickle=True)
    assert refusal(tmp_path / "a.npy")[0].startswith("an array of Python objects")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "not a .npy array, or a broken one (EOF: reading magic string, expected 8 bytes got 0): x"),
        (b"hello world, no array\n", "not a .npy array, or a broken one (the magic string is not correct"),
        (b"\x93NUMPY\x03\0\0\0", "not a .npy array, or a broken one (version 3.0 of the format): x"),
        (header("<f4", (2,))[:30], "not a .npy array, or a broken one (EOF: reading array header"),
        (header("nonsense", (2,)), "not a .npy array, or a broken one (descr is not a valid dtype descriptor"),
        (header("<f4", "(" * 200), "not a .npy array, or a broken one ("),
        (header("<f4", (2,)) + bytes(7), "the header declares 8 bytes and 7 are there: x"),
        (header("<f4", (10**12,)), "the header declares 4,000,000,000,000 bytes and 0 are there: x"),
        (header("<f4", (10**30,)), "no array has <f4 numbers and shape (1000000000000000000000000000000,): x"),
        (header("<f4", (0, 10**12, 10**12)), "no array has <f4 numbers and shape (0, 1000000000000, 1000000000000): x"),
        (header("<f4", (-1, -1)) + bytes(4), "no array has <f4 numbers and shape (-1, -1): x"),
        (header("<f4", (1,) * 65) + bytes(4), "no array has <f4 numbers and shape (1, 1, 1"),
        (header("<U0", (10**12,)), "no array has <U0 numbers and shape (1000000000000,): x"),
    ],
)
def test_broken_arrays_are_refused(tmp_path, data, fault):
    assert refusal(tmp_path / "a.npy", data)[0].startswith(fault)


@pytest.mark.parametrize("size", [1, 5, 9, 40, 100, 127, 128, 130, 223])
def test_every_truncation_is_refused(tmp_path, size):
    np.save(tmp_path / "whole.npy", ARRAYS["float"])
    message, _ = refusal(tmp_path / "a.npy", (tmp_path / "whole.npy").read_bytes()[:size])
    assert message.endswith(": x")


def test_archives_that_are_none(tmp_path):
    message, _ = refusal(tmp_path / "a.npz", b"hello")
    assert message == "not a .npz archive, or a broken one (File is not a zip file): x"
    np.savez(tmp_path / "whole.npz", **ARRAYS)
    whole = (tmp_path / "whole.npz").read_bytes()
    for size in (0, 10, 1000, len(whole) // 2, len(whole) - 30):
        assert refusal(tmp_path / "a.npz", whole[:size])[0].startswith("not a .npz archive, or a broken one (")


@pytest.mark.parametrize("name", ["float", "large"])
def test_a_wrong_checksum_is_noticed(tmp_path, name):
    np.savez(tmp_path / "whole.npz", y=ARRAYS[name])
    whole = bytearray((tmp_path / "whole.npz").read_bytes())
    whole[whole.index(ARRAYS[name].tobytes()) + 3] ^= 1
    message, _ = refusal(tmp_path / "a.npz", bytes(whole))
    assert message.startswith("not a .np")
    assert " array, or a broken one (Bad CRC-32 for file 'y.npy')" in message.replace("archive", "array")


def test_members_that_are_no_arrays(tmp_path):
    message, hint = refusal(tmp_path / "a.npz", archive([("read\nme.txt", b"hello")]))
    assert message == r"'read\nme.txt' is no .npy array: x"
    assert hint == "write it with numpy.savez"
    data = header("<f4", (1,)) + bytes(4)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive([("y.npy", data), ("y.npy", data)])
    assert refusal(tmp_path / "a.npz", twice)[0] == "two arrays are called 'y': x"
    message, _ = refusal(tmp_path / "a.npz", archive([("y.npy", data)], zipfile.ZIP_LZMA))
    assert message == "'y' is compressed in a way that numpy does not write: x"


def test_encrypted_archives_are_refused(tmp_path):
    data = bytearray(archive([("y.npy", header("<f4", (1,)) + bytes(4))]))
    data[6] |= 1  # the flag in the member's own header, and in the directory
    data[data.index(b"PK\1\2") + 8] |= 1
    message, _ = refusal(tmp_path / "a.npz", bytes(data))
    assert message == "'y' is encrypted: x"


def test_a_zip_bomb_is_refused_before_it_expands(tmp_path):
    zeros = header("|u1", (300_000_000,)) + bytes(300_000_000)
    message, hint = refusal(tmp_path / "a.npz", archive([("y.npy", zeros)], zipfile.ZIP_DEFLATED))
    size = os.path.getsize(tmp_path / "a.npz")
    assert size < 400_000
    assert message == f"{size:,} bytes would expand to {len(zeros):,}: x"
    assert hint == "write it with numpy.savez, which does not compress"


def test_an_archive_that_lies_about_its_sizes(tmp_path):
    data = bytearray(archive([("y.npy", header("|u1", (1_000_000,)) + bytes(10))], zipfile.ZIP_DEFLATED))
    assert refusal(tmp_path / "a.npz", bytes(data))[0] == (
        "the header declares 1,000,000 bytes and 10 are there: 'y' in x"
    )
    place = data.index(b"PK\1\2") + 24
    data[place : place + 4] = struct.pack("<I", 200_000_000)
    assert refusal(tmp_path / "a.npz", bytes(data))[0].startswith(
        ("the header declares 1,000,000 bytes and 10 are there", "not a .npz archive, or a broken one (Bad CRC-32")
    )
