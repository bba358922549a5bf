"""Which code SOURCE runs, and what its faults read like."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from onnxscope.errors import ConversionError  # noqa: E402
from onnxscope_torch.sources import build_module, find_source  # noqa: E402

HELPERS = str(Path(__file__).with_name("torch_helpers.py"))


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch):
    """Undo what an import changes in the interpreter."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name in ("net", "source_json", "mypackage", "mypackage.nets", "beside"):
            del sys.modules[name]


def test_a_file_and_what_lies_beside_it(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 7\n")
    (tmp_path / "net.py").write_text(
        "import torch\nfrom beside import WIDTH\n\ndef make(depth=1):\n    return torch.nn.Linear(depth, WIDTH)\n"
    )
    text = f"{tmp_path / 'net.py'}:make"
    source = find_source(text)
    module = build_module(source, {"depth": 3}, text)
    assert (source.label, source.shipped) == ("make", False)
    assert (module.in_features, module.out_features, module.training) == (3, 7, False)


def test_a_file_does_not_take_the_place_of_a_library(tmp_path):
    import json

    (tmp_path / "json.py").write_text("from torch.nn import Identity\n")
    assert find_source(f"{tmp_path / 'json.py'}:Identity").factory is torch.nn.Identity
    assert sys.modules["json"] is json


def test_a_dotted_module_of_the_current_folder_and_an_installed_one(tmp_path, monkeypatch):
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from torch.nn import Sequential as make\n")
    monkeypatch.chdir(tmp_path)
    source = find_source("mypackage.nets:make")
    assert (source.label, source.factory) == ("mypackage.nets:make", torch.nn.Sequential)
    assert find_source("torch.nn:Identity").factory is torch.nn.Identity


def test_the_current_folder_is_no_import_path_for_installed_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find_source("torch.nn:Identity")
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("vgg16", "no shipped network named 'vgg16'", "alexnet, resnet34, resnet50"),
        ("net.py", "no factory named: net.py", "name one as `net.py:factory`"),
        ("nowhere.py:make", "no such file: nowhere.py", ""),
        ("no_such_package.nets:make", "no module named 'no_such_package': no_such_package.nets", "file.py:factory"),
        ("torch.no_such_part:make", "no module named 'torch.no_such_part'", ""),
        (f"{HELPERS}:Missing", "no factory named 'Missing'", "Residual"),
        ("math:pi", "'pi' is a float, not a factory: math:pi", "name a function or a class"),
        ("torch.nn:Identity:", "no shipped network named 'torch.nn:Identity:'", ""),
    ],
)
def test_faults_of_a_source(text, message, hint):
    with pytest.raises(ConversionError) as caught:
        find_source(text)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(:\n", "cannot import (SyntaxError: "),
        ("import no_such_library\n", "cannot import (ModuleNotFoundError: No module named 'no_such_library')"),
        ("raise SystemExit(3)\n", "cannot import (SystemExit: 3)"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, code, message):
    (tmp_path / "net.py").write_text(code)
    with pytest.raises(ConversionError) as caught:
        find_source(f"{tmp_path / 'net.py'}:make")
    assert message in str(caught.value)
    assert str(caught.value).endswith(": " + str(tmp_path / "net.py"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("number", {}, "the factory returned int, not a torch.nn.Module: x"),
        ("fail", {}, "the factory failed (RuntimeError: out of): x"),
        ("Residual", {"width": 3}, "the factory cannot be called (got an unexpected keyword argument 'width'): x"),
    ],
)
def test_faults_of_a_factory(name, arguments, message):
    with pytest.raises(ConversionError) as caught:
        build_module(find_source(f"{HELPERS}:{name}"), arguments, "x")
    assert str(caught.value) == message
