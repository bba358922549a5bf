"""What the user gave: kinds, folders, globs, orders, and things that are no files."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from onnxscope.errors import InputError
from onnxscope.inputs.sources import NamedFiles, files_behind, gather, open_input, suffix_of

FORMS = (
    "an input is an image, a .npy, .npz, .safetensors or .pb of arrays, a .csv or .parquet, a .wav or .flac, a .txt or "
    ".jsonl of text, a folder or a glob of these, NAME=FILE, text:…, or random[:seed]"
)


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


@pytest.fixture
def folder(tmp_path):
    for name in ("img10.png", "img2.PNG", "Img1.jpg", "notes.txt", "data.npy"):
        (tmp_path / name).touch()
    (tmp_path / "below.png").mkdir()
    (tmp_path / "below.png" / "img3.png").touch()
    return tmp_path


def names(paths):
    return [os.path.basename(path) for path in paths]


def test_a_folder_gives_its_images_in_natural_order(folder):
    kind, paths, notes = gather(folder)
    assert kind == "images"
    assert names(paths) == ["Img1.jpg", "img2.PNG", "img10.png"]
    assert notes == [f"2 other files ignored in {folder}"]


def test_a_glob(folder):
    kind, paths, notes = gather(f"{folder}/img*")
    assert (kind, names(paths), notes) == ("images", ["img2.PNG", "img10.png"], [])
    assert names(gather(f"{folder}/**/*3.png")[1]) == ["img3.png"]
    kind, paths, notes = gather(f"{folder}/*.npy")
    assert (kind, names(paths), notes) == ("arrays", ["data.npy"], [])
    _, paths, notes = gather(f"{folder}/[In]*")
    assert names(paths) == ["Img1.jpg"]
    assert notes == [f"1 other file ignored matched by {folder}/[In]*"]


def test_a_file_with_a_globs_name_is_a_file(folder):
    (folder / "img[1].png").touch()
    assert names(gather(f"{folder}/img[1].png")[1]) == ["img[1].png"]


def test_several_images_keep_the_order_given(folder):
    assert names(gather([folder / "img10.png", str(folder / "Img1.jpg"), folder / "img10.png"])[1]) == [
        "img10.png",
        "Img1.jpg",
        "img10.png",
    ]
    assert names(gather(path for path in sorted(folder.glob("img*.*")))[1]) == ["img10.png", "img2.PNG"]


def test_random_and_its_seed():
    assert gather("random") == ("random", [0], [])
    assert gather(["random:12"]) == ("random", [12], [])


def test_things_from_the_library():
    image = Image.new("L", (1, 1))
    assert gather([image, image]) == ("images", [image, image], [])
    assert gather({"x": 1}) == ("arrays", [{"x": 1}], [])
    assert gather([[1.0, 2.0], [3.0, 4.0]]) == ("arrays", [[[1.0, 2.0], [3.0, 4.0]]], [])
    array = np.ones(3)
    assert gather(array)[1][0] is array
    assert gather([array])[1][0] is array


def test_suffixes_are_lower_case():
    assert suffix_of("a/B.NPZ") == ".npz"


def test_nothing_given():
    message, hint = refusal(gather, [])
    assert message == "no input is given"
    assert hint.startswith("an input is an image, ")


def test_kinds_do_not_mix(tmp_path):
    (tmp_path / "b.npy").touch()
    assert refusal(gather, [str(tmp_path / "a.png"), "random"])[0] == f"no such file: {tmp_path / 'a.png'}"
    (tmp_path / "a.png").touch()
    message, hint = refusal(gather, [str(tmp_path / "a.png"), str(tmp_path / "b.npy"), "random"])
    assert message == "inputs of different kinds do not mix: arrays and images and random"
    assert hint == "give one kind of input"


def test_one_seed_at_a_time():
    message, hint = refusal(gather, ["random", "random:3"])
    assert message == "2 random inputs, and one is all that is taken"
    assert hint == "`-i random --samples 2` makes so many samples"


def test_a_folder_without_images_gives_its_arrays(tmp_path):
    for name in ("b10.npy", "b2.npz", "c.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    kind, paths, notes = gather(tmp_path)
    assert (kind, names(paths), notes) == (
        "arrays", ["b2.npz", "b10.npy", "c.safetensors"], [f"1 other file ignored in {tmp_path}"]
    )  # fmt: skip


def test_test_data_of_onnx_is_one_source(tmp_path):
    for number in (0, 10, 2):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        for place in (1, 0, 10):
            (folder / f"input_{place}.pb").touch()
        (folder / "output_0.pb").touch()
    assert names(gather(tmp_path)[1]) == ["test_data_set_0", "test_data_set_2", "test_data_set_10"]
    assert names(gather(f"{tmp_path}/test_data_set_*0")[1]) == ["test_data_set_0", "test_data_set_10"]
    kind, paths, _ = gather(tmp_path / "test_data_set_2")
    assert (kind, paths) == ("arrays", [str(tmp_path / "test_data_set_2")])
    assert names(files_behind(paths)) == ["input_0.pb", "input_1.pb", "input_10.pb"]


def test_a_file_can_name_its_input(tmp_path):
    (tmp_path / "a=b.npy").touch()
    (tmp_path / "c.npy").touch()
    assert gather(f"{tmp_path}/a=b.npy") == ("arrays", [f"{tmp_path}/a=b.npy"], [])
    kind, entries, _ = gather([f"x=1={tmp_path}/c.npy", f"y={tmp_path}/absent.npz"])
    assert (kind, entries) == (
        "arrays", [NamedFiles({"x=1": f"{tmp_path}/c.npy", "y": f"{tmp_path}/absent.npz"})]
    )  # fmt: skip


def test_one_file_or_number_goes_with_each_of_the_others(tmp_path):
    for name in ("a1.npy", "a2.npy", "s.npy"):
        (tmp_path / name).touch()
    _, entries, _ = gather([f"a={tmp_path}/a*.npy", f"s={tmp_path}/s.npy", "rate=16000"])
    assert [names([entry.paths["a"], entry.paths["s"]]) for entry in entries] == [
        ["a1.npy", "s.npy"], ["a2.npy", "s.npy"],
    ]  # fmt: skip
    assert [(entry.number("rate"), entry.number("s")) for entry in entries] == [(16000.0, None)] * 2
    assert names(files_behind(entries)) == ["a1.npy", "s.npy", "a2.npy", "s.npy"]


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", "9" * 19, "1\n"])
def test_bad_seeds(seed):
    message, _ = refusal(gather, f"random:{seed}")
    assert message == f"the seed {seed!r} is no whole number of up to 18 digits: random:SEED"


def test_a_folder_without_inputs(tmp_path):
    message, hint = refusal(gather, tmp_path)
    assert message == f"no image, no file of arrays, no sound and no text in the folder: {tmp_path}"
    assert hint.startswith("an input is an image, ")


def test_a_glob_without_matches(tmp_path):
    message, hint = refusal(gather, f"{tmp_path}/*.png")
    assert message == f"no image, no file of arrays, no sound and no text matches: {tmp_path}/*.png"
    assert hint.startswith("an input is an image, ")


def test_a_fifo_in_a_folder_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert (
        refusal(gather, tmp_path)[0] == f"no image, no file of arrays, no sound and no text in the folder: {tmp_path}"
    )


def test_a_missing_input_is_told_what_inputs_are(tmp_path):
    assert refusal(open_input, str(tmp_path / "absent.png")) == (f"no such file: {tmp_path / 'absent.png'}", FORMS)
    (tmp_path / "a").write_bytes(b"abc")
    with open_input(str(tmp_path / "a"), limit_bytes=3) as stream:
        assert stream.read() == b"abc"
    assert refusal(open_input, str(tmp_path / "a"), limit_bytes=2)[0].startswith("3 bytes are more than the 2")


def test_an_unreadable_folder(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    assert refusal(gather, tmp_path)[0] == f"cannot read the folder (Permission denied): {tmp_path}"
