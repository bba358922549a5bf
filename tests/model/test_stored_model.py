"""A stored model: what it says about itself, what is put right, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, TensorProto

from onnxscope.errors import ModelError
from onnxscope.model.loading import load_model
from onnxscope.model.provenance import Provenance, write_provenance
from onnxscope.model.stored_model import InputSpec
from onnxscope.runtime.session import open_session

PLAIN = """
    <ir_version: 9, opset_import: ["": 17, "own.domain": 2], producer_name: "maker", producer_version: "1.5">
    plain (float[N, 3] x, float[3] d, string[?] s) => (float[N, 3] y) <float[3] d = {1, 2, 3}> { y = Add(x, d) }"""


def parse(text: str) -> ModelProto:
    return onnx.parser.parse_model(text)


def test_a_model_describes_itself(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    onnx.save(parse(PLAIN), path)
    model = load_model(path)
    assert repr(model) == "<Model plain.onnx: 1 nodes, 1 initializers>"
    assert model.inputs == (InputSpec("x", "float32", ("N", 3)), InputSpec("s", "str", (None,)))
    assert model.outputs == (InputSpec("y", "float32", ("N", 3)),)
    assert model.opsets == {"ai.onnx": 17, "own.domain": 2}
    assert model.producer == "maker 1.5"
    assert model.folder == tmp_path.resolve()
    assert model.to_dict() == {
        "name": "plain.onnx",
        "size_bytes": path.stat().st_size,
        "ir_version": 9,
        "opsets": {"ai.onnx": 17, "own.domain": 2},
        "producer": "maker 1.5",
        "graph": "plain",
        "framework": None,
        "mode": None,
        "source": None,
        "preprocess": None,
    }


def test_provenance_is_read_from_the_metadata() -> None:
    proto = parse(PLAIN)
    onnx.helper.set_model_props(proto, write_provenance(Provenance("torch", "2.13", "faithful", "alexnet", "imagenet")))
    record = load_model(proto).to_dict()
    assert [record[key] for key in ("framework", "mode", "source", "preprocess")] == [
        "torch 2.13",
        "faithful",
        "alexnet",
        "imagenet",
    ]


def test_dims_written_as_minus_one_become_unknown_everywhere() -> None:
    proto = parse("""
        <ir_version: 9, opset_import: ["": 17]>
        g (bool c, float[N, 3] x) => (float[N, 3] y) <float[N, 3] h> {
            h = Relu(x)
            y = If (c) <
                then_branch = t () => (float[N, 3] p) { p = Neg(h) },
                else_branch = e () => (float[N, 3] q) { q = Abs(h) }
            >
        }""")
    body = proto.graph.node[1].attribute[0].g
    for value in (proto.graph.input[1], proto.graph.output[0], proto.graph.value_info[0], body.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    model = load_model(proto)
    assert model.inputs[1].shape == (None, 3)
    assert model.outputs[0].shape == (None, 3)
    assert model.main.types["h"].shape == (None, 3)
    assert [graph.types["p"].shape for graph in model.graphs.values() if "p" in graph.types] == [(None, 3)]
    assert "dim_value: -1" not in str(model.proto)


def test_unnamed_outputs_of_split_get_names_that_nothing_else_has() -> None:
    proto = parse("""
        <ir_version: 9, opset_import: ["": 17]>
        g (bool c, float[6] x) => (float[2] y, float[2] z) {
            onnxscope_unused_0 = Identity(x)
            b, y, d = Split(x)
            z = If (c) <
                then_branch = t () => (float[2] p) { p, q, r = Split(x) },
                else_branch = e () => (float[2] k) { i, j, k = Split(x) }
            >
        }""")
    branches = [attribute.g.node[0] for attribute in proto.graph.node[2].attribute]
    for node, place in ((proto.graph.node[1], 0), (proto.graph.node[1], 2), (branches[0], 1), (branches[1], 0)):
        node.output[place] = ""
    model = load_model(proto)
    outputs = [output for graph in model.graphs.values() for node in graph.nodes for output in node.outputs]
    assert "" not in outputs
    assert len(set(outputs)) == len(outputs)
    found = open_session(model).run({"c": np.array(True), "x": np.arange(6, dtype=np.float32)})
    assert (found["y"].tolist(), found["z"].tolist()) == ([2, 3], [0, 1])


def test_a_model_needs_a_graph_an_ir_version_and_an_operator_set() -> None:
    with pytest.raises(ModelError, match=r"^not an ONNX model \(no graph in it\): model$"):
        load_model(ModelProto(ir_version=9))
    proto = parse(PLAIN)
    proto.ClearField("ir_version")
    with pytest.raises(ModelError, match=r"^not an ONNX model \(it states no IR version\): plain$"):
        load_model(proto)
    proto = parse(PLAIN)
    del proto.opset_import[:]
    with pytest.raises(ModelError, match=r"^not an ONNX model \(it imports no operator set\): plain$"):
        load_model(proto)
    proto.ir_version = 2  # these had none
    assert load_model(proto).opsets == {}


def test_names_in_messages_cannot_act_on_a_terminal() -> None:
    proto = parse(PLAIN)
    proto.graph.name = "g\x1b[2J"
    proto.graph.node[0].input[0] = "\x9b1m\n"
    with pytest.raises(ModelError, match=r"^node 'Add\(y\)' reads '\\x9b1m\\n', which nothing produces: g\\x1b\[2J$"):
        load_model(proto)


def test_constant_tensors_of_the_elements_that_the_runtime_lacks_do_not_stop_a_description() -> None:
    proto = parse(PLAIN)
    proto.graph.initializer.add(name="odd", data_type=TensorProto.FLOAT6E2M3, dims=[4], raw_data=b"\0\0\0")
    assert set(load_model(proto).main.initializers) == {"d", "odd"}
