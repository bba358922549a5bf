"""Recipes are as untrusted as the model: what they may say, and that they reach no file outside of its folder."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest

import onnxscope
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.errors import InputError
from onnxscope.selection import feeding_recipes
from onnxscope.selection.feeding_recipes import KINDS, FeedingRecipe, load_to_run

PLAIN = {
    "schema": "onnxscope.recipe/1",
    "model": "m.onnx",
    "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 4]}],
    "dims": {},
    "random_dims": {},
    "feeding": {},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models"
    folder.mkdir()
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[n, k] x) => (float[n, k] y) { y = Tanh (x) }'
    onnx.save(onnx.parser.parse_model(text), folder / "m.onnx")
    return folder


def beside(place, **changed):
    content = changed.pop("content", None)
    path = place / "m.recipe.json"
    path.write_text(json.dumps({**PLAIN, **changed}) if content is None else content)
    return path


def loaded(place, inputs="random", **options):
    return load_to_run(place / "m.onnx", RunOptions(**options), inputs)


def test_every_option_of_feeding_can_be_recorded():
    assert set(FeedingOptions.__annotations__) - {"recipe", "provider"} <= set(KINDS)
    schema = json.loads((feeding_recipes.Path(onnxscope.__file__).parent / "schemas/recipe.json").read_text())
    assert set(schema["properties"]["feeding"]["properties"]) == set(KINDS)


def test_what_is_recorded_is_used_and_what_is_asked_for_is_kept(place):
    beside(place, dims={"k": 4}, feeding={"batch_axis": {"x": 1}, "samples": 3, "layout": "nhwc"})
    model, options = loaded(place, samples=5)
    assert model.inputs[0].shape == ("n", 4)
    assert (options.samples, options.batch_axis, options.layout) == (5, {"x": 1}, "nhwc")
    assert options.recipe_used.options == ("k=4", "batch_axis", "layout")
    again = load_to_run(model, options, "random")
    assert again == (model, options)
    assert load_to_run(place / "m.onnx", RunOptions(), None)[1].recipe_used is None  # nothing is run


def test_sizes_of_random_input_are_for_that_alone(place):
    beside(place, random_dims={"k": 7})
    assert loaded(place)[0].dims == loaded(place, ["random:3"])[0].dims == {"k": 7}
    assert loaded(place, "x.npy")[0].dims == {}
    assert loaded(place, np.zeros((2, 3), np.float32))[0].dims == {}


def test_a_model_without_a_recipe_is_left_alone(place):
    model, options = loaded(place)
    assert (model.dims, options) == ({}, RunOptions())


HOSTILE = [
    ({"content": "{"}, "not JSON, or cut short: "),
    ({"content": "[1]"}, "not a recipe (no schema in it): "),
    ({"content": "[" * 100_000}, "not JSON, or cut short: "),
    ({"schema": "onnxscope.recipe/9"}, "the schema 'onnxscope.recipe/9' is not"),
    ({"inputs": "x"}, "the recipe has no list 'inputs': "),
    ({"inputs": [{"name": 1}]}, "the recipe has no name in inputs[0]: "),
    ({"dims": {"k": 0}}, "the recipe has a wrong size of a dimension: "),
    ({"dims": {"k": 1 << 60}}, "the recipe has a wrong size of a dimension: "),
    ({"dims": {"k": "4"}}, "the recipe has no whole number 'k' in dims: "),
    ({"dims": {"no": 4}}, "no dimension of an input is called 'no': m.onnx: m.recipe.json"),
    ({"feeding": {"custom_ops": "evil.so"}}, "the recipe has the unknown option 'custom_ops': "),
    ({"feeding": {"recipe": "/etc/passwd"}}, "the recipe has the unknown option 'recipe': "),
    ({"feeding": {"samples": "many"}}, "the recipe has a wrong 'samples': "),
    ({"feeding": {"samples": True}}, "the recipe has a wrong 'samples': "),
    ({"feeding": {"samples": 0}}, "0 random samples are none: m.recipe.json"),
    ({"feeding": {"length": "../x"}}, "no length: '../x': m.recipe.json"),
    ({"feeding": {"batch_axis": "x"}}, "no axis of samples: 'x': m.recipe.json"),
    ({"feeding": {"preprocess": "/etc/passwd"}}, "'/etc/passwd' is no name of a preset: m.recipe.json"),
    ({"feeding": {"preprocess": "../secret.json"}}, "'../secret.json' is no name of a preset: m.recipe.json"),
    ({"feeding": {"preprocess": "secret"}}, "'secret' is no name of a preset: m.recipe.json"),
    ({"feeding": {"preprocess": ""}}, "'' is no name of a preset: m.recipe.json"),
    (
        {"inputs": [{"name": "z", "dtype": "float32", "shape": None}]},
        "the recipe is of a model with other inputs (m.onnx)",
    ),
]


@pytest.mark.parametrize(("changed", "fault"), HOSTILE, ids=[str(fault)[:40] for _, fault in HOSTILE])
def test_what_a_recipe_may_not_say(place, changed, fault):
    (place.parent / "secret").write_text("{}")
    (place.parent / "secret.json").write_text("{}")
    beside(place, **dict(changed))
    with pytest.raises(InputError) as caught:
        loaded(place)
    assert fault in str(caught.value)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("; the model takes x float32 (n, k)")
    assert len(caught.value.hint) <= 300
    assert loaded(place, recipe="none")[1].recipe_used is None
    onnxscope.inspect(place / "m.onnx")  # what runs nothing reads no recipe


def test_a_recipe_in_the_model_is_no_more_trusted(place):
    proto = onnx.load(place / "m.onnx")
    entry = proto.metadata_props.add()
    entry.key, entry.value = "onnxscope.recipe", json.dumps({**PLAIN, "feeding": {"preprocess": "/etc/passwd"}})
    with pytest.raises(InputError, match="is no name of a preset: the recipe in "):
        load_to_run(proto, RunOptions(), "random")
    entry.value = json.dumps({**PLAIN, "dims": {"k": 3}})
    assert load_to_run(proto, RunOptions(), "random")[0].dims == {"k": 3}
    entry.value = " " * (2 << 20)
    with pytest.raises(InputError, match="characters is too long: the recipe in "):
        load_to_run(proto, RunOptions(), "random")


def test_a_tokenizer_is_one_in_the_model_s_folder_with_its_digest(place):
    """The option itself is another matter: see the tests of texts."""
    model = onnxscope.load_model(place / "m.onnx")
    content = b'{"model": {}}'
    (place / "tokenizer.json").write_bytes(content)
    (place.parent / "tokenizer.json").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()

    def opened(file, sha256=digest):
        return feeding_recipes._as_option("tokenizer", {"file": file, "sha256": sha256}, model, "the recipe")

    assert opened("tokenizer.json") == str(place / "tokenizer.json")
    with pytest.raises(InputError, match=r"^the tokenizer 'tokenizer.json' is not the one that was recorded"):
        opened("tokenizer.json", "0" * 64)
    (place / "link.json").symlink_to(place.parent / "tokenizer.json")
    for file in ("../tokenizer.json", str(place.parent / "tokenizer.json"), "link.json", "none.json", "", "C:\\x"):
        with pytest.raises(InputError, match=r"^a tokenizer") as caught:
            opened(file)
        assert caught.value.hint == "a tokenizer lies in the model's folder; `--tokenizer` names another"
    with pytest.raises(InputError, match="no file and no digest of a tokenizer"):
        opened(7)


def test_a_recipe_is_written_and_read_as_it_was(tmp_path):
    recipe = FeedingRecipe(
        "m", ({"name": "x", "dtype": "float32", "shape": None},), {"k": 3}, {"n": 4}, {"size": "own"}
    )
    path = recipe.save(tmp_path / "r.json")
    assert FeedingRecipe.load(path) == recipe
    assert "size k" in recipe.table().text()
