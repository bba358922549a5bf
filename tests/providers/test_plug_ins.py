"""Packages that bring execution providers as plug-ins."""

from __future__ import annotations

import sys

import pytest

from onnxscope.errors import InputError
from onnxscope.providers.plug_ins import plug_in_of, plug_ins
from onnxscope.providers.provider import read_provider

CODE = """
import os
def get_library_path():
    return os.path.join(os.path.dirname(__file__), "plug.so")
def get_ep_names():
    return ["FirstProvider", "OtherExecutionProvider"]
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package, as pip does, for one test."""

    def install(name, code=CODE):
        module = name.replace("-", "_")
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(code)
        (tmp_path / module / "plug.so").write_bytes(b"code")
        record = tmp_path / f"{module}-1.2.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        plug_ins.cache_clear()
        return tmp_path / module / "plug.so"

    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield install
    for name in set(sys.modules) - before:
        if name.startswith(("onnxruntime_ep_", "some_plug")):
            del sys.modules[name]
    plug_ins.cache_clear()


def test_an_installed_package_is_found_by_its_name_and_by_its_providers(installed):
    library = installed("onnxruntime-ep-planted").resolve()
    found = next(one for one in plug_ins() if one.package == "onnxruntime-ep-planted")
    assert (found.version, found.library, found.providers) == (
        "1.2",
        library,
        ("FirstProvider", "OtherExecutionProvider"),
    )
    by_package = read_provider("onnxruntime-ep-planted:a=b")
    assert (by_package.name, by_package.library, by_package.version) == ("FirstProvider", library, "1.2")
    assert by_package.options == (("a", "b"),)
    assert read_provider("other").name == "OtherExecutionProvider"
    assert read_provider("OtherExecutionProvider").library == library


def test_a_package_of_any_name_may_bring_one(installed):
    library = installed("some-plug").resolve()
    assert plug_in_of("some-plug").library == library
    assert read_provider("some_plug").library == library
    assert not [one for one in plug_ins() if one.package == "some-plug"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no licence\\nfound')", "no licence"),
        ("def get_library_path(): return 'nowhere.so'\ndef get_ep_name(): return 'A'", "its library is missing"),
        ("def get_library_path(): return __file__\ndef get_ep_names(): return []", "its library is missing"),
    ],
)
def test_one_that_is_broken_is_left_out_until_it_is_asked_for(installed, code, reason):
    installed("onnxruntime-ep-broken", code)
    assert "onnxruntime-ep-broken" not in [one.package for one in plug_ins()]
    with pytest.raises(InputError) as caught:
        read_provider("onnxruntime-ep-broken")
    assert str(caught.value) == f"the package brings no execution provider ({reason}): onnxruntime-ep-broken"


def test_what_is_no_name_of_a_package_is_none():
    assert plug_in_of("no such") is None
    assert plug_in_of("missing_package_of_nobody") is None
    assert plug_in_of("missing_package.of_nobody") is None
