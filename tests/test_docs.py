"""The README keeps its word: its commands run, its examples work, every command has help and appears there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import matplotlib
import pytest

from onnxscope.cli import cli, run

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    shutil.copy(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", folder / "photo.jpg")
    return folder


def test_every_command_and_the_library_example_work(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    for command in commands():
        program, *arguments = shlex.split(command)
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            continue
        assert program == "onnxscope"
        code = run(arguments)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert captured.out
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "(1, 512, 7, 7)" in capsys.readouterr().out
    assert (workplace / "layer1.png").stat().st_size > 1000
    assert len(list((workplace / "features").glob("*.png"))) == 36


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_and_appears_in_the_readme(name):
    assert cli.commands[name].help
    assert all(
        option.help or option.type.name == "choice"
        for option in cli.commands[name].params
        if option.param_type_name == "option" and option.name in ("select", "form", "debug", "quiet")
    )
    assert f"onnxscope {name}" in README


def test_links_of_the_documents_lead_somewhere():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_map_of_the_code_is_complete():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for module in (ROOT / "onnxscope").glob("[a-z]*.py"):
        assert f"`{module.stem}`" in text, module.name
