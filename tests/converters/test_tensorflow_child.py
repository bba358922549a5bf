"""The whole way, through the child process; and the light half without tensorflow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import onnxscope_tensorflow
from onnxscope.converting.contract import ConversionRequest
from onnxscope.errors import ConversionError, MissingDependencyError, OutputError
from onnxscope.model.provenance import read_provenance

HELPERS = str(Path(__file__).with_name("tensorflow_helpers.py"))
needs_tensorflow = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("tensorflow", "tf2onnx")), reason="tensorflow is not installed"
)


def test_importing_the_converter_loads_no_framework():
    code = (
        "import sys, onnxscope_tensorflow; print(sorted({'tensorflow', 'keras', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["tensorflow", "tf2onnx"])
def test_a_missing_framework_names_the_extra(monkeypatch, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found("json"))
    with pytest.raises(MissingDependencyError) as caught:
        onnxscope_tensorflow.convert(ConversionRequest(source="alexnet", output="model.onnx"))
    assert str(caught.value) == f"the TensorFlow converter needs {missing}: not installed"
    assert caught.value.hint == "pip install 'onnxscope[tensorflow]'"


NET = """
import keras
from keras import layers
print("noise of the user")

def make(width=2):
    x = image = keras.Input((8, 8, 3))
    tokens = layers.Reshape((64, 3))(image)
    extra = layers.Flatten()(layers.MultiHeadAttention(2, 3)(tokens, tokens))
    for _ in range(2):
        x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.Conv2DTranspose(2, 3, activation="silu")(layers.SeparableConv2D(3, 3)(x))
    x = layers.Concatenate()([layers.Flatten()(layers.LayerNormalization()(x)), extra])
    return keras.Model(image, layers.Dense(width)(x))
"""


@needs_tensorflow
@pytest.mark.parametrize("mode", ["faithful", pytest.param("deployed", marks=pytest.mark.acceptance)])
def test_a_conversion_in_a_process_of_its_own_gives_the_same_bytes(tmp_path, monkeypatch, capfd, mode):
    monkeypatch.chdir(tmp_path)
    Path("json.py").write_text("raise SystemExit('code that nobody named')\n")
    Path("net.py").write_text(NET)
    for output in ("a.onnx", "b.onnx"):
        request = ConversionRequest(source="net:make", output=output, arguments={"width": 5}, mode=mode)
        report = onnxscope_tensorflow.convert(request)
    assert capfd.readouterr() == ("", "")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    assert str(tmp_path).encode() not in Path("a.onnx").read_bytes()
    assert (report.output, report.opset, report.parameters) == ("b.onnx", 18, 29)
    assert report.framework.startswith("tensorflow ")
    assert (report.absent == 0) == (mode == "faithful")
    provenance = read_provenance({e.key: e.value for e in onnx.load("a.onnx").metadata_props})
    assert (provenance.source, provenance.mode) == ("net:make", mode)
    names = [record.name for record in provenance.parameters if record.name.endswith("/kernel")]
    ours = [name for name in names if not name.startswith("multi_head_attention/")]
    assert ours == ["conv2d/kernel", "conv2d_1/kernel", "conv2d_transpose/kernel", "dense/kernel"]
    assert len(names) == len(ours) + 4
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.onnx", "b.onnx", "json.py", "net.py"]


@needs_tensorflow
def test_an_error_leaves_what_was_there(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(b"\x08\x0a\x12\x04mine")  # begins as a model does
    Path("w.h5").write_text("just text\n")
    with pytest.raises(ConversionError) as caught:
        onnxscope_tensorflow.convert(
            ConversionRequest(source=f"{HELPERS}:embedding", output="model.onnx", weights="w.h5")
        )
    assert str(caught.value) == "not a checkpoint of Keras: w.h5"
    assert caught.value.hint == "`model.save_weights('model.weights.h5')` writes one"
    assert capfd.readouterr() == ("", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "w.h5"]
    assert Path("model.onnx").read_bytes() == b"\x08\x0a\x12\x04mine"


@needs_tensorflow
def test_an_output_folder_that_is_missing(tmp_path):
    target = tmp_path / "nowhere" / "model.onnx"
    with pytest.raises(OutputError, match=r"^cannot write \(No such file or directory\): "):
        onnxscope_tensorflow.convert(ConversionRequest(source=f"{HELPERS}:embedding", output=str(target)))
    assert list(tmp_path.iterdir()) == []
