"""Environments of pip, from a folder of wheels that are made here: no index is asked."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import onnxscope
from onnxscope.errors import InputError, RunError
from onnxscope.releases.pip_environments import PipEnvironments, read_package

MODEL = """<ir_version: 9, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {1, 2, 3, 4, 5, 6}> { [head] y = MatMul(x, w) }"""
X = np.ones((2, 3), np.float32)
SHIM = """
import sys
sys.path.insert(0, {site!r})
del sys.modules[__name__]
import {name}
del sys.path[0]
{more}
"""
CHANGED = """
onnxruntime.__version__ = {version!r}
class InferenceSession(onnxruntime.InferenceSession):
    def run(self, *arguments):
        return [answer * {factor} for answer in super().run(*arguments)]
onnxruntime.InferenceSession = InferenceSession
"""


def write_wheel(folder: Path, name: str, version: str, text: str) -> None:
    info = f"{name}-{version}.dist-info"
    contents = {
        f"{name}/__init__.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*contents, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in {**contents, f"{info}/RECORD": record}.items():
            wheel.writestr(path, content)


def site_of(name: str) -> str:
    return str(Path(importlib.util.find_spec(name).origin).parents[1])


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """pip is set up to find nothing but these: three releases, of which the second doubles and the third is broken."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "numpy", "9.9", SHIM.format(site=site_of("numpy"), name="numpy", more=""))
    for version, factor in (("1.9.0", 1), ("1.10.0", 2)):
        more = CHANGED.format(version=version, factor=factor)
        text = SHIM.format(site=site_of("onnxruntime"), name="onnxruntime", more=more)
        write_wheel(folder, "onnxruntime", version, text)
    write_wheel(folder, "onnxruntime", "1.11.0", "raise ImportError('a library is missing')")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the configuration above is of other systems")
def test_releases_are_installed_as_pip_is_set_up_and_kept_where_that_is_asked_for(wheels, tmp_path):
    found = onnxscope.bisect(onnx.parser.parse_model(MODEL), X, release="1.9.0..1.10.0", keep=tmp_path / "kept")
    assert (found.pair, found.installs) == (("1.9.0", "1.10.0"), 2)
    assert found.changed.first_row.entire.relative_l2 == pytest.approx(1)  # twice the answers
    assert found[0].versions["onnxruntime"] == "1.9.0"
    with PipEnvironments(keep=tmp_path / "kept") as environments:
        assert environments.environment("1.10.0").name == "1.10.0"
    assert environments.installs == 0  # it was there


@pytest.mark.acceptance
def test_a_release_that_cannot_be_imported_is_skipped_and_nothing_is_left(wheels, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    found = onnxscope.bisect(onnx.parser.parse_model(MODEL), X, release="1.9.0..1.11.0")
    assert found.pair == ("1.9.0", "1.10.0")
    assert found.release("1.11.0").answers == "skipped"
    assert "a library is missing" in found.release("1.11.0").text
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_package_that_pip_does_not_know_is_told(wheels):
    with (
        PipEnvironments("onnxruntime-nowhere") as environments,
        pytest.raises((InputError, RunError), match="onnxruntime-nowhere"),
    ):
        environments.releases(early=False)


@pytest.mark.parametrize("name", ["-r x", "a/b", "git+https://x", "", "x==1"])
def test_what_is_no_package_never_reaches_pip(name):
    with pytest.raises(InputError, match="no package"):
        read_package(name)


POOLING = """
    <ir_version: 9, opset_import: ["": 19]>
    net (float[N, 3, 8, 8] image) => (float[N, 8, 5, 5] y) {
        [stem] a = Conv <pads = [1, 1, 1, 1]> (image, stem_weight)
        b = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1,
                         count_include_pad = 1> (a)
        [body] y = Conv (b, body_weight)
    }"""


@pytest.mark.acceptance
def test_real_releases_that_differ_in_a_pooling(tmp_path):
    """Before 1.21 the pooled windows at the end counted positions beyond the padding."""
    model, rng = onnx.parser.parse_model(POOLING), np.random.default_rng(0)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        for name, shape in {"stem_weight": (8, 3, 3, 3), "body_weight": (8, 8, 1, 1)}.items()
    )
    try:
        found = onnxscope.bisect(model, rng.normal(0, 1, (2, 3, 8, 8)).astype(np.float32), release="1.20.0..1.21.1")
    except (InputError, RunError) as error:
        pytest.skip(f"no such releases for this Python, or no index: {error}")
    assert (found.pair, found.changed.first_row.a.layer) == (("1.20.1", "1.21.0"), "body")
    assert [one.answers for one in found] == ["first", "equal", "changed", "changed"]
    assert found.installs == found.releases == 4
