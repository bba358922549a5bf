"""No command writes over what it reads, nor two results into one file: every option that writes against every input."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from PIL import Image

import onnxscope
from onnxscope.cli.main import cli, run
from onnxscope.errors import OutputError
from onnxscope.gate.pytest_plugin import OnnxSnapshot
from onnxscope.reporting.overlays import overlay_files

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
DIGITS, IMAGES = FIXTURES / "digits.onnx", FIXTURES / "digits.npz"

# What the workplace holds, by what it is to a command: the model and its weights, another one, ...
MODELS = ("m.onnx", "m.data")
FED = ("photos/1.png", "photos/2.png", "recipe.json")
IMAGES_FED = "-i photos --preprocess recipe.json"
CHECKED = f"check m.onnx --baseline b.json {IMAGES_FED} --config tolerances.toml"
CONVERTED = "convert torch net.py:make --weights w.pth --preprocess recipe.json"

# A command line, which of its options writes, and the files that it reads.
FILES = [
    (f"snapshot m.onnx {IMAGES_FED}", "-o", (*MODELS, *FED)),
    ("snapshot m.onnx -i photos/*.png --preprocess recipe.json", "-o", (*MODELS, *FED)),
    ("snapshot m.onnx", "-o", MODELS),
    (f"stats m.onnx {IMAGES_FED}", "-o", (*MODELS, *FED)),
    ("stats m.onnx -i x.npy", "-o", (*MODELS, "x.npy")),
    ("stats m.onnx -i x.npz --resume", "-o", (*MODELS, "x.npz")),
    ("stats m.onnx.partial -i x.npy", "-o m.onnx", ()),
    ("stats m.onnx -i x.npy --provider ./ops.so", "-o", ("ops.so",)),
    ("snapshot m.onnx -i x.npy --provider ./ops.so", "-o", ("ops.so",)),
    ("sensitivity m.onnx -i x.npy --provider ./ops.so:a=b", "-o", ("ops.so",)),
    (f"report m.onnx {IMAGES_FED} --profile p.json", "-o", (*MODELS, *FED, "p.json")),
    (f"sensitivity m.onnx {IMAGES_FED}", "-o", (*MODELS, *FED)),
    ("sensitivity m.onnx -i x.npy", "-o", ("x.npy",)),
    ("report m.onnx --against other.onnx", "-o", (*MODELS, "other.onnx", "other.data")),
    (CHECKED, "--junit", (*MODELS, *FED, "b.json", "tolerances.toml")),
    (CHECKED, "--markdown", (*MODELS, *FED, "b.json", "tolerances.toml")),
    (f"{CHECKED} --profile p.json", "--junit", (*MODELS, *FED, "b.json", "p.json")),
    (f"{CHECKED} --update", "--junit", (*MODELS, *FED)),
    ("check m.onnx", "--junit", ("m.onnxscope.json", "pyproject.toml")),
    (
        "check m.onnx other.onnx broken.onnx -i nowhere.npy",
        "--junit",
        (*MODELS, "other.onnx", "other.data", "broken.onnx"),
    ),
    ("check m.onnx --update", "--baseline", MODELS),
    ("check m.onnx --update -i x.npy", "--baseline", ("x.npy",)),
    (CONVERTED, "-o", ("net.py", "w.pth", "recipe.json")),
    ("convert torch net.py:make --verify --custom-ops ops.so", "-o", ("net.py", "ops.so")),
    ("convert torch net:make", "-o", ("net.py",)),
    ("convert torch net.py:make --weights out.onnx.data", "-o out.onnx", ()),
    ("convert tensorflow saved.keras", "-o", ("saved.keras",)),
    ("convert tensorflow saved", "-o", ("saved/saved_model.pb", "saved/variables/variables.index")),
    ("convert tensorflow saved/saved_model.pb", "-o", ("saved/saved_model.pb", "saved/variables/variables.index")),
]
# The same of options that write a folder: inputs there that have the name of what the option writes.
FOLDERS = [
    ("features {} -i photos --preprocess recipe.json -o d", ("features.json", "features.npz", "001_stem.0.png")),
    ("features m.onnx -i {} --preprocess recipe.json -o d", ("012_old.png",)),
    ("features m.onnx -i photos --preprocess {} -o d", ("features.json",)),
    ("weights {} -o d", ("weights.json", "000_kernels_stem.0.weight.png", "001_stem.0.weight.svg")),
    ("extract {} --select op:Conv -o d", ("model.onnx", "model.onnx.data", "reproduce.py", "data.npz", "extract.json")),
    ("extract {} -i x.npy --shrink -o d", ("model.onnx", "model.onnxtxt")),
    ("extract m.onnx --select op:Conv -i photos --preprocess {} -o d", ("extract.json",)),
    ("diff {} other.onnx -i x.npy --extract d", ("a/model.onnx", "a/data.npz")),
    ("report {} -o page.html --node-data d", ("onnxscope_weight_mean.json",)),
    ("report m.onnx --against {} -o page.html --node-data d", ("onnxscope_error_sqnr_db.json",)),
    ("report m.onnx --profile {} -o page.html --node-data d", ("onnxscope_activation_std.json",)),
    ("report m.onnx -i photos --preprocess {} -o page.html --node-data d", ("onnxscope_weight_max.json",)),
]
TWICE = [
    "check m.onnx --junit r --markdown ./photos/../r",
    "check m.onnx --junit r --markdown there/r",
    "check m.onnx --junit there/photos/new --markdown photos/new",
    "check m.onnx --baseline b.json --update --junit b.json",
    "check m.onnx m.pb --update",
    "report m.onnx -o r --node-data r",
    "report m.onnx -o d/onnxscope_weight_std.json --node-data d",
]
MISSING = [
    f"snapshot m.onnx {IMAGES_FED} -o none/b.json",
    f"{CHECKED} --junit none/j.xml",
    f"{CHECKED} --markdown none/s.md",
    f"report m.onnx {IMAGES_FED} -o none/p.html",
    f"{CONVERTED} -o none/out.onnx",
    "convert tensorflow saved.keras -o none/out.onnx",
    "diff m.onnx other.onnx -i x.npy --mend none/out.onnx",
    "sensitivity m.onnx -i x.npy -o none/layers.png",
]
# Options whose type is a path, and what a command does with it; a new one belongs here and above.
WRITTEN = {
    *(("weights", "output"), ("features", "output"), ("stats", "output"), ("snapshot", "output")),
    *(("report", "output"), ("report", "node_data"), ("convert", "output"), ("demo", "output")),
    *(("extract", "output"), ("diff", "extract"), ("diff", "mend"), ("recipe", "output"), ("recipe", "into")),
    ("sensitivity", "output"),
    *(("check", "junit_file"), ("check", "markdown_file"), ("check", "baseline")),
}
READ = {
    *((name, "model") for name in ("inspect", "weights", "features", "stats", "snapshot", "report", "extract")),
    *(("sensitivity", "model"), ("sensitivity", "quantized"), ("sensitivity", "custom_ops")),
    *(("drift", "first"), ("drift", "second")),
    *(("bisect", "model"), ("bisect", "custom_ops"), ("bisect", "keep")),
    *(
        ("diff", "a"),
        ("diff", "b"),
        ("check", "models"),
        ("check", "config"),
        ("check", "profile"),
        ("check", "baseline"),
    ),
    *(("report", "profile"), ("report", "against"), ("convert", "weights")),
    *((name, "custom_ops") for name in ("weights", "features", "stats", "diff", "snapshot", "check", "report")),
    *(("convert", "custom_ops"), ("extract", "custom_ops"), ("recipe", "custom_ops"), ("recipe", "model")),
    ("inspect", "custom_ops"),
    *(("doctor", "model"), ("doctor", "expect"), ("doctor", "custom_ops")),
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with one of everything that a command reads; running or converting anything is a failure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    for name in ("m", "other"):
        onnx.save(onnx.load(DIGITS), f"{name}.onnx", save_as_external_data=True, location=f"{name}.data")
    for name in ("m.onnx.partial", "m.pb"):
        shutil.copy(DIGITS, name)
    for name in ("photos", "d/a", "saved/variables"):
        Path(name).mkdir(parents=True)
    for name in ("photos/1.png", "photos/2.png"):
        Image.new("L", (8, 8)).save(name)
    with np.load(IMAGES) as archive:
        np.save("x.npy", archive["digits"][:2])
        np.savez("x.npz", digits=archive["digits"][:2])
    Path("recipe.json").write_text('{"divisor": 255}')
    for name in ("tolerances.toml", "pyproject.toml"):
        Path(name).write_text("[tool.onnxscope]\n")
    for name in ("b.json", "m.onnxscope.json"):
        onnxscope.snapshot("m.onnx").save(name)
    onnxscope.stats("m.onnx", "x.npy", output="p.json")
    for name in ("net.py", "w.pth", "ops.so", "out.onnx.data", "saved.keras", "broken.onnx", "saved/saved_model.pb"):
        Path(name).write_text("not looked at")
    Path("saved/variables/variables.index").write_text("not looked at")
    Path("there").symlink_to(".")

    def nothing(*_, **__):
        raise AssertionError("something was run")

    monkeypatch.setattr("onnxscope.runtime.session.Session.__init__", nothing)
    monkeypatch.setattr("onnxscope.converting.contract.subprocess.run", nothing)
    return tmp_path


@pytest.fixture
def refused(workplace, capsys):
    """Run a command that has to be refused in one line and a hint, and to leave everything as it was."""

    def refuse(line, fault):
        before = contents(workplace)
        code = run(line.split())
        out, err = capsys.readouterr()
        message, hint = err.splitlines()
        assert (code, out) == (2, "")
        assert message.startswith(f"onnxscope: error: {fault}")
        assert hint.startswith("hint: write ")
        assert contents(workplace) == before
        return message

    return refuse


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "option", "inputs"), FILES, ids=[f"{line} {option}" for line, option, _ in FILES])
def test_no_file_takes_the_place_of_an_input(refused, command, option, inputs):
    for each in inputs:
        line = f"{command} {option} {each}"
        assert refused(line, "the output would replace an input").endswith(f": {each}")
    if not inputs:
        refused(f"{command} {option}", "the output would replace an input")


@pytest.mark.parametrize(("command", "names"), FOLDERS)
def test_no_file_in_a_folder_takes_the_place_of_an_input(refused, command, names):
    for name in names:
        place = Path("d", name)
        shutil.copy("recipe.json" if "{} -o" not in command and "preprocess {}" in command else DIGITS, place)
        refused(command.format(place), "the output would replace an input")
        place.unlink()


def test_a_folder_of_photographs_takes_results_beside_them(workplace, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    before = contents(workplace)
    assert run(["features", "m.onnx", "-i", "photos", "--preprocess", "recipe.json", "-o", "photos", "-q"]) == 0
    assert before.items() <= contents(workplace).items()
    assert Path("photos/features.json").exists()


@pytest.mark.parametrize("command", MISSING)
def test_a_folder_that_is_missing_costs_no_run(refused, command):
    refused(command, "cannot write (No such file or directory): none/")


@pytest.mark.parametrize("command", TWICE)
def test_no_two_outputs_are_one_file(refused, command):
    refused(command, "two outputs would be one file")


@pytest.mark.parametrize("way", ["m.onnx", "./photos/../m.onnx", "there/m.onnx", "soft", "hard", "dangling"])
@pytest.mark.parametrize("named", ["m.onnx", "named"])
def test_links_and_detours_hide_nothing(workplace, refused, way, named):
    Path("named").symlink_to("m.onnx")
    os.link("m.onnx", "hard")
    Path("soft").symlink_to(workplace / "m.onnx")
    if way == "dangling":
        Path("dangling").symlink_to("nowhere")
        refused(f"check {named} --junit {way} --markdown nowhere", "two outputs would be one file")
    else:
        message = refused(f"report {named} -o {way}", "the output would replace an input")
        other = "" if way.endswith("m.onnx") else f", which is {workplace / 'm.onnx'}"
        assert message.endswith(f": {Path(way)}{other}")


@pytest.mark.parametrize("name", ["m.onnx", "m.data", "x.npy", "m.onnxscope.json"])
def test_the_summary_of_a_job_is_no_input(refused, monkeypatch, name):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", name)
    refused("check m.onnx -i x.npy --github", "the output would replace an input")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "r.md")
    refused("check m.onnx --github --markdown r.md", "two outputs would be one file")


def test_a_baseline_is_brought_up_to_date_in_its_place(workplace):
    assert run(["check", "m.onnx", "--baseline", "b.json", "--update", "--junit", "r.xml", "-q"]) == 0
    assert run(["check", "m.onnx", "other.onnx", "--update", "-q"]) == 2  # other.onnx has none, and m.onnx is updated
    assert run(["check", "m.onnx", "-q"]) == 0


@pytest.mark.parametrize("name", ["digits/features.txt", "torch-alexnet/model.onnx", "digits/weights/weights.json"])
def test_the_demonstration_keeps_what_it_shows(refused, workplace, monkeypatch, name):
    shutil.copy(DIGITS, "sample.onnx")
    monkeypatch.setattr("onnxscope.cli.demo._sample", lambda _: workplace / "sample.onnx")
    Path("d", name).parent.mkdir(parents=True)
    os.link("sample.onnx", Path("d", name))
    refused("demo -o d", "the output would replace an input")


def test_the_fixture_of_pytest_keeps_its_model(workplace):
    snapshot = OnnxSnapshot(workplace / "test_x.py", "a", update=True)
    snapshot.path().parent.mkdir()
    shutil.copy(DIGITS, snapshot.path())
    with pytest.raises(OutputError, match=r"^the output would replace an input: .*test_x\.a\.json$"):
        snapshot.check(str(snapshot.path()))
    assert snapshot.path().read_bytes() == DIGITS.read_bytes()


def test_every_option_that_is_a_path_is_known_to_read_or_to_write():
    paths = {
        (name, option.name)
        for name, command in cli.commands.items()
        for option in command.params
        if isinstance(option.type, click.Path)
    }
    assert paths == WRITTEN | READ


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("m.onnx", lambda: contextlib.nullcontext("random")),
        ("m.data", lambda: contextlib.nullcontext("random")),
        ("x.npy", lambda: contextlib.nullcontext(np.load("x.npy", mmap_mode="r"))),
        ("x.npy", lambda: contextlib.nullcontext({"digits": np.load("x.npy", mmap_mode="r")})),
        ("x.npz", lambda: np.load("x.npz")),
        ("photos/1.png", lambda: Image.open("photos/1.png")),
        ("photos/2.png", lambda: contextlib.nullcontext(iter(["photos/1.png", "photos/2.png"]))),
        ("recipe.json", lambda: contextlib.nullcontext("photos")),
    ],
)
def test_analyze_refuses_what_it_reads(workplace, name, opened):
    before = contents(workplace)
    refusal = rf"^the output would replace an input: {name}$"
    with opened() as inputs, pytest.raises(OutputError, match=refusal) as caught:
        onnxscope.stats("m.onnx", inputs, preprocess="recipe.json", output=name)
    assert caught.value.hint == "write to another place"
    assert contents(workplace) == before


@pytest.mark.parametrize("name", ["m.onnx", "m.data"])
def test_results_that_know_their_model_refuse_its_files(workplace, name):
    before = contents(workplace)
    page = onnxscope.report("m.onnx")
    with pytest.raises(OutputError, match=rf"^the output would replace an input: {name}$"):
        page.save(name)
    statistics = onnxscope.weights("m.onnx")
    for folder, write in (
        ("w/weights.json", lambda model: onnxscope.save_weights(statistics, model, "w")),
        ("w/001_a.svg", lambda model: onnxscope.save_weights(statistics, model, "w")),
        (overlay_files("w")[1], lambda model: onnxscope.write_node_data("w", model, weights=statistics)),
    ):
        Path("w").mkdir()
        model = onnxscope.load_model(shutil.copy(DIGITS, folder))
        with pytest.raises(OutputError, match=r"^the output would replace an input: w/"):
            write(model)
        shutil.rmtree("w")
    assert contents(workplace) == before


# A command line that takes -o (or another option) and what it leaves there, by the name of somebody's file.
FOREIGN = [
    ("snapshot m.onnx", "-o", ("notes.txt", "model2.onnx", "photo.png", "other.json", "p.json")),
    ("stats m.onnx -i x.npy", "-o", ("notes.txt", "model2.onnx", "photo.png", "other.json", "b.json")),
    ("report m.onnx", "-o", ("notes.txt", "model2.onnx", "photo.png", "other.html")),
    ("sensitivity m.onnx -i x.npy", "-o", ("notes.txt", "model2.onnx", "photo.png", "other.html")),
    ("check m.onnx", "--junit", ("notes.txt", "model2.onnx", "photo.png", "other.html", "other.xml")),
    ("check m.onnx", "--markdown", ("notes.txt", "model2.onnx", "photo.png", "other.html")),
    ("convert torch net.py:make", "-o", ("notes.txt", "photo.png", "b.json")),
]
FOREIGN_IN_FOLDERS = [
    ("features m.onnx -i x.npy --arrays -o d", ("features.json", "features.npz", "001_stem.0.png")),
    ("weights m.onnx -o d", ("weights.json", "001_stem.0.weight.svg")),
    ("extract m.onnx --select stem.0 -i x.npy -o d", ("model.onnx", "reproduce.py", "data.npz", "extract.json")),
    ("report m.onnx -o page.html --node-data d", ("onnxscope_weight_mean.json",)),
]


@pytest.fixture
def others(workplace):
    """Somebody's files."""
    Path("notes.txt").write_text("what I found\n")
    Path("other.json").write_text('{"schema": "somebody/1"}')
    Path("other.html").write_text("<!doctype html>\n<html><head><title>mine</title></head></html>")
    Path("other.xml").write_text('<?xml version="1.0"?>\n<project/>')
    shutil.copy(DIGITS, "model2.onnx")
    shutil.copy("photos/1.png", "photo.png")
    return workplace


