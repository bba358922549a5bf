"""How the converter writes models that one file cannot hold."""

from __future__ import annotations

import onnx
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")

from converters.tensorflow_helpers import HERE, convert

from onnxscope.converting.saving import save_model


def test_large_weights_lie_beside_the_model(tmp_path, monkeypatch):
    whole = convert(f"{HERE}:residual", tmp_path)
    limited = lambda model, path: save_model(model, path, limit_bytes=100)  # noqa: E731
    monkeypatch.setattr("onnxscope.converting.child.save_model", limited)
    split = convert(f"{HERE}:residual", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    bare = onnx.load(split.path, load_external_data=False)
    outside = {t.name for t in bare.graph.initializer if t.data_location == t.EXTERNAL}
    assert outside == {"conv1/kernel", "conv2/kernel", "fc/kernel"}  # 1296, 1728 and 2160 bytes
    for record in whole.provenance.parameters:
        if record.initializer:
            values = whole.initializers[record.initializer]
            assert split.initializers[record.initializer].tobytes() == values.tobytes()
            assert (record.name in outside) == (values.nbytes >= 1024)
    assert split.report.notes[-1] == "the weights are in model.onnx.data, which belongs beside the model"
