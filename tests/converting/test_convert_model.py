"""`convert()`, with a converter of the test's own: what reaches it, what comes back, what is refused before it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import onnxscope
from onnxscope.cli.main import run
from onnxscope.converting.contract import ConversionReport, ConversionRequest
from onnxscope.errors import ConversionError, InputError, MissingDependencyError, OutputError

REPORT = ConversionReport(
    output="net.onnx",
    framework="made 1",
    opset=17,
    parameters=4,
    absent=1,
    notes=("a note",),
    verification="differ: 1 layer",
    verified=False,
)


@pytest.fixture
def requests(monkeypatch, tmp_path):
    """The requests that reach the converter, which answers each with the same report."""
    monkeypatch.chdir(tmp_path)
    seen: list[ConversionRequest] = []

    def convert(request):
        seen.append(request)
        return REPORT

    converter = SimpleNamespace(convert=convert)
    monkeypatch.setattr("onnxscope.converting.convert_model.load_converter", lambda framework: converter)
    return seen


def test_what_is_left_out_is_left_to_the_converter(requests):
    assert onnxscope.convert("made", "net.py:make", "net.onnx") is REPORT
    assert requests == [ConversionRequest(source="net.py:make", output="net.onnx")]


def test_the_command_and_the_function_ask_for_the_same(requests, tmp_path, capsys):
    for library in ("one.so", "two.so"):
        Path(library).touch()
    recipe = {"name": "mine", "resize": "straight", "filter": "bicubic", "size": 64}
    Path("recipe.json").write_text(json.dumps(recipe))
    line = (
        "convert made net.py:make -o net.onnx --weights w.pth --arg width=5 --arg name=wide --input-shape ids:int64=1,?"
        " --input-shape 1,16 --mode deployed --preprocess recipe.json --opset 17 --exporter legacy --static --seed 3"
        " --verify --custom-ops one.so --custom-ops two.so"
    )
    assert run(line.split()) == 1
    onnxscope.convert(
        "made",
        "net.py:make",
        Path("net.onnx"),
        weights=Path("w.pth"),
        arguments={"width": 5, "name": "wide"},
        input_shapes=[("ids:int64", (1, None)), (1, 16)],
        mode="deployed",
        preprocess=tmp_path / "recipe.json",
        opset=17,
        exporter="legacy",
        static=True,
        seed=3,
        verify=True,
        custom_ops=[Path("one.so"), "two.so"],
    )
    by_command, by_function = requests
    assert by_command == by_function
    assert by_function.weights == "w.pth"
    assert by_function.input_shapes == (("ids:int64", (1, None)), ("", (1, 16)))
    assert by_function.custom_ops == (str(tmp_path / "one.so"), str(tmp_path / "two.so"))
    assert json.loads(by_function.preprocess).items() > recipe.items()  # whole: the file stays behind
    printed = capsys.readouterr()
    assert "net.onnx" in printed.out
    assert "made 1" in printed.out
    assert printed.err == "a note\nagainst made 1: differ: 1 layer\n"


def test_a_named_preset_is_recorded_by_its_name(requests):
    onnxscope.convert("made", "net.py:make", "net.onnx", preprocess="caffe")
    assert requests[0].preprocess == "caffe"


def test_what_cannot_be_converted_reaches_no_converter(requests):
    Path("recipe.json").write_text('{"divisor": 255}')
    with pytest.raises(ConversionError, match=r"^a model is converted from its source, not from a dict$") as caught:
        onnxscope.convert("made", {}, "net.onnx")
    assert "file.py:factory" in caught.value.hint
    with pytest.raises(ConversionError, match=r"^unknown mode 'fast'$") as caught:
        onnxscope.convert("made", "net.py:make", "net.onnx", mode="fast")
    assert caught.value.hint == "one of faithful, deployed"
    with pytest.raises(InputError, match=r"^unknown preset 'imagnet'$"):
        onnxscope.convert("made", "net.py:make", "net.onnx", preprocess="imagnet")
    with pytest.raises(InputError, match=r"^no such file: .*nowhere\.so$"):
        onnxscope.convert("made", "net.py:make", "net.onnx", verify=True, custom_ops="nowhere.so")
    with pytest.raises(ConversionError, match=r"^not a shape: '1,3'$"):
        onnxscope.convert("made", "net.py:make", "net.onnx", input_shapes={"x": "1,3"})
    for output in ("recipe.json", "./recipe.json"):
        with pytest.raises(OutputError, match=r"^the output would replace an input: .*recipe\.json$"):
            onnxscope.convert("made", "net.py:make", output, preprocess="recipe.json")
    assert requests == []


def test_a_framework_without_a_converter():
    with pytest.raises(MissingDependencyError, match="no converter for 'jax'"):
        onnxscope.convert("jax", "net.py:make", "net.onnx")


def test_the_model_takes_no_place_of_the_source_or_the_checkpoint(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for name in ("net.py", "w.pth"):
        Path(name).write_text("mine")
        with pytest.raises(OutputError, match=rf"^the output would replace an input: {name}$"):
            onnxscope.convert("torch", "net.py:make", name, weights="w.pth")
        assert Path(name).read_text() == "mine"
