"""The converters' contract, with a converter of the test's own in a real child process."""

from __future__ import annotations

import json
import textwrap

import pytest

from onnxscope.base.json_files import dump_json
from onnxscope.converting.contract import ConversionReport, ConversionRequest, require_packages, run_child
from onnxscope.errors import ConversionError, MissingDependencyError, OutputError, RunError


@pytest.fixture
def child(tmp_path):
    """Returns a function that runs a request through a child whose `export` has the given body."""

    def run(body, **fields):
        lines = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        (tmp_path / "made_converter.py").write_text(
            "import os, sys\n"
            "from onnxscope.converting.child import serve_child\n"
            "from onnxscope.converting.contract import ConversionReport\n"
            "from onnxscope.errors import ConversionError, RunError\n"
            f"def export(request):\n{lines}\n"
            "if __name__ == '__main__':\n    sys.exit(serve_child(export, sys.argv[1:]))\n"
        )
        request = ConversionRequest(**{"source": "net.py:make", "output": str(tmp_path / "out.onnx"), **fields})
        return run_child("made_converter", request, environment={"PYTHONPATH": str(tmp_path), "CHOSEN": "yes"})

    return run


def test_a_request_travels_whole(child):
    report = child(
        """
        assert request.input_shapes == (("x", (None, 3)), ("", (1,))), request.input_shapes
        assert request.arguments == {"classes": 10, "name": "a"}
        assert os.environ["CHOSEN"] == "yes"
        return ConversionReport(request.output, "made 1", 17, 4, 1, ("a note",))
        """,
        input_shapes=(("x", (None, 3)), ("", (1,))),
        arguments={"classes": 10, "name": "a"},
    )
    assert (report.framework, report.opset, report.parameters, report.absent) == ("made 1", 17, 4, 1)
    assert report.notes == ("a note",)


def test_an_argument_that_cannot_travel_is_refused_before_anything_is_started(child, tmp_path):
    with pytest.raises(
        ConversionError, match=r"^the factory's arguments cannot be passed on .*set.*: net\.py:make$"
    ) as caught:
        child("raise AssertionError", arguments={"sizes": {1, 2}})
    assert caught.value.hint.startswith("numbers, texts")
    assert list(tmp_path.glob("*.onnx")) == []


def test_a_report_shows_itself_in_words():
    report = ConversionReport("m.onnx", "torch 2", 17, 2, 0, verification="equal: 4 layers", verified=True)
    for words in ("m.onnx", "torch 2", "17", "against torch 2: equal: 4 layers"):
        assert words in repr(report)
    assert "against" not in repr(ConversionReport("m.onnx", "torch 2", 17, 2, 0))


def test_an_error_of_the_converter_arrives_with_its_hint(child):
    with pytest.raises(ConversionError, match=r"^no factory 'make': net\.py$") as caught:
        child("raise ConversionError(\"no factory 'make': net.py\", hint='it has: build')")
    assert caught.value.hint == "it has: build"


def test_an_error_keeps_its_kind(child):
    with pytest.raises(RunError, match=r"^it does not run: out\.onnx$") as caught:
        child("raise RunError('it does not run: out.onnx', hint='mend it')")
    assert caught.value.hint == "mend it"


def test_what_a_converter_needs_is_named_with_its_extra():
    require_packages(("json", "sys"), converter="Made", extra="made")
    with pytest.raises(MissingDependencyError) as caught:
        require_packages(("json", "no_such_a", "no_such_b"), converter="Made", extra="made")
    assert str(caught.value) == "the Made converter needs no_such_a and no_such_b: not installed"
    assert caught.value.hint == "pip install 'onnxscope[made]'"


def test_the_child_hashes_alike_each_time(child):
    report = child("return ConversionReport(request.output, 'made 1', 17, 0, 0, (os.environ['PYTHONHASHSEED'],))")
    assert report.notes == ("0",)


def test_an_error_of_the_users_code_is_one_line(child):
    with pytest.raises(ConversionError) as caught:
        child(r"raise ValueError('bad\nshape')")
    assert str(caught.value) == "ValueError: bad shape: net.py:make"


def test_a_child_that_dies_is_reported_with_its_last_words(child):
    with pytest.raises(ConversionError, match=r"the converter died with code 3 \(goodbye\): net\.py:make"):
        child("print('goodbye', flush=True)\nos._exit(3)")


def test_what_the_child_prints_stays_in_the_child(child, capfd):
    child("print('noise')\nreturn ConversionReport(request.output, 'made 1', 17, 0, 0)")
    assert capfd.readouterr() == ("", "")


def test_a_report_names_no_folder():
    report = ConversionReport("/somewhere/private/m.onnx", "torch 2", 17, 2, 0)
    record = json.loads(dump_json(report.to_dict()))
    assert record["output"] == "m.onnx"
    assert "private" not in json.dumps(record)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("net.py:make", "net.py"),
        ("net:make", "net.py"),
        ("package.net:make", "package/net.py"),
        ("package:make", "package/__init__.py"),
        ("saved.h5", "saved.h5"),
        ("saved", "saved/saved_model.pb"),
        ("saved/saved_model.pb", "saved/assets/words.txt"),
    ],
)
def test_a_model_never_takes_the_place_of_its_source(child, tmp_path, monkeypatch, source, file):
    monkeypatch.chdir(tmp_path)
    for name in ("net.py", "package/net.py", "package/__init__.py", "saved.h5", "saved/saved_model.pb", file):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("the source")
    for output in (file, f"./{file}", str(tmp_path / file)):
        with pytest.raises(OutputError, match=rf"^the output would replace an input: .*{file}$"):
            child("raise AssertionError", source=source, output=output)
    assert (tmp_path / file).read_text() == "the source"


@pytest.mark.parametrize("place", ["resnet50/model.onnx", "resnet50.onnx", "resnet50"])
def test_a_shipped_network_is_no_file(child, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(b"\x08\x0a\x12\x07pytorch")  # as an earlier conversion began
    answer = "return ConversionReport(request.output, 'made 1', 17, 4, 1)"
    assert child(answer, source="resnet50", output=place).output == place
