"""Files whole or absent, none in an input's place, and only regular ones opened."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onnxscope.base.files import (
    PAGE,
    open_regular,
    refuse_foreign,
    refuse_inputs,
    write_whole,
    writing_folder,
    writing_whole,
)
from onnxscope.base.text import printable
from onnxscope.errors import InputError, OutputError


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


@pytest.mark.parametrize("target", ["precious", "nowhere", "result"])
def test_a_link_in_the_way_is_neither_replaced_nor_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "precious").write_text("old")
    (tmp_path / "result").symlink_to(target)
    for write in (
        lambda: write_whole(tmp_path / "result", "new"),
        lambda: refuse_foreign([(tmp_path / "result", PAGE)], force=True),
    ):
        with pytest.raises(OutputError, match=r"^cannot write \(a link is in the way\): .*result$"):
            write()
    assert ((tmp_path / "precious").read_text(), os.readlink(tmp_path / "result")) == ("old", target)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


def test_the_files_of_a_folder_appear_together(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("old", "stale"):
        (tmp_path / "a" / name).write_text("old")
    with writing_folder(tmp_path / "a") as folder:
        folder.write("old", "new")
        folder.write("other", b"new")
        folder.open("third").write(b"new")
        folder.remove(lambda: ["stale", "nothing", "other"])
        assert {name for name in contents(tmp_path) if "partial" not in name} == {"a", "a/old", "a/stale"}
        assert (tmp_path / "a" / "old").read_text() == "old"
    assert contents(tmp_path) == {"a": "", "a/old": "new", "a/other": "new", "a/third": "new"}


@pytest.mark.parametrize(
    "fault", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("drawn badly")]
)
def test_a_folder_that_cannot_be_filled_is_as_it_was(tmp_path: Path, fault: BaseException) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    before = contents(tmp_path)
    for place in ("a", "b/c/d"):
        expected = OutputError if isinstance(fault, OSError) else type(fault)
        with pytest.raises(expected), writing_folder(tmp_path / place) as folder:  # noqa: PT012
            folder.write("old", "new")
            folder.write("other", "new")
            folder.remove(lambda: ["old"])
            raise fault
        assert contents(tmp_path) == before


def test_files_that_cannot_all_be_put_in_place_are_removed_again(tmp_path: Path) -> None:
    (tmp_path / "a" / "third").mkdir(parents=True)
    (tmp_path / "a" / "third" / "file").touch()
    (tmp_path / "a" / "second").write_text("old")
    with pytest.raises(OutputError), writing_folder(tmp_path / "a") as folder:  # noqa: PT012
        folder.write("first", "new")
        folder.write("second", "new")
        folder.open("third/file").write(b"new")
        (tmp_path / "a" / "third" / "file").unlink()
        (tmp_path / "a" / "third" / "file").mkdir()
    assert not (tmp_path / "a" / "first").exists()
    assert [path.name for path in (tmp_path / "a").rglob(".*")] == []


def test_what_someone_else_has_put_into_a_new_folder_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing_folder(tmp_path / "a" / "b") as folder:  # noqa: PT012
        folder.write("file", "new")
        (tmp_path / "a" / "theirs").write_text("theirs")
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"a": "", "a/theirs": "theirs"}


def test_two_writers_of_a_folder_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writes files of its own, one that both have, and a list; and removes what the list before it names."""
    replace = os.replace

    def slowly(source: str, target: Path) -> None:
        time.sleep(0.002)
        replace(source, target)

    monkeypatch.setattr(os, "replace", slowly)

    def listed() -> list[str]:
        path = tmp_path / "a" / "list"
        return path.read_text().split() if path.exists() else []

    def write(who: str) -> None:
        for _ in range(10):
            with writing_folder(tmp_path / "a") as folder:
                names = ["both", *(f"{who}{index}" for index in range(5))]
                for name in names:
                    folder.write(name, who)
                folder.write("list", " ".join(names))
                folder.remove(listed)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, "xyz"))
    assert sorted(contents(tmp_path / "a")) == sorted([*listed(), "list"])
    assert len({text for name, text in contents(tmp_path / "a").items() if name != "list"}) == 1


def test_many_files_of_a_folder_are_not_open_at_a_time(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "a") as folder:
        for index in range(3000):
            folder.write(f"{index}", "")
        assert len(os.listdir("/dev/fd")) < 100
    assert len(contents(tmp_path)) == 3001


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


def test_files_that_differ_are_not_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("the same")
    outputs = [tmp_path / "a", tmp_path / "new/a", tmp_path / "new/b", None, "a"]
    refuse_inputs(outputs, [tmp_path / "b", None, "b", "\0"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    (tmp_path / "b").unlink()
    (tmp_path / "b").hardlink_to(tmp_path / "a")  # by now it is one file
    with pytest.raises(OutputError, match=r"^the output would replace an input: .*/a, which is .*/b$"):
        refuse_inputs(outputs, [tmp_path / "b", None, "b", "\0"])


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


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def test_a_fifo_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    message, hint = refusal(open_regular, str(tmp_path / "a.png"))
    assert message == f"not a regular file: {tmp_path / 'a.png'}"
    assert hint == "give a file; copy a stream or a device into one first"
    assert refusal(open_regular, "/dev/zero")[0] == "not a regular file: /dev/zero"
    assert refusal(open_regular, str(tmp_path))[0] == f"not a regular file: {tmp_path}"


def test_a_file_that_becomes_a_fifo_does_not_hang(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.png")
    status = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda path, **options: status)
    assert refusal(open_regular, str(tmp_path / "a.png"))[0] == f"not a regular file: {tmp_path / 'a.png'}"


def test_files_that_cannot_be_read(tmp_path):
    message, hint = refusal(open_regular, str(tmp_path / "absent.png"), hint="make one")
    assert message == f"no such file: {tmp_path / 'absent.png'}"
    assert hint == "make one"
    assert refusal(open_regular, "a\0b")[0] == r"cannot read (embedded null byte): a\x00b"
    assert refusal(open_regular, "a" * 300)[0] == f"cannot read (File name too long): {'a' * 300}"
    assert refusal(open_regular, "a\nb\x1b[2J")[0] == r"no such file: a\nb\x1b[2J"
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(open_regular, str(tmp_path / "loop"))[0].startswith(
        "cannot read (Too many levels of symbolic links)"
    )


def test_the_size_is_looked_at_first(tmp_path):
    path = tmp_path / "sparse"
    with open(path, "wb") as stream:
        stream.truncate(3_000_000_000)
    message, _ = refusal(open_regular, str(path), limit_bytes=1000)
    assert message == f"3,000,000,000 bytes are more than the 1,000 that we read: {path}"


def test_a_regular_file_opens(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    with open_regular(str(tmp_path / "a"), limit_bytes=3) as stream:
        assert stream.read() == b"abc"
