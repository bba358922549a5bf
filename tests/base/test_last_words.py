"""What a process was doing, read by another one."""

import threading

import pytest

from onnxscope.base import last_words
from onnxscope.base.last_words import LastWords, doing, has_told, keep_last_words, new_last_words, read_last_words


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(last_words, "_page", None)
    path = str(tmp_path / "words")
    with new_last_words(path) as words:
        keep_last_words(path)
        yield words


def test_the_part_stands_before_the_whole_and_what_is_done_is_gone(kept):
    assert read_last_words(kept) == LastWords()
    with doing("batch 3"):
        with doing("running m.onnx"):
            assert read_last_words(kept) == LastWords(("running m.onnx", "batch 3"))
        assert read_last_words(kept) == LastWords(("batch 3",))
    assert read_last_words(kept) == LastWords()


def test_an_exception_ends_what_was_done(kept):
    with pytest.raises(ZeroDivisionError), doing("dividing"):
        raise ZeroDivisionError
    assert read_last_words(kept).doing == ()


def test_threads_do_not_mix(kept):
    other_is_done, ours_is_read = threading.Event(), threading.Event()

    def other():
        with doing("other"):
            other_is_done.set()
            ours_is_read.wait(10)

    thread = threading.Thread(target=other)
    with doing("ours"):
        thread.start()
        other_is_done.wait(10)
        assert read_last_words(kept).doing == ("other",)
        ours_is_read.set()
        thread.join()
        assert read_last_words(kept).doing == ("ours",)


def test_long_words_are_cut_and_none_are_lost_of_the_rest(kept):
    with doing("x" * 100_000), doing("é" * 10_000), doing("running m.onnx"):
        words = read_last_words(kept).doing
    assert words[0] == "running m.onnx"
    assert [len(word) for word in words[1:]] == [500, 500]


def test_what_was_told_is_known(kept):
    has_told()
    with doing("running m.onnx"):
        assert read_last_words(kept) == LastWords(("running m.onnx",), told=True)


def test_nothing_is_kept_where_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(last_words, "_page", None)
    with new_last_words(str(tmp_path / "words")) as words:
        with doing("running m.onnx"):
            has_told()
        assert read_last_words(words) == LastWords()


def test_words_outlive_their_file(kept, tmp_path):
    (tmp_path / "words").unlink()
    with doing("running m.onnx"):
        assert read_last_words(kept) == LastWords(("running m.onnx",))
