"""The documents keep their word: their commands run, their examples work, every command has help and a place there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import matplotlib
import pytest
import yaml

from onnxscope.cli import cli, run
from onnxscope.settings import read_settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))


def blocks(document, language):
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(document):
    return [line[2:] for block in blocks(document, "console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The folder in which a document's commands run: a photograph, small models, and inputs for them."""
    shutil.copy(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", tmp_path / "photo.jpg")
    shutil.copy(ROOT / "fixtures" / "digits.npz", tmp_path / "inputs.npz")
    for name in ("model", "deployed"):
        shutil.copy(ROOT / "fixtures" / "digits.onnx", tmp_path / f"{name}.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_example_works(document, workplace, capsys):
    for command in commands(document):
        program, *arguments = shlex.split(command)
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            continue
        assert program == "onnxscope"
        code = run(arguments)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert captured.out
    for block in blocks(document, "python"):
        exec(compile(block, document, "exec"), {})
    if document == "README.md":
        assert "(1, 512, 7, 7)" in capsys.readouterr().out
        assert (workplace / "layer1.png").stat().st_size > 1000
        assert len(list((workplace / "features").glob("*.png"))) == 36


def test_the_guide_to_ci_names_what_there_is(tmp_path):
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)`", text, re.MULTILINE) == list(action["inputs"])
    workflow, hooks, gitlab = map(yaml.safe_load, blocks("docs/ci.md", "yaml"))
    (used,) = (step for step in workflow["jobs"]["models"]["steps"] if "/onnxscope@" in step.get("uses", ""))
    assert set(used["with"]) <= set(action["inputs"])
    manifest = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert [hook["id"] for hook in hooks["repos"][0]["hooks"]] == [hook["id"] for hook in manifest]
    (command,) = (line for line in gitlab["models"]["script"] if line.startswith("onnxscope "))
    assert any(each.startswith(command) for each in commands("docs/ci.md"))
    (table,) = blocks("docs/ci.md", "toml")
    (tmp_path / "pyproject.toml").write_text(table)
    assert read_settings(tmp_path / "pyproject.toml").tolerance_of("layer4.0") == 1e-3


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
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_map_of_the_code_is_complete():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for module in (ROOT / "onnxscope").glob("[a-z]*.py"):
        assert f"`{module.stem}`" in text, module.name
