"""How a model is fed is found once, kept with it, and used by everything that runs it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import onnxscope
from onnxscope.analyses.recipe_finding import write_into
from onnxscope.cli.main import run
from onnxscope.errors import InputError, OutputError
from onnxscope.gate.pytest_plugin import OnnxSnapshot

PIXELS = np.random.default_rng(7).integers(0, 256, (30, 50, 3), dtype=np.uint8)
NETWORK = """<ir_version: 9, opset_import: ["": 18]>
    g (float[n, 3, h, w] x) => (float[n, 2, a, b] y) { y = Conv (x, weight) }"""
ASKED = ["--preprocess", "letterbox", "--size", "24x16"]


def network():
    proto = onnx.parser.parse_model(NETWORK)
    weight = np.random.default_rng(1).standard_normal((2, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    return proto


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    Image.fromarray(PIXELS).save("photo.png")
    return tmp_path


def printed(capsys, *arguments, code=0):
    assert run([*arguments, "--format", "json"]) == code
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def boxed():
    """The photograph as `ASKED` has it, by Pillow and numpy."""
    inner = np.asarray(Image.fromarray(PIXELS).resize((24, 14), Image.Resampling.BILINEAR))  # 50 x 30, by 24 / 50
    return (np.pad(inner, ((1, 1), (0, 0), (0, 0)), constant_values=114) / 255.0).transpose(2, 0, 1)


def test_a_recipe_is_written_beside_the_model_and_every_command_uses_it(folder, capsys):
    recipe, notes = printed(capsys, "recipe", "net.onnx", "-i", "photo.png", *ASKED)
    assert recipe == json.loads((folder / "net.recipe.json").read_text())
    assert recipe["feeding"]["preprocess"]["resize"] == "letterbox"
    assert recipe["feeding"]["preprocess"]["size"] == [16, 24]
    assert (recipe["feeding"]["layout"], recipe["dims"]) == ("nchw", {})
    assert "the first sample of it has been run" in notes
    fed = ["-i", "photo.png"]
    for command in (
        ["stats", "net.onnx", *fed, "-o", "p.json"],
        ["features", "net.onnx", *fed, "-o", "f"],
        ["snapshot", "net.onnx", *fed, "-o", "net.onnxscope.json"],
        ["diff", "net.onnx", "net.onnx", *fed],
        ["report", "net.onnx", *fed, "-o", "r.html"],
        ["check", "net.onnx", *fed],
        ["extract", "net.onnx", *fed, "-s", "op:Conv", "-o", "part"],
    ):
        found, notes = printed(capsys, *command)
        assert "fed as net.recipe.json says: preprocess, layout" in notes, command
        record = found["baseline_input"] if "baseline_input" in found else found.get("input")
        if record is not None:
            assert record["preset"] == recipe["feeding"]["preprocess"]
            assert record["recipe"]["place"] == "net.recipe.json"
            assert record["recipe"]["options"] == ["preprocess", "layout"]
    (row,) = json.loads((folder / "f" / "features.json").read_text())["input"]["inputs"]
    assert row["shape"] == [1, 3, 16, 24]
    np.testing.assert_allclose(row["mean"], boxed().mean((1, 2)), atol=1e-6)


def test_what_is_asked_for_goes_before(folder, capsys):
    printed(capsys, "recipe", "net.onnx", "-i", "photo.png", *ASKED)
    found, notes = printed(capsys, "stats", "net.onnx", "-i", "photo.png", "-o", "p.json", "--preprocess", "unit")
    assert found["input"]["preset"] == "unit"
    assert found["input"]["recipe"]["options"] == ["layout"]
    command = ["stats", "net.onnx", "-i", "photo.png", "-o", "p.json", "--recipe", "none"]
    assert run(command) == 2
    assert "which preset? The model records none" in capsys.readouterr().err
    found, notes = printed(capsys, *command, "--preprocess", "unit")
    assert "recipe" not in found["input"]
    assert "net.recipe.json" not in notes
    (folder / "net.recipe.json").rename("elsewhere.json")
    found, _ = printed(capsys, *command[:-1], "elsewhere.json")
    assert found["input"]["recipe"]["place"] == "elsewhere.json"


def test_the_library_and_the_pytest_fixture_use_it_too(folder):
    found = onnxscope.recipe("net.onnx", "photo.png", preprocess="letterbox", size="24x16")
    assert found.save() == folder / "net.recipe.json"
    activation = onnxscope.class_activation("net.onnx", "photo.png", layer="y")
    assert activation.input["recipe"]["place"] == "net.recipe.json"
    taken = onnxscope.snapshot("net.onnx", "photo.png")
    assert onnxscope.check("net.onnx", taken, "photo.png").ok
    explicit = onnxscope.snapshot("net.onnx", "photo.png", preprocess="letterbox", size="24x16", recipe="none")
    assert explicit.input["content"] == taken.input["content"]
    for update in (True, False):
        fixture = OnnxSnapshot(folder / "test_export.py", "test_export", update=update)
        fixture.check("net.onnx", "photo.png")
    kept = json.loads(fixture.path().read_text())
    assert kept["input"]["recipe"]["place"] == "net.recipe.json"


def test_a_baseline_taken_otherwise_is_told_apart(folder, capsys):
    printed(capsys, "snapshot", "net.onnx", "-i", "photo.png", "--preprocess", "unit", "-o", "net.onnxscope.json")
    printed(capsys, "recipe", "net.onnx", "-i", "photo.png", *ASKED)
    assert run(["check", "net.onnx", "-i", "photo.png"]) == 2
    assert "these inputs are not those of the baseline: preset" in capsys.readouterr().err


def test_sizes_are_recorded_as_they_were_given_or_found(folder, capsys):
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[n, time] x, float[n, k] z) => (float[n, time] y, float[n, 2, 12] v) <int64[3] shape = {0, 2, 12}>
        { y = Relu (x)  v = Reshape (z, shape) }"""
    onnx.save(onnx.parser.parse_model(text), "sizes.onnx")
    recipe, notes = printed(capsys, "recipe", "sizes.onnx", "--dim", "time=20")
    assert (recipe["dims"], recipe["random_dims"]) == ({"time": 20}, {"k": 24})
    assert "found what runs on random input: k=24" in notes
    found, notes = printed(capsys, "stats", "sizes.onnx", "-i", "random", "-s", "value:*", "-o", "p.json")
    assert found["input"]["dims"] == {"time": 20, "k": 24}
    assert "fed as sizes.recipe.json says: k=24, time=20" in notes
    assert "found what runs" not in notes
    found, _ = printed(
        capsys, "stats", "sizes.onnx", "-i", "random", "-s", "value:*", "-o", "p.json", "--dim", "time=5"
    )
    assert found["input"]["dims"] == {"time": 5, "k": 24}
    np.savez("in.npz", x=np.zeros((2, 20), np.float32), z=np.zeros((2, 24), np.float32))
    found, _ = printed(capsys, "stats", "sizes.onnx", "-i", "in.npz", "-s", "value:*", "-o", "p.json")
    assert found["input"]["dims"] == {"time": 20}  # what was found for random numbers holds for these alone


