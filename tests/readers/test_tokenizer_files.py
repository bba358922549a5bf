"""Tokenizers: what their files say, and files that are none."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import sys

import pytest
from text_models import SPECIAL, trained

from onnxscope.errors import InputError
from onnxscope.readers.texts import Text
from onnxscope.readers.tokenizer_files import read_tokenizer


def read(content, longest=None):
    content = content if isinstance(content, bytes) else content.to_str().encode()
    return read_tokenizer(io.BytesIO(content), "m/tokenizer.json", longest)


def test_ids_are_those_of_the_library():
    library = trained()
    tokenizer = read(library)
    text = "A model reads the unheard of"
    library.no_padding()
    oracle = library.encode(text)
    encoded = tokenizer.encode(Text(text), "line 1")
    assert list(encoded.ids) == oracle.ids
    assert tokenizer.names(encoded.ids) == ("[CLS]", "A", "model", "reads", "[UNK]", "[UNK]", "of", "[SEP]")
    assert not encoded.is_cut
    assert tokenizer.sha256 == hashlib.sha256(trained().to_str().encode()).hexdigest()
    pair = pickle.loads(pickle.dumps(tokenizer)).encode(Text("A model", "a word"), "line 1")
    assert pair.type_ids == (0, 0, 0, 0, 1, 1, 1)


def test_what_fills_up_is_what_the_file_says_or_what_it_is_called():
    said = read(trained(side="left"))
    assert (said.pad_id, said.pad_token, said.side) == (1, "[PAD]", "left")
    called = read(trained(pad=False))
    assert (called.pad_id, called.pad_token, called.side) == (1, "[PAD]", "right")
    end = read(trained(pad=False, pads=("[UNK]", "[CLS]", "[SEP]", "<|endoftext|>")))
    assert (end.pad_id, end.pad_token) == (3, "<|endoftext|>")
    nothing = read(trained(pad=False, pads=("[UNK]", "[CLS]", "[SEP]")))
    assert (nothing.pad_id, nothing.pad_token) == (None, "")


@pytest.mark.parametrize(("cut", "longest", "length"), [(None, 6, 6), (5, None, 5), (5, 6, 5), (7, 6, 6)])
def test_a_text_is_cut_to_what_model_and_file_allow(cut, longest, length):
    tokenizer = read(trained(cut=cut), longest)
    encoded = tokenizer.encode(Text("the words that it knows stand in a table"), "line 1")
    assert tokenizer.max_length == len(encoded.ids) == length
    names = tokenizer.names(encoded.ids)
    assert (names[0], names[-1]) == ("[CLS]", "[SEP]")
    assert encoded.is_cut


def changed(**sections):
    return json.dumps({**json.loads(trained().to_str()), **sections}).encode()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not a tokenizer"),
        (b"\xff", "not a tokenizer"),
        (b"[" * 100_000, "not a tokenizer"),
        (b"{}", "no model in it"),
        (b"[1]", "no model in it"),
        (changed(model={"type": "Unheard", "vocab": {}}), "not a tokenizer"),
        (changed(model={"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}), "not a tokenizer"),
        (
            changed(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Removed", "invert": False}),
            "",
        ),
    ],
)
def test_what_is_no_tokenizer_is_told(content, fault):
    with pytest.raises(InputError) as caught:
        read(content)
    assert fault in str(caught.value)
    assert str(caught.value).endswith("m/tokenizer.json")
    assert caught.value.hint.startswith("a tokenizer is the `tokenizer.json`")


def test_odd_sections_are_as_good_as_none():
    odd = changed(padding=None, truncation=None)
    assert read(odd).pad_id == SPECIAL.index("[PAD]")


def test_a_model_too_short_for_what_is_added_is_told():
    with pytest.raises(InputError, match="2 tokens at most, and it adds 2 to every text"):
        read(trained(), 2)


def test_a_missing_library_is_named(monkeypatch):
    content = trained().to_str().encode()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match="needs the library tokenizers, which is not installed") as caught:
        read(content)
    assert caught.value.hint == "pip install 'onnxscope[text]'"
