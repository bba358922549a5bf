"""Files whole or absent, safe names, strict JSON."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from onnxscope.base.outputs import (
    dump_json,
    first_line,
    printable,
    refuse_inputs,
    safe_stem,
    write_whole,
    writing_whole,
)
from onnxscope.errors import OutputError


def test_text_is_written_as_utf_8_and_bytes_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "é\n")
    write_whole(str(tmp_path / "b"), b"\xff")
    write_whole(tmp_path / "c", "\udcff")
    assert [(tmp_path / name).read_bytes() for name in "abc"] == ["é\n".encode(), b"\xff", b"\\udcff"]


def test_a_new_file_has_the_permissions_that_any_other_would_have(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_whole(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path, fault: type[BaseException]) -> None:
    (tmp_path / "result").write_text("old")

    def fail() -> None:
        with writing_whole(tmp_path / "result") as stream:
            stream.write(b"new")
            raise fault

    with pytest.raises(fault):
        fail()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"result": "old"}


def test_the_new_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    with writing_whole(tmp_path / "result") as stream:
        stream.write(b"new")
        stream.flush()
        assert not (tmp_path / "result").exists()
    assert (tmp_path / "result").read_bytes() == b"new"


def test_a_symbolic_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    (tmp_path / "result").symlink_to("precious")
    write_whole(tmp_path / "result", "new")
    assert ((tmp_path / "precious").read_text(), (tmp_path / "result").read_text()) == ("old", "new")


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("missing/result", "No such file or directory"),
        ("file/result", "Not a directory"),
        ("folder", "not a regular file"),
        ("fifo", "not a regular file"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str, fault: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match=rf"^cannot write \({fault}\): .*{place}$"):
        write_whole(tmp_path / place, "new")
    assert sorted(tmp_path.iterdir()) == before


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "result").symlink_to("/dev/null")
    with pytest.raises(OutputError, match=r"^cannot write \(not a regular file\)"):
        write_whole(tmp_path / "result", "x")
    assert (tmp_path / "result").is_symlink()


def test_an_error_without_a_system_message_is_still_told(tmp_path: Path) -> None:
    def fail() -> None:
        with writing_whole(tmp_path / "result"):
            raise OSError("encoder error -2")

    with pytest.raises(OutputError, match=r"^cannot write \(encoder error -2\): "):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("features.0", "007_features.0"),
        ("../../etc/passwd", "007_etc_passwd"),
        ("/abs", "007_abs"),
        ("a\\b:c\0d\ne", "007_a_b_c_d_e"),
        ("\x1b[31m<b>", "007_31m_b"),
        ("", "007_unnamed"),
        ("...", "007_unnamed"),
        ("ünï", "007_n"),
        ("x" * 100_000, "007_" + "x" * 60),
    ],
)
def test_a_stem_is_the_index_and_harmless_bytes(name: str, stem: str) -> None:
    assert safe_stem(name, 7) == stem
    assert Path(stem).name == stem


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer1.0 é 漢", "layer1.0 é 漢"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("abc\u202edcba\u2066", "abc\\u202edcba\\u2066"),
        ("\udcff\U000e0001", "\\udcff\\U000e0001"),
    ],
)
def test_what_a_terminal_would_act_upon_becomes_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_json_keeps_the_order_of_keys_and_ends_with_a_newline() -> None:
    assert dump_json({"b": 1, "a": [True, None]}) == '{\n  "b": 1,\n  "a": [true, null]\n}\n'
    assert dump_json({"a": [{"b": 1}, {"c": {}}]}) == '{\n  "a": [\n    {"b": 1},\n    {"c": {}}\n  ]\n}\n'


def test_json_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": float("nan")})


def test_json_carries_any_string_without_acting_on_a_terminal() -> None:
    record = {"é\x1b[31m\n": "漢\x9b1m\x7f\u202e\U000e0001\udcff\u2028😀"}
    text = dump_json(record)
    assert json.loads(text) == record
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "é" in text
    assert "漢" in text
    assert text.encode()


def test_the_first_line_of_a_foreign_message_is_short_and_printable():
    assert first_line(ValueError("bad\x1b value\nand a page more")) == "bad\\x1b value"
    assert first_line(ValueError("")) == "ValueError"
    assert len(first_line("x" * 1000)) == 200


def test_files_that_differ_are_not_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("the same")
    refuse_inputs(
        [tmp_path / "a", tmp_path / "new/a", tmp_path / "new/b", None, "a"], [tmp_path / "b", None, "b", "\0"]
    )


@pytest.mark.parametrize("path", ["there", "new", "new/new", "\0"])
def test_a_file_is_recognized_whether_it_is_there_or_not(tmp_path: Path, path: str) -> None:
    (tmp_path / "there").touch()
    whole = f"{tmp_path}/{path}"
    shown = re.escape(printable(whole))
    with pytest.raises(OutputError, match=rf"^the output would replace an input: {shown}$") as caught:
        refuse_inputs([f"{tmp_path}/other", whole], [whole])
    assert caught.value.hint == "write to another place"
    with pytest.raises(OutputError, match=rf"^two outputs would be one file: {shown} and {shown}$") as caught:
        refuse_inputs([whole, f"{tmp_path}/other", whole], [])
    assert caught.value.hint == "write them to different places"
