"""Recipes for sounds: what is read, and what is refused with which words."""

from __future__ import annotations

import json

import pytest

from onnxscope.errors import InputError
from onnxscope.readers.sound_recipes import SOUND_RECIPES, SoundRecipe, load_sound_recipe


def test_a_recipe_is_read_from_a_file_from_text_and_by_name(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"rate": 8000, "bands": 40, "high": 3800, "log": "ln"}')
    recipe = load_sound_recipe(path)
    assert recipe == SoundRecipe(name="mine", rate=8000, bands=40, high=3800.0, log="ln")
    assert load_sound_recipe(json.dumps(recipe.record)) == recipe
    assert load_sound_recipe("whisper").record == "whisper"
    assert load_sound_recipe(recipe) is recipe


@pytest.mark.parametrize("name", SOUND_RECIPES)
def test_what_is_recorded_is_a_recipe(name):
    assert load_sound_recipe(json.dumps(SOUND_RECIPES[name].to_dict())) == SOUND_RECIPES[name]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not a recipe in JSON"),
        ('{"rate": 1, "rate": 2}', "not a recipe in JSON (a key occurs twice)"),
        ('{"size": 224}', "unknown key 'size' in a recipe for sounds"),
        ('{"rate": 16000.5}', "'rate' is 16000.5, not a whole number from 1 to"),
        ('{"rate": true}', "'rate' is true, not a whole number"),
        ('{"hop": 0}', "'hop' is 0, not a whole number from 1 to 65536"),
        ('{"hop": null}', "'hop' is null, not a whole number"),
        ('{"n_fft": 1000000000}', "'n_fft' is 1000000000, not a whole number from 2 to 65536"),
        ('{"bands": 100000}', "'bands' is 100000, not a whole number from 1 to 1024"),
        ('{"std": 0}', "'std' is 0, not a number from 1e-09"),
        ('{"mean": "x"}', "'mean' is \"x\", not a number from"),
        ('{"window": "square"}', "'window' is \"square\", not one of hann, hamming, povey, blackman, rectangular"),
        ('{"window": ["hann"]}', "'window' is [\"hann\"], not one of"),
        ('{"power": true}', "'power' is true, not one of 1, 2"),
        ('{"periodic": 1}', "'periodic' is 1, not true or false"),
        ('{"name": ""}', "'name' is \"\", not a text of 1 to 60 characters"),
        ('{"window_length": 500}', "'window_length' 500 is more than 'n_fft' 400"),
        ('{"low": 9000}', "bands from 9000 to 8000 hertz are none of 16,000 samples a second"),
        ('{"rate": 8000, "high": 8000}', "bands from 0 to 8000 hertz are none of 8,000 samples a second"),
        ('{"rate": null}', '\'rate\' is null with "features": "log_mel"'),
        ('{"edges": "snip", "drop_last": true}', '\'drop_last\' with "edges": "snip"'),
        ('{"features": "wave", "hop": 160}', '\'hop\' with "features": "wave"'),
        ('{"length": 512}', '\'length\' with "features": "log_mel"'),
        ('{"features": "wave", "length": 64, "context": 64}', "'context' 64 leaves nothing of 'length' 64"),
    ],
)
def test_what_is_no_recipe_is_told(text, fault):
    with pytest.raises(InputError) as caught:
        load_sound_recipe(text)
    assert str(caught.value).startswith(fault)
    assert str(caught.value).endswith(": the recipe")


def test_a_name_that_is_none_lists_those_that_are(tmp_path):
    with pytest.raises(InputError, match="unknown preset 'imagenet'") as caught:
        load_sound_recipe("imagenet")
    assert "whisper, whisper-128, kaldi, speech, none" in caught.value.hint
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match="unknown preset"):
        load_sound_recipe(str(tmp_path / "a.json"), files=False)
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match="no UTF-8 text"):
        load_sound_recipe(tmp_path / "a.json")
