"""Layers of networks, cut out, run by their own script where nothing but onnxruntime and numpy can be imported."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import onnx
import pytest
import small_networks
from onnx import TensorProto, helper, numpy_helper
from reproducing import reproduce

import onnxscope

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

    def run():
        code, _, fault = reproduce(folder)
        assert not fault, fault
        return code

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


@pytest.mark.acceptance
def test_of_three_gigabytes_the_half_megabyte_of_a_layer_is_written(tmp_path):
    side, tensors, offset = 16384, [], 0
    for name, columns in (("w0", side), ("w1", side), ("w2", side), ("small", 8)):
        tensor = TensorProto(name=name, data_type=1, dims=[side, columns], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "big.data"), ("offset", offset), ("length", side * columns * 4)):
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        offset += side * columns * 4
    nodes = [helper.make_node("MatMul", [x, f"w{i}"], [f"h{i}"]) for i, x in enumerate(("x", "h0", "h1"))]
    nodes.append(helper.make_node("MatMul", ["h2", "small"], ["y"], name="head"))
    fed, given = (helper.make_tensor_value_info(name, 1, ["N", n]) for name, n in (("x", side), ("y", 8)))
    graph = helper.make_graph(nodes, "big", [fed], [given], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "big.onnx"
    )
    with open(tmp_path / "big.data", "wb") as stream:  # a hole, with ones behind it
        stream.seek(offset - side * 8 * 4)
        stream.write(np.ones(side * 8, np.float32).tobytes())
    part = onnxscope.extract(tmp_path / "big.onnx", select="head")
    assert reproduced(part, tmp_path / "part")
    assert sum(path.stat().st_size for path in (tmp_path / "part").rglob("*") if path.is_file()) < 1 << 20
    np.testing.assert_allclose(
        part.outputs[0].value, part.inputs[0].value.sum(axis=1, keepdims=True).repeat(8, 1), rtol=1e-3
    )
