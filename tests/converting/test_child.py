"""The child's side of the contract, in this process."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxscope.converting.child import serve_child, write_conversion
from onnxscope.converting.contract import ConversionReport, ConversionRequest
from onnxscope.converting.saving import save_model
from onnxscope.errors import ConversionError, OutputError
from onnxscope.model.provenance import ParameterRecord, Provenance, read_provenance

PROVENANCE = Provenance(
    framework="made",
    version="1",
    mode="faithful",
    source="make",
    preprocess="unit",
    parameters=(
        ParameterRecord("fc.weight", "fc", (300,), "float32", initializer="w"),
        ParameterRecord("fc.steps", "fc", (), "int64", reason="counter"),
    ),
)


def model():
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["made": 1, "": 18]> g (float[300] x) => (float[300] y) { y = Add(x, w) }'
    )
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(300, dtype=np.float32), "w"))
    return made


@pytest.fixture
def serve(tmp_path):
    """Answers a request for `net.py:make` with what a function does; returns the exit code and the answer."""

    def serve(export):
        question, answer = tmp_path / "request.json", tmp_path / "answer.json"
        question.write_text(json.dumps(asdict(ConversionRequest("net.py:make", str(tmp_path / "out.onnx")))))
        return serve_child(export, [str(question), str(answer)]), json.loads(answer.read_text())

    return serve


def test_a_request_arrives_as_it_was_sent(tmp_path):
    sent = ConversionRequest("m:f", "o", arguments={"a": 1}, input_shapes=(("x", (1, None)),), custom_ops=("/l.so",))
    question, arrived = tmp_path / "request.json", []
    question.write_text(json.dumps(asdict(sent)))

    def export(request):
        arrived.append(request)
        raise ConversionError("enough")

    serve_child(export, [str(question), str(tmp_path / "answer.json")])
    assert arrived == [sent]


def test_a_conversion_that_fails_removes_nothing(serve, tmp_path):
    def refuse(_):
        raise ConversionError("no")

    other = tmp_path / "out.onnx.partial"
    other.write_text("someone's")
    assert serve(refuse) == (1, {"error": "no", "hint": None, "kind": "ConversionError"})
    assert other.read_text() == "someone's"


def test_a_report_is_the_answer(serve):
    report = ConversionReport("out.onnx", "made 1", 18, 2, 1, ("a note",), "equal: 1 layer", True)
    code, answer = serve(lambda request: report)
    assert code == 0
    assert ConversionReport(**{**answer, "notes": tuple(answer["notes"])}) == report


def test_user_code_that_leaves_is_an_error(serve):
    def leave(_):
        raise SystemExit("good\nbye")

    assert serve(leave) == (1, {"error": "SystemExit: good bye: net.py:make"})


def test_the_model_is_written_with_its_provenance(tmp_path):
    output = str(tmp_path / "out.onnx")
    request = ConversionRequest("net.py:make", output)
    report = write_conversion(request, model(), PROVENANCE, framework="made 1 (on 2)", notes=["a note"])
    assert report == ConversionReport(
        output=output, framework="made 1 (on 2)", opset=18, parameters=2, absent=1, notes=("a note",)
    )
    written = onnx.load(output)
    assert read_provenance({entry.key: entry.value for entry in written.metadata_props}) == PROVENANCE
    assert written.graph == model().graph


def test_weights_beside_the_model_are_said(tmp_path, monkeypatch):
    limited = lambda model, path: save_model(model, path, limit_bytes=100)  # noqa: E731
    monkeypatch.setattr("onnxscope.converting.child.save_model", limited)
    request = ConversionRequest("net.py:make", str(tmp_path / "out.onnx"))
    report = write_conversion(request, model(), PROVENANCE, framework="made 1", notes=["a note"])
    assert report.notes == ("a note", "the weights are in out.onnx.data, which belongs beside the model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]


def test_a_folder_that_is_missing_is_said(tmp_path):
    request = ConversionRequest("net.py:make", str(tmp_path / "nowhere" / "out.onnx"))
    with pytest.raises(OutputError, match=r"^cannot write \(No such file or directory\): .*out\.onnx$"):
        write_conversion(request, model(), PROVENANCE, framework="made 1", notes=())
    assert list(tmp_path.iterdir()) == []
