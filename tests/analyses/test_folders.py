"""Result folders: what is written, what is replaced, what is left alone; and results as text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from PIL import Image

import onnxscope
from onnxscope.analyses.folders import save_features, save_weights
from onnxscope.base.tables import render
from onnxscope.errors import OutputError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS = FIXTURES / "digits.onnx"


@pytest.fixture(scope="module")
def maps():
    return onnxscope.features(DIGITS, FIXTURES / "digits.npz")


def test_a_picture_for_every_layer_and_a_record_that_names_it(maps, tmp_path):
    pictures = save_features(maps, tmp_path)
    record = json.loads((tmp_path / "features.json").read_text(encoding="utf-8"))
    assert [tap["picture"] for tap in record["taps"]] == ["001_stem.0.png", "002_block.0.png", "003_down.0.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*pictures.values(), "features.json"])
    for name in pictures.values():
        with Image.open(tmp_path / name) as image:
            assert image.mode == "P"


def test_a_picture_shows_the_values(maps, tmp_path):
    """Every pixel of a cell is one of the 256 colours; the brightest is where the channel has its maximum."""
    pictures = save_features(maps, tmp_path)
    tap = maps.layer("stem.0")
    with Image.open(tmp_path / pictures[tap.tap.name]) as image:
        pixels = np.asarray(image)
    cell = (pixels.shape[1] + 4) // 4
    factor = (cell - 4) // 8
    first = pixels[: factor * 8 : factor, : factor * 8 : factor]
    channel = tap.data[0, 0]
    assert first.argmax() == channel.argmax()
    assert set(first[channel == channel.min()]) == {0}


def test_a_second_run_replaces_its_own_files_only(maps, tmp_path):
    (tmp_path / "001_mine.png").write_text("not ours")
    (tmp_path / "notes.txt").write_text("keep")
    save_features(maps, tmp_path, arrays=True)
    fewer = onnxscope.features(DIGITS, FIXTURES / "digits.npz", select="down.0")
    save_features(fewer, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["001_down.0.png", "001_mine.png", "features.json", "features.npz", "notes.txt"]


def test_a_forged_manifest_removes_nothing_of_the_users(maps, tmp_path):
    outside = tmp_path / "precious.png"
    outside.write_text("keep")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "features.json").write_text(
        json.dumps({"schema": "onnxscope.features/1", "taps": [{"picture": "../precious.png"}, 5]})
    )
    save_features(maps, folder)
    assert outside.exists()


def test_arrays_come_back_under_their_tap_names(maps, tmp_path):
    save_features(maps, tmp_path, arrays=True)
    with np.load(tmp_path / "features.npz", allow_pickle=False) as archive:
        assert list(archive) == [tap.tap.name for tap in maps]
        for tap in maps:
            np.testing.assert_array_equal(archive[tap.tap.name], tap.data)


def test_the_same_input_gives_the_same_bytes(maps, tmp_path):
    for folder in ("a", "b"):
        save_features(onnxscope.features(DIGITS, FIXTURES / "digits.npz"), tmp_path / folder, arrays=True)
        loaded = onnxscope.load_model(DIGITS)
        save_weights(onnxscope.weights(loaded), loaded, tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("picture", ["svg", "png"])
def test_histograms_of_every_parameter_and_kernels_of_the_first_layer(tmp_path, picture):
    loaded = onnxscope.load_model(DIGITS)
    statistics = onnxscope.weights(loaded)
    pictures = save_weights(statistics, loaded, tmp_path, picture=picture)
    assert list(pictures) == [row.parameter.name for row in statistics]
    assert pictures["stem.0.weight"] == f"001_stem.0.weight.{picture}"
    assert (tmp_path / "000_kernels_stem.0.weight.png").exists()
    record = json.loads((tmp_path / "weights.json").read_text(encoding="utf-8"))
    assert sorted(record["pictures"]) == sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json")


def test_a_folder_that_cannot_be_made(maps, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        save_features(maps, tmp_path / "file")


def test_render_every_format(maps):
    assert json.loads(render(maps, "json"))["schema"] == "onnxscope.features/1"
    assert render(maps, "csv").startswith("layer,operator,at,")
    assert render(maps, "md").startswith("**digits.onnx on digits.npz: 3 taps**")
    assert "stem.0" in render(maps, "table")


@pytest.mark.parametrize("name", ["nul\0byte", "n" * 70_000], ids=["nul", "long"])
def test_a_name_that_no_archive_holds_is_refused_before_anything_is_written(tmp_path, name):
    model = onnx.load(DIGITS)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, value in enumerate(names):
                names[place] = name if value == "relu" else value
    maps = onnxscope.features(model, FIXTURES / "digits.npz", select="stem.0")
    with pytest.raises(OutputError, match="an archive cannot hold the name"):
        save_features(maps, tmp_path / "out", arrays=True)
    assert list(tmp_path.iterdir()) == []


def test_letters_of_any_script_stay_in_the_names_of_pictures_and_are_known_again(tmp_path):
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y) <float[1, 1, 1, 1] w = {2}, float[1, 1, 1, 1] v = {3}> {
            h = Conv(x, w)  y = Conv(h, v) }""")
    for node, name in zip(model.graph.node, ("畳み込み/слой", "Größe"), strict=True):
        node.name = name
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    pictures = save_features(onnxscope.features(model, x), tmp_path)
    assert list(pictures.values()) == ["001_畳み込み_слой.png", "002_Größe.png"]
    assert list(pictures) == ["h", "y"]
    save_features(onnxscope.features(model, x, select="node:Größe"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001_Größe.png", "features.json"]
