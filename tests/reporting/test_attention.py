"""What deserves attention is said in plain words, the gravest first."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper
from pages import Parsed, network
from PIL import Image

from onnxscope import report
from onnxscope.model.provenance import Provenance, write_provenance


def test_dead_and_duplicate_channels_are_said_in_plain_words(tmp_path):
    model = network(["first", "second"])
    tensor = model.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    values[2] = 0
    values[5] = values[4]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "m.onnx")
    made = report(tmp_path / "m.onnx", np.random.default_rng(0).normal(size=(20, 3, 6, 6)).astype(np.float32))
    told = {(each.layer, each.kind): each for each in made.content.attention}
    assert told["first", "dead_channel"].message == "1 of 8 channels are zero everywhere in all 20 samples: 2"
    assert told["first", "dead_channel"].weight == "warn"
    assert told["first", "duplicate_channel"].message.startswith("1 of 8 channels hold the same as another one")
    place = next(
        attributes["id"]
        for tag, attributes in Parsed(made.html).elements
        if tag == "section" and attributes.get("id", "").startswith("l")
    )
    assert f'<a href="#{place}">first</a>' in made.html


def test_an_input_prepared_otherwise_and_taps_that_stop_fusing_are_said(tmp_path):
    rng = np.random.default_rng(0)
    model = network([f"features.{number}" for number in range(4)], channels=16, side=32)
    for node, tensor in zip(model.graph.node[::2], model.graph.initializer, strict=True):
        bound = 1 / np.sqrt(np.prod(tensor.dims[1:]))  # what PyTorch starts a convolution from
        fresh = rng.uniform(-bound, bound, tensor.dims).astype(np.float32)
        node.input[1] = f"{node.name}.weight"
        tensor.CopyFrom(numpy_helper.from_array(fresh, node.input[1]))
    onnx.helper.set_model_props(model, write_provenance(Provenance("torch", "2.13", "faithful", "net", "imagenet")))
    onnx.save(model, tmp_path / "net.onnx")
    image = Image.fromarray(rng.integers(0, 255, (240, 320, 3), np.uint8))
    made = report(tmp_path / "net.onnx", image, preprocess="caffe", at="pre", select="features.*")
    told = {each.kind: each for each in made.content.attention}
    assert told["input_order"].message.startswith("prepared as BGR with the preset 'caffe'")
    assert told["untrained_weights"].weight == "warn"
    assert told["unfused"].weight == "note"
    assert "observed where onnxruntime would fuse" in told["unfused"].message


def test_what_cannot_be_observed_is_said_first(tmp_path):
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 2] x) => (seq(float[N, 2]) y) { h = Relu(x)  y = SequenceConstruct(h, h) }""")
    made = report(model, "random", select="value:*")
    assert made.content.attention[0].message == "1 value could not be observed, listed below with the reason"
    assert "a sequence, not a tensor" in Parsed(made.html).text
