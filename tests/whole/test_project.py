"""What the project promises about itself: cheap imports, lazy public names, layers of its own."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import onnx
import pytest

import onnxscope
from onnxscope.runtime.session import Session

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("onnx", "onnxruntime", "matplotlib", "numpy", "torch", "tensorflow", "ray", "PIL", "rich")


def modules_after(code):
    program = f"import sys\n{code}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_importing_the_package_loads_nothing_heavy():
    assert modules_after("import onnxscope") == []


def test_help_loads_nothing_heavy():
    assert modules_after("from onnxscope.cli.main import run\nassert run(['--help']) == 0") == []
    assert modules_after("from onnxscope.cli.main import run\nassert run(['features', '--help']) == 0") == []


def test_inspect_needs_no_engine(tmp_path):
    import onnx.parser

    path = tmp_path / "m.onnx"
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), path)
    loaded = modules_after(f"from onnxscope.cli.main import run\nassert run(['inspect', {str(path)!r}]) == 0")
    assert not {"onnxruntime", "matplotlib", "PIL"} & set(loaded)


def test_figures_keep_no_pyplot_state():
    code = (
        "import io, sys, numpy; from onnxscope.drawing.figures import feature_figure, histogram_png; "
        "feature_figure(numpy.ones((2, 3, 3)), [0, 1], 'a').savefig(io.BytesIO()); histogram_png('a', [0, 1], [2]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_public_names_resolve_twice_in_a_row():
    for _ in range(2):
        for name in onnxscope.__all__:
            assert getattr(onnxscope, name) is not None


def test_no_public_name_is_a_module():
    modules = {path.stem for path in (ROOT / "onnxscope").iterdir()}
    assert not modules & set(onnxscope.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'wieghts'"):
        onnxscope.wieghts  # noqa: B018


def test_what_editors_see_is_what_is_public():
    stub = ast.parse((ROOT / "onnxscope" / "__init__.pyi").read_text(encoding="utf-8"))
    names = [alias.asname for line in stub.body if isinstance(line, ast.ImportFrom) for alias in line.names]
    assert onnxscope.__dir__() == onnxscope.__all__ == sorted(names)
    commands = {"inspect", "weights", "features", "stats", "diff", "snapshot", "check", "report", "convert", "recipe"}
    commands |= {"extract", "sensitivity", "drift", "bisect"}
    assert commands <= set(names)


def test_the_library_s_functions_are_called_like_the_commands():
    from onnxscope.cli.main import cli

    functions = {name for name in onnxscope.__all__ if inspect.isfunction(getattr(onnxscope, name))}
    helpers = {"class_activation", "explain", "isolated", "load_model", "preparation", "restoration"}
    helpers |= {"save_features", "save_weights", "watch", "write_node_data"}
    assert functions - helpers == set(cli.commands) - {"demo", "doctor"}


def test_files_of_tests_that_are_named_exist():
    texts = [ROOT / "CONTRIBUTING.md", *(ROOT / "onnxscope").rglob("*.py"), *(ROOT / "converters").rglob("*.py")]
    names = {name for path in texts for name in re.findall(r"tests/\w[\w/]*\.py", path.read_text(encoding="utf-8"))}
    assert len(names) >= 3
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_a_test_holds_each_promise_of_security():
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE)[1:]
    assert len(rows) > 12
    for promise, cell in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", cell)
        assert tests, promise
        for file, name in tests:
            assert f"def {name or 'test_'}" in (ROOT / file).read_text(encoding="utf-8"), promise


def test_what_is_installed_for_development_has_a_digest():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.match(r"[\w.-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_two_builds_are_the_same_bytes(tmp_path, monkeypatch):
    """Another day, another umask and other files' times make no difference, and no stray file gets in."""
    from hatchling.build import build_sdist, build_wheel

    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    stray = ROOT / "onnxscope" / "__pycache__" / "stray.pyc"
    found = []
    for name, day in (("first", 1_700_000_000), ("second", 1_800_000_000)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr("time.time", lambda day=day: day)
        stray.parent.mkdir(exist_ok=True)
        stray.write_text(name)
        try:
            built = [build_wheel(str(folder)), build_sdist(str(folder))]
        finally:
            stray.unlink()
        found.append({file: (folder / file).read_bytes() for file in built})
    assert found[0] == found[1]
    with tarfile.open(tmp_path / "first" / built[1]) as archive:
        members = archive.getmembers()
    tops = {member.name.split("/")[1] for member in members}
    assert {"onnxscope", "converters", "tests", "SECURITY.md", "constraints.txt"} <= tops
    assert not tops & {".venv", ".git", "demo-output", "site", "dist"}
    assert not [member.name for member in members if member.name.endswith(".pyc") or not member.isfile()]
    assert {(member.uid, member.mtime) for member in members} == {(0, members[0].mtime)}


def test_the_wheel_holds_everything_and_nothing_else(tmp_path, monkeypatch):
    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
    for package, folder in (
        ("onnxscope", ROOT / "onnxscope"),
        ("onnxscope_torch", ROOT / "converters" / "onnxscope_torch"),
        ("onnxscope_tensorflow", ROOT / "converters" / "onnxscope_tensorflow"),
    ):
        files = [path.relative_to(folder) for path in folder.rglob("*.*") if path.is_file()]
        assert {f"{package}/{path.as_posix()}" for path in files if "__pycache__" not in path.parts} <= names
    for folder, least in (("schemas", 10), ("reporting/templates", 3), ("extracting/scripts", 2)):
        files = {f"onnxscope/{folder}/{path.name}" for path in (ROOT / "onnxscope" / folder).iterdir()}
        assert len(files) >= least
        assert files <= names
    assert {"onnxscope/samples/digits.onnx", "onnxscope/samples/digits.npz", "onnxscope/drawing/viridis.bin"} <= names
    assert not [name for name in names if name.startswith(("tests/", "fixtures/", "benchmarks/"))]


def test_binary_fixtures_are_small_and_recognise_digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images[:, None] / 16.0).astype("float32")
    _, images, _, labels = train_test_split(
        images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    files = [path for path in (ROOT / "fixtures").iterdir() if path.suffix not in (".py", "") and path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    for name in ("digits.onnx", "digits_deployed.onnx", "digits_qdq.onnx"):
        path = ROOT / "fixtures" / name
        assert path.stat().st_size < 300_000
        (logits,) = Session(onnx.load(path), folder=None, where=name).run({"digits": images}).values()
        assert (logits.argmax(axis=1) == labels).mean() > 0.97
