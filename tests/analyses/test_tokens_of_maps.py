"""Tokens are labels of axes: in records, captions, pictures, figures and on the page."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from text_models import encoder, trained
from tokenizers import Tokenizer

import onnxscope
from onnxscope.drawing.mosaics import labelled, mosaic

NAMES = ("[CLS]", "A", "model", "reads", "[SEP]")
TEXTS = ["text:A model reads", "text:numbers"]
HOSTILE = "<script>alert(1)</script>$x$\x1b[31m"


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained().save("tokenizer.json")
    onnx.save(encoder(), "m.onnx")
    return "m.onnx"


def test_the_record_has_the_tokens_of_the_sample_that_is_shown(model):
    maps = onnxscope.features(model, TEXTS, select="value:y")
    assert maps.to_dict()["input"]["tokens"] == list(NAMES)
    other = onnxscope.features(model, TEXTS, select="value:y", sample=1)
    assert other.input["tokens"] == ["[CLS]", "numbers", "[SEP]", "[PAD]", "[PAD]"]
    assert "tokens" not in onnxscope.features(model, "random", select="value:y").input


def test_captions_name_the_tokens(model):
    scores, hidden, pooled = onnxscope.features(model, TEXTS, select=["value:scores", "value:y", "value:pooled"])
    assert hidden.caption() == "token down, channel to the right: [CLS] A model reads [SEP]"
    assert scores.caption().endswith("query down, key to the right: [CLS] A model reads [SEP]")
    assert "model" not in pooled.caption() if pooled.maps() is not None else True


def test_figures_have_tokens_at_their_axes(model):
    scores, hidden = onnxscope.features(model, TEXTS, select=["value:scores", "value:y"])
    axes = hidden.plot().axes[0]
    assert tuple(text.get_text() for text in axes.get_yticklabels()) == NAMES
    assert axes.get_xticklabels()[0].get_text() != "[CLS]"
    queries = scores.plot().axes[0]
    assert tuple(text.get_text() for text in queries.get_xticklabels()) == NAMES


def test_pictures_have_tokens_beside_their_rows(model):
    (hidden,) = onnxscope.features(model, TEXTS, select="value:y")
    with_tokens = hidden.image()
    plain = labelled(mosaic(hidden.maps(), **hidden.view.grid(hidden.maps().shape)), "token", "channel", "")
    assert with_tokens.height == plain.height
    assert with_tokens.width > plain.width
    # The maps are the same, farther to the right.
    shift = with_tokens.width - plain.width
    left = np.asarray(plain)[: hidden.maps().shape[1] * 8, 19:]
    np.testing.assert_array_equal(np.asarray(with_tokens)[: left.shape[0], 19 + shift :], left)


def test_many_tokens_have_no_room_and_are_left_away():
    maps = np.arange(400 * 3.0).reshape(1, 400, 3)
    image = mosaic(maps, columns=1, cell_px=640, square=False)
    assert labelled(image, "token", "channel", "", ["t"] * 400).size == labelled(image, "token", "channel", "").size


def test_a_vocabulary_is_not_trusted(model, tmp_path):
    tokenizer = json.loads(trained().to_str())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[HOSTILE] = vocabulary.pop("numbers")
    tokenizer["added_tokens"].append(
        {
            "id": vocabulary[HOSTILE],
            "content": HOSTILE,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
    )
    Tokenizer.from_str(json.dumps(tokenizer)).save("tokenizer.json")
    text = f"text:a {HOSTILE} model"
    (hidden,) = onnxscope.features(model, text, select="value:y")
    assert "\x1b" not in hidden.caption()
    assert HOSTILE in hidden.tokens[0]
    hidden.plot().canvas.draw()
    onnxscope.report(model, text, select="value:y").save("r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "\x1b" not in page