@pytest.mark.parametrize(("command", "option", "names"), FOREIGN)
def test_nothing_takes_the_place_of_a_file_that_is_none_of_ours(others, refused, command, option, names):
    for name in names:
        assert refused(f"{command} {option} {name}", "the output would replace a file that is not").endswith(name)
    Path("link").symlink_to("notes.txt")
    refused(f"{command} {option} link", "the output would replace a file that is not")


@pytest.mark.parametrize(("command", "names"), FOREIGN_IN_FOLDERS)
def test_in_a_folder_a_command_replaces_its_own_files_alone(others, monkeypatch, capsys, command, names):
    monkeypatch.undo()
    monkeypatch.chdir(others)
    for name in names:
        place = Path("d", name)
        place.write_text("mine")
        assert run(command.split()) == 2
        assert "onnxscope: error: the output would replace a file that is not " in capsys.readouterr().err
        assert place.read_text() == "mine"
        assert run([*command.split(), "--force"]) == 0
        assert place.read_bytes() != b"mine"
        capsys.readouterr()
    Path("d", "mine.txt").write_text("mine")
    assert run(command.split()) == 0  # what it wrote before
    assert Path("d", "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "option"),
    [(command, option) for command, option, _ in FOREIGN if not command.startswith(("convert", "sensitivity"))],
)
def test_force_replaces_it_and_what_was_written_is_replaced_without(others, monkeypatch, command, option):
    monkeypatch.undo()
    monkeypatch.chdir(others)
    assert run([*command.split(), option, "notes.txt", "--force"]) == 0
    written = Path("notes.txt").read_bytes()
    assert written != b"what I found\n"
    assert run([*command.split(), option, "notes.txt"]) == 0
    Path("empty").touch()
    assert run([*command.split(), option, "empty"]) == 0
    assert Path("empty").read_bytes() == Path("notes.txt").read_bytes()


def test_force_never_replaces_an_input(refused):
    refused("snapshot m.onnx -o m.onnx --force", "the output would replace an input")
    refused("check m.onnx --junit m.data --force", "the output would replace an input")


def test_results_refuse_somebodys_file_in_the_library_too(others, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(others)
    baseline, page = onnxscope.snapshot("m.onnx"), onnxscope.report("m.onnx")
    profile = onnxscope.stats("m.onnx", "x.npy").profile
    for result in (baseline, page, profile):
        with pytest.raises(OutputError, match=r"^the output would replace a file that is not .*: notes.txt$"):
            result.save("notes.txt")
        assert Path("notes.txt").read_text() == "what I found\n"
        result.save("new")
        result.save("new")
        Path("new").unlink()
    with pytest.raises(OutputError, match=r"is not a file of the schema onnxscope\.profile"):
        onnxscope.stats("m.onnx", "x.npy", output="notes.txt")
    onnxscope.stats("m.onnx", "x.npy", output="notes.txt", force=True)
    assert Path("notes.txt").read_bytes() == Path("p.json").read_bytes()
