"""The documentation keeps its word: commands run, examples work, links lead somewhere, every command has help."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import sys
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

from onnxscope.base.plugins import load_converter
from onnxscope.cli.main import cli, run
from onnxscope.converting import convert_model

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))))
BLOCK = re.compile(r"^( *)```(console|python)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def run_console(block, capsys):
    """Run the commands of a block, and look for the lines that it shows of their output."""
    printed: list[str] = []
    for line in block.splitlines():
        if not line.startswith("$ "):
            assert line == "…" or line in printed
            continue
        program, *arguments = shlex.split(line[2:])
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            continue
        assert program == "onnxscope"
        code = run(arguments)
        captured = capsys.readouterr()
        printed = (captured.out + captured.err).splitlines()
        assert code == any(line.startswith("differs: ") for line in printed), captured.err
        assert captured.out


class Conversions:
    """Converters that export each shipped network once, and give the file to all pages that ask for the same."""

    def __init__(self, folder):
        self.folder = folder
        self.made: dict[str, tuple] = {}

    def load(self, framework):
        return SimpleNamespace(convert=lambda request: self.convert(framework, request))

    def convert(self, framework, request):
        converter = load_converter(framework)
        if request.source not in converter.SHIPPED or request.weights:
            return converter.convert(request)
        question = f"{framework}: {replace(request, output='')}"
        output = Path(request.output)
        if question in self.made:
            report, kept = self.made[question]
            output.unlink(missing_ok=True)
            os.link(kept, output)  # commands put whole files in the place of others: none writes into this one
            return replace(report, output=request.output)
        report = converter.convert(request)
        kept = self.folder / f"{len(self.made)}.onnx"
        os.link(output, kept)
        self.made[question] = report, kept
        return report


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    return Conversions(tmp_path_factory.mktemp("conversions"))


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # torch.export's own
@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_example_of_a_page_works(page, conversions, tmp_path, monkeypatch, capsys):
    """They run in order, in one folder that holds nothing but a photograph."""
    shutil.copy(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert_model, "load_converter", conversions.load)
    if "keras" in sys.modules:  # which goes on counting layers that other tests have made
        sys.modules["keras"].utils.clear_session()
    names: dict[str, object] = {}
    for _, language, block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        source = textwrap.dedent(block)
        if language == "console":
            run_console(source, capsys)
        else:
            exec(compile(source, page, "exec"), names)
    if page == "README.md":
        assert "(1, 512, 7, 7)" in capsys.readouterr().out
        assert (tmp_path / "layer1.png").stat().st_size > 1000
        assert len(list((tmp_path / "features").glob("*.png"))) == 36


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
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):  # test_site.py checks those of the documentation
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_map_of_the_code_names_the_folders_in_the_order_that_is_checked():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in re.findall(r"^\| `.*$", text, re.MULTILINE)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    assert table == [sorted(row.split(" | ")) for row in reversed(layers)]
    drawing = text.split("```")[1]
    assert [sorted(re.findall(r"[a-z]+", line)) for line in drawing.strip("\n").splitlines()] == table[::-1]


def test_every_folder_says_what_happens_there():
    folders = {path.parent for path in (ROOT / "onnxscope").glob("*/*.py")}
    assert folders
    for folder in folders:
        tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        assert "mports" in (ast.get_docstring(tree) or ""), folder.name
        assert len(tree.body) == 1, f"{folder.name} re-exports something"
        modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
        assert 2 <= len(modules) <= 18, folder.name