def test_files_are_recorded_by_their_content(folder, capsys):
    (folder / "steps.json").write_text('{"size": 20, "divisor": 128}')
    recipe, _ = printed(capsys, "recipe", "net.onnx", "-i", "photo.png", "--preprocess", "steps.json")
    (folder / "steps.json").unlink()
    assert recipe["feeding"]["preprocess"]["divisor"] == 128
    found, _ = printed(capsys, "stats", "net.onnx", "-i", "photo.png", "-o", "p.json")
    assert found["input"]["preset"]["name"] == "steps"


def test_what_is_known_without_data(folder, capsys):
    (folder / "preprocessor_config.json").write_text('{"do_resize": true, "size": {"height": 12, "width": 20}}')
    recipe, _ = printed(capsys, "recipe", "net.onnx")
    assert recipe["feeding"]["preprocess"]["size"] == [12, 20]
    assert recipe["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 3, "h", "w"]}]
    assert run(["recipe", "net.onnx"]) == 0  # it may be written again
    shown = capsys.readouterr()
    assert "input x     float32 n × 3 × h × w" in shown.out
    assert "the recipe is in" in shown.err


def test_a_recipe_travels_in_the_model(folder, capsys):
    original = (folder / "net.onnx").read_bytes()
    assert run(["recipe", "net.onnx", "-i", "photo.png", *ASKED, "--into", "fed.onnx"]) == 0
    assert not (folder / "net.recipe.json").exists()
    assert (folder / "net.onnx").read_bytes() == original
    onnx.checker.check_model("fed.onnx", full_check=True)
    assert onnx.load("fed.onnx").graph == onnx.load("net.onnx").graph
    capsys.readouterr()
    for size in ("24x16", "12x8"):  # once more, into one that has it
        found, notes = printed(capsys, "stats", "fed.onnx", "-i", "photo.png", "-o", "p.json")
        assert found["input"]["inputs"][0]["shape"] == ["n", 3, "h", "w"]
        assert found["input"]["preset"]["size"] == [int(side) for side in size.split("x")][::-1]
        assert "fed as the recipe in fed.onnx says: preprocess, layout" in notes
        asked = ["--preprocess", "letterbox", "--size", "12x8"]
        assert run(["recipe", "fed.onnx", "-i", "photo.png", *asked, "--into", "again.onnx"]) == 0
        onnx.checker.check_model("again.onnx")
        (folder / "again.onnx").rename("fed.onnx")
        capsys.readouterr()


def test_a_copy_stays_with_its_weights(folder, capsys):
    proto = network()
    onnx.save(proto, "large.onnx", save_as_external_data=True, location="large.data", size_threshold=0)
    (folder / "other").mkdir()
    assert run(["recipe", "large.onnx", "--into", "other/fed.onnx"]) == 2
    assert "the model's weights lie in large.data beside it" in capsys.readouterr().err
    assert run(["recipe", "large.onnx", "--into", "fed.onnx"]) == 0
    assert run(["stats", "fed.onnx", "-i", "photo.png", "--preprocess", "unit", "-o", "p.json"]) == 0
    found = onnxscope.recipe("net.onnx")
    with pytest.raises(OutputError, match="the output would replace an input"):
        write_into(found, "net.onnx", "net.onnx")


def test_a_recipe_never_replaces_what_it_did_not_write(folder, capsys):
    (folder / "net.recipe.json").write_text('{"mine": 1}')
    assert run(["recipe", "net.onnx"]) == 2
    assert "a file that is not a file of the schema onnxscope.recipe" in capsys.readouterr().err
    assert run(["recipe", "net.onnx", "--force"]) == 0
    with pytest.raises(InputError, match="a model from memory has no file beside which a recipe could lie"):
        onnxscope.recipe(network()).save()


def test_the_data_has_to_run(folder, capsys):
    assert run(["recipe", "net.onnx", "-i", "photo.png", "--preprocess", "unit", "--size", "2"]) == 2
    assert not (folder / "net.recipe.json").exists()


def test_images_for_two_inputs_keep_their_own_layouts(folder, capsys):
    text = """<ir_version: 9, opset_import: ["": 18]>
        g (float[n, 3, h, w] left, float[n, h, w, 3] right) => (float[n, 3, h, w] y)
        { t = Transpose <perm = [0, 3, 1, 2]> (right)  y = Sub (left, t) }"""
    onnx.save(onnx.parser.parse_model(text), "pair.onnx")
    fed = ["-i", "left=photo.png", "-i", "right=photo.png"]
    recipe, _ = printed(capsys, "recipe", "pair.onnx", *fed, "--preprocess", "unit", "--size", "8")
    assert recipe["feeding"].keys() == {"preprocess"}
    found, notes = printed(capsys, "stats", "pair.onnx", *fed, "-s", "value:y", "-o", "p.json")
    assert (found["taps"][0]["count"], found["taps"][0]["mean"]) == (3 * 8 * 8, 0)
    assert "fed as pair.recipe.json says: preprocess" in notes
