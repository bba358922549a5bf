"""Layers of networks, cut out, run by their own script where nothing but onnxruntime and numpy can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import onnx
import pytest
import small_networks
from onnx import numpy_helper

import onnxscope

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnxscope", "ml_dtypes"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import runpy
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SMALL = {
    "recurrent": ["op:LSTM", "op:GRU", "op:Gemm"],
    "transformer": ["op:MatMul", "MatMul_0", "MatMul_4", "MatMul_6", "op:LayerNormalization", "op:Softmax"],
    "bodies": ["value:u0", "value:t0", "value:after", "op:Loop", "op:If"],
    "quantized_pairs": ["op:Conv", "op:MatMul"],
    "half_precision": ["op:Conv", "op:MatMul"],
}


def reproduced(part, folder: Path) -> bool:
    """Write a part, and run its script as somebody else does; a weight that is changed has to be found."""
    part.save(folder, force=True)
    command = [sys.executable, "-I", "-c", BLOCK, str(folder / "reproduce.py")]

    def run():
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300)
        assert not done.stderr, done.stderr
        return done.returncode

    if run() != 0:
        return False
    proto = onnx.load(folder / "model.onnx")
    weights = [tensor for tensor in proto.graph.initializer if tensor.data_type in (1, 10) and np.prod(tensor.dims) > 8]
    if not weights:
        return True
    for weight in weights:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * -2, weight.name))
    onnx.save(proto, folder / "model.onnx")
    return run() == 1


@pytest.mark.acceptance
def test_sixty_layers_are_reproduced_elsewhere(tmp_path):
    pytest.importorskip("torch")
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    results = {}
    for network in ("alexnet", "resnet34"):
        path = tmp_path / f"{network}.onnx"
        onnxscope.convert("torch", network, path)
        model = onnxscope.load_model(path)
        for layer in dict.fromkeys(layer.name for layer in model.layers if layer.kind in ("Conv", "Linear")):
            part = onnxscope.extract(model, str(photo), select=layer)
            results[network, layer] = part.reproduces and reproduced(part, tmp_path / "part")
    for network, selectors in SMALL.items():
        small = getattr(small_networks, network)()
        for selector in selectors:
            part = onnxscope.extract(small.model, small.feeds, select=selector)
            results[network, selector] = part.reproduces and reproduced(part, tmp_path / "part")
    failed = [name for name, same in results.items() if not same]
    print(f"{len(results) - len(failed)} of {len(results)} layers are reproduced")
    assert len(results) >= 60
    assert not failed
