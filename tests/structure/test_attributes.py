"""Attributes of every kind, through baselines, checks and comparisons."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxscope import check, diff, snapshot
from onnxscope.cli.main import run
from onnxscope.gate.baseline import Baseline
from onnxscope.model.loading import load_model
from onnxscope.structure.attributes import attributes_of

FLOAT = TensorProto.FLOAT
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("made.up", 1)]


def tensor(*numbers, name="t", dtype=np.float32):
    return numpy_helper.from_array(np.array(numbers, dtype), name)


def text(*texts):
    return helper.make_tensor("t", TensorProto.STRING, [len(texts)], texts)


def sparse(number, index):
    return helper.make_sparse_tensor(tensor(number), tensor(index, dtype=np.int64), [4])


def typed(*dims, wrap=lambda each: each):
    return wrap(helper.make_tensor_type_proto(FLOAT, dims))


def body(op_type, number=1.0, prefix="", **attributes):
    """A graph that applies an operator to its input and to a number that it stores."""
    x, y, c = (f"{prefix}{name}" for name in "xyc")
    nodes = [
        helper.make_node("Identity", [x], [f"{prefix}i"]),
        helper.make_node(op_type, [f"{prefix}i", c], [y], **attributes),
    ]
    values = [[helper.make_tensor_value_info(name, FLOAT, [1])] for name in (x, y)]
    return helper.make_graph(nodes, f"{prefix}body", *values, [tensor(number, name=c)])


def sparse_body(number):
    made = body("Add", prefix="s")
    del made.initializer[:]
    made.sparse_initializer.append(helper.make_sparse_tensor(tensor(number, name="sc"), tensor(0, dtype=np.int64), [1]))
    return made


def if_node(op_type):
    return body("If", then_branch=body(op_type, prefix="inner"), domain="made.up")


K = AttributeProto
# Kind, value, and another value that is not the same.
PAIRS = {
    "float": (K.FLOAT, 0.5, 0.25),
    "nan": (K.FLOAT, math.nan, 0.0),
    "infinity": (K.FLOAT, math.inf, -math.inf),
    "int": (K.INT, 2**62, 2**62 + 1),
    "text": (K.STRING, "é\x1b\u2028", "e"),
    "no utf-8": (K.STRING, b"\xff\xfe", b"\xff\xfd"),
    "no utf-8, or its escape": (K.STRING, b"\xff", b"\\xff"),
    "tensor": (K.TENSOR, tensor(1, 2), tensor(1, 3)),
    "tensor of another type": (K.TENSOR, tensor(0, 0), tensor(0, 0, dtype=np.int32)),
    "tensor of another shape": (K.TENSOR, tensor(1, 2), tensor([1, 2])),
    "tensor with nan": (K.TENSOR, tensor(math.nan), tensor(math.inf)),
    "tensor of texts": (K.TENSOR, text(b"a\xff", b"b"), text(b"a", b"\xffb")),
    "tensor left out": (K.TENSOR, None, tensor(1)),
    "sparse tensor left out": (K.SPARSE_TENSOR, None, sparse(1, 0)),
    "graph left out": (K.GRAPH, None, body("Add")),
    "type left out": (K.TYPE_PROTO, None, typed(1)),
    "graph": (K.GRAPH, body("Add"), body("Mul")),
    "graph with a tensor": (K.GRAPH, body("Add", 1.0), body("Add", math.nan)),
    "graph with a sparse tensor": (K.GRAPH, sparse_body(1), sparse_body(2)),
    "graph with an attribute": (K.GRAPH, body("Add", a=b"\xff"), body("Add", a=b"\xfe")),
    "graph in a graph": (K.GRAPH, if_node("Add"), if_node("Mul")),
    "sparse tensor": (K.SPARSE_TENSOR, sparse(1, 0), sparse(2, 0)),
    "sparse tensor at another place": (K.SPARSE_TENSOR, sparse(1, 0), sparse(1, 1)),
    "type": (K.TYPE_PROTO, typed(1, "N"), typed(2, "N")),
    "type of a sequence": (
        K.TYPE_PROTO,
        typed(1, wrap=helper.make_sequence_type_proto),
        typed(1, wrap=helper.make_optional_type_proto),
    ),
    "floats": (K.FLOATS, [0.5, math.nan, math.inf], [0.5, math.nan, -math.inf]),
    "ones": (K.FLOATS, [1.0], [1.0, 1.0]),
    "ints": (K.INTS, [-(2**63), 1], [-(2**63), 2]),
    "texts": (K.STRINGS, ["Sigmoid", b"\xff"], ["Tanh", b"\xff"]),
    "tensors": (K.TENSORS, [tensor(1), tensor(2)], [tensor(1), tensor(3)]),
    "graphs": (K.GRAPHS, [body("Add"), body("Mul")], [body("Add"), body("Add")]),
    "sparse tensors": (K.SPARSE_TENSORS, [sparse(1, 0)], [sparse(1, 0), sparse(1, 0)]),
    "types": (K.TYPE_PROTOS, [typed(1), typed(2)], [typed(2), typed(1)]),
}


def test_every_kind_is_there():
    assert {kind for kind, _, _ in PAIRS.values()} == set(K.AttributeType.values()) - {K.UNDEFINED}


def attribute(kind, value, name="made"):
    """An attribute of a kind that holds a value; None leaves the value out."""
    shorter = {"FLOAT": "f", "INT": "i", "STRING": "s", "TENSOR": "t", "GRAPH": "g", "TYPE_PROTO": "tp"}
    word = K.AttributeType.Name(kind)
    field = shorter.get(word, word.lower())
    made = AttributeProto(name=name, type=kind)
    if isinstance(value, list):
        getattr(made, field).extend(each.encode() if isinstance(each, str) else each for each in value)
    elif isinstance(value, (int, float, str, bytes)):
        setattr(made, field, value.encode() if isinstance(value, str) else value)
    elif value is not None:
        getattr(made, field).CopyFrom(value)
    return made


def model_with(*attributes):
    """A convolution of a domain of its own, which nothing runs, with these attributes."""
    node = helper.make_node("Conv", ["x", "fc.weight"], ["y"], domain="made.up")
    node.attribute.extend(attributes)
    values = [[helper.make_tensor_value_info(name, FLOAT, ["N", 1, 2, 2])] for name in "xy"]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "fc.weight")
    graph = helper.make_graph([node], "g", *values, [weight])
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9)


@pytest.mark.parametrize("name", PAIRS)
def test_an_attribute_of_any_kind_is_kept_and_its_change_is_found(name, tmp_path):
    kind, value, other = PAIRS[name]
    model, changed, without = (model_with(*each) for each in ([attribute(kind, value)], [attribute(kind, other)], []))
    taken = snapshot(model)
    taken.save(tmp_path / "b.json")
    loaded = Baseline.load(tmp_path / "b.json")
    assert loaded == taken
    assert check(model, loaded).ok
    assert diff(model, model).equal
    for another in (changed, without):
        (finding,) = check(another, loaded).findings
        assert (finding.layer, finding.statistic) == ("fc", "attributes")
        json.dumps(finding.to_dict(), allow_nan=False)
        assert [row.layer for row in diff(model, another).structure] == ["fc"]
        assert not diff(another, model).equal


@pytest.mark.parametrize("name", PAIRS)
def test_the_commands_take_attributes_of_any_kind(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kind, value, other = PAIRS[name]
    for file, each in (("a.onnx", value), ("b.onnx", other)):
        onnx.save(model_with(attribute(kind, each)), file)
    assert run(["snapshot", "a.onnx", "-o", "b.json", "--format", "json"]) == 0
    assert run(["check", "a.onnx", "--baseline", "b.json"]) == 0
    assert run(["check", "b.onnx", "--baseline", "b.json", "--junit", "r.xml", "--markdown", "r.md"]) == 1
    assert run(["check", "b.onnx", "--baseline", "b.json", "--format", "json", "-q"]) == 1
    assert run(["diff", "a.onnx", "b.onnx"]) == 1
    assert run(["diff", "a.onnx", "b.onnx", "--format", "json", "-q"]) == 1
    assert all(each.isprintable() for each in capsys.readouterr().out.replace("\n", ""))


def of(model, **options):
    loaded = load_model(model, **options)
    return attributes_of(loaded.main.nodes[0], loaded.storage)


def test_numbers_and_texts_are_themselves():
    model = model_with(
        *(attribute(K.FLOATS, [0.5, math.nan, -math.inf], "a"), attribute(K.STRINGS, ["Tanh", "é"], "b")),
        *(attribute(K.INT, 7, "c"), attribute(K.STRING, "x", "d")),
    )
    assert of(model) == {"a": [0.5, {"float": "nan"}, {"float": "-inf"}], "b": ["Tanh", "é"], "c": 7, "d": "x"}


def test_defaults_are_left_out_and_other_lists_of_ones_are_not():
    names = ("strides", "dilations", "activation_alpha")
    ones = [attribute(K.INTS, [1, 1], name) for name in names]
    zeros = [attribute(K.INTS, [0, 0], name) for name in ("pads", "output_padding")]
    model = model_with(*ones, *zeros, attribute(K.INT, 1, "group"), attribute(K.FLOATS, [], "empty"))
    assert of(model) == {"activation_alpha": [1, 1], "group": 1}  # nothing says what a made-up operator takes for it
    model.graph.node[0].domain = ""
    assert of(model) == {"activation_alpha": [1, 1]}


def test_every_default_of_a_recurrent_operator_is_left_out():
    model = model_with(attribute(K.INT, 0, "layout"), attribute(K.STRING, "forward", "direction"))
    model.graph.node[0].domain, model.graph.node[0].op_type = "", "LSTM"
    model.graph.node[0].input.extend([model.graph.node[0].input[0]] * 2)
    assert of(model) == {}
    model.graph.node[0].attribute[0].i = 1
    assert of(model) == {"layout": 1}


def test_names_and_the_way_of_storing_are_no_difference(tmp_path):
    inline = TensorProto(data_type=FLOAT, dims=[2], float_data=[1, 2], name="another", doc_string="text")
    assert of(model_with(attribute(K.TENSOR, inline))) == of(model_with(attribute(K.TENSOR, tensor(1, 2))))
    outside = TensorProto(data_type=FLOAT, dims=[2], name="t", data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="t.data")
    (tmp_path / "t.data").write_bytes(np.array([1, 2], np.float32).tobytes())
    found = of(model_with(attribute(K.TENSOR, outside)), base_dir=tmp_path)
    assert found == of(model_with(attribute(K.TENSOR, tensor(1, 2))))
    graphs = [model_with(attribute(K.GRAPH, body("Add", prefix=prefix))) for prefix in ("", "made_up_")]
    assert of(graphs[0]) == of(graphs[1])


def lstm(*activations):
    weights = {"lstm.W": (1, 8, 3), "lstm.R": (1, 8, 2)}
    chance = np.random.default_rng(0)
    tensors = [tensor(*chance.normal(size=shape), name=name) for name, shape in weights.items()]
    options = {"activations": list(activations)} if activations else {}
    node = helper.make_node("LSTM", ["x", *weights], ["y"], hidden_size=2, **options)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [5, "N", 3])],
        [helper.make_tensor_value_info("y", FLOAT, [5, 1, "N", 2])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=OPSETS[:1], ir_version=9)


def test_an_lstm_is_held_to_its_activations(tmp_path):
    model = lstm("Sigmoid", "Tanh", "Tanh")
    taken = snapshot(model, "random")
    taken.save(tmp_path / "b.json")
    assert check(model, tmp_path / "b.json", "random").ok
    assert diff(model, model, "random").equal
    changed = lstm("Sigmoid", "Tanh", "Relu")
    first, *moved = check(changed, tmp_path / "b.json", "random").findings
    assert first.statistic == "attributes"
    assert "became activations Sigmoid, Tanh, Relu" in first.message
    assert moved[0].message.endswith("its structure has changed")
    result = diff(model, changed, "random")
    message = "LSTM: activations [Sigmoid, Tanh, Tanh] became [Sigmoid, Tanh, Relu]"
    assert [change.message for change in result.structure] == [message]
    assert not result.equal
