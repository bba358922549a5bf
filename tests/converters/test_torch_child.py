"""The whole way, through the child process; and the light half without torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import onnxscope_torch
from onnxscope.converting.contract import ConversionRequest
from onnxscope.errors import ConversionError, MissingDependencyError
from onnxscope.model.provenance import read_provenance

HELPERS = str(Path(__file__).with_name("torch_helpers.py"))
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def test_importing_the_converter_loads_no_framework():
    code = "import sys, onnxscope_torch; print(sorted({'torch', 'onnx', 'numpy', 'onnxscript'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["torch", "onnxscript"])
def test_a_missing_framework_names_the_extra(monkeypatch, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found("json"))
    with pytest.raises(MissingDependencyError) as caught:
        onnxscope_torch.convert(ConversionRequest(source="alexnet", output="model.onnx"))
    assert str(caught.value) == f"the PyTorch converter needs {missing}: not installed"
    assert caught.value.hint == "pip install 'onnxscope[torch]'"


@needs_torch
@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_a_conversion_in_a_process_of_its_own(tmp_path, monkeypatch, capfd, exporter):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('code that nobody named')\n")
    (tmp_path / "net.py").write_text(
        "import torch\nprint('noise of the user')\n\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, width=2):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(3, width)\n\n"
        "    def forward(self, x):\n"
        "        return self.fc(x)\n"
    )
    for output in ("a.onnx", "b.onnx"):
        request = ConversionRequest(
            source="net:Net", output=output, arguments={"width": 5}, input_shapes=(("", (1, 3)),), exporter=exporter
        )
        report = onnxscope_torch.convert(request)
    assert (report.output, report.parameters, report.absent, report.notes) == ("b.onnx", 2, 0, ())
    assert report.framework.startswith("torch ")
    assert capfd.readouterr() == ("", "")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    model = onnx.load("a.onnx")
    provenance = read_provenance({entry.key: entry.value for entry in model.metadata_props})
    assert provenance is not None
    assert (provenance.source, provenance.mode) == ("net:Net", "faithful")
    assert [(r.name, r.shape, r.initializer) for r in provenance.parameters] == [
        ("fc.weight", (5, 3), "fc.weight"),
        ("fc.bias", (5,), "fc.bias"),
    ]
    assert {p.name for p in tmp_path.iterdir()} - {"__pycache__"} == {"json.py", "net.py", "a.onnx", "b.onnx"}


@needs_torch
def test_an_error_of_the_child_is_one_line_with_its_hint(tmp_path):
    output = tmp_path / "model.onnx"
    with pytest.raises(ConversionError) as caught:
        onnxscope_torch.convert(ConversionRequest(source=f"{HELPERS}:Residual", output=str(output)))
    assert str(caught.value) == f"no shape for the input 'image': {HELPERS}:Residual"
    assert caught.value.hint == "`--input-shape image=1,3,224,224`; forward() takes image"
    assert list(tmp_path.iterdir()) == []


@needs_torch
def test_a_checkpoint_that_is_a_text_file(tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_text("these are no weights\n")
    with pytest.raises(ConversionError) as caught:
        onnxscope_torch.convert(
            ConversionRequest(
                source=f"{HELPERS}:Residual",
                output=str(tmp_path / "model.onnx"),
                weights=str(weights),
                input_shapes=(("", (1, 3, 12, 12)),),
            )
        )
    assert str(caught.value) == f"not a PyTorch checkpoint: {weights}"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]
