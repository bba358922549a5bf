"""Layers, modules and parameters: names against those that each exporter is known to write."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from onnxscope.model.layer_names import Names, Origin, is_anonymous, operand_roles
from onnxscope.model.loading import load_model
from onnxscope.model.provenance import LAYER_KEY, ParameterRecord, Provenance, write_provenance

WEIGHT = np.arange(36, dtype=np.float32).reshape(1, 4, 3, 3)[:, :1]


def chain(names, *, op_type="Relu", producer="pytorch"):
    """A model of unary nodes, one after the other, with the given node names."""
    values = ["x", *(f"v{number}" for number in range(len(names)))]
    nodes = [
        helper.make_node(op_type, [values[number]], [values[number + 1]], name=name)
        for number, name in enumerate(names)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [onnx.ValueInfoProto(name=values[-1])],
    )
    return helper.make_model(graph, producer_name=producer, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def layers_of(model):
    names = Names(load_model(model))
    return [names.layers[node] for node in names.main.nodes]


def parsed(text, **initializers):
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]>\n{text}')
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    return model


def named(model, *names):
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    return model


def operand_of(model, *, node=-1, position=1):
    names = Names(load_model(model))
    operands = names.operands(names.main.nodes[node])
    return next(operand for operand in operands if operand.position == position)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/features/features.0/Conv", "features.0"),
        ("/conv1/Conv", "conv1"),
        ("/encoder/layers.0/attention/MatMul", "encoder.layers.0.attention"),
        ("/layer1/layer1.1/downsample/downsample.0/Conv", "layer1.1.downsample.0"),
        ("/layer1/layer10/Conv", "layer1.layer10"),
    ],
)
def test_the_scope_in_a_legacy_torch_node_name_is_the_layer(name, layer):
    assert layers_of(chain([name])) == [layer]


def test_a_node_without_a_scope_is_called_by_its_name_else_by_operator_and_index():
    assert layers_of(chain(["relu_a", "", "/Relu", ""])) == ["relu_a", "Relu_1", "/Relu", "Relu_3"]


def test_dynamo_scopes_come_before_the_node_name():
    model = chain(["node_relu_7"])
    model.graph.node[0].metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_7']"
    )
    assert layers_of(model) == ["layer1.0.relu"]
    assert Names(load_model(model)).exporter_scope(load_model(model).main.nodes[0]) == "layer1.0.relu"


@pytest.mark.parametrize("value", ["['relu']", "", "not a list", "['', 'relu']"])
def test_dynamo_metadata_without_a_scope_leaves_the_node_name(value):
    model = chain(["node_relu"])
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=value)
    assert layers_of(model) == ["node_relu"]


def test_a_weight_names_its_layer_better_than_the_scope_that_folding_left():
    model = parsed("g (float[1, 1, 5, 5] x) => (float[N, M, H, W] y) { y = Conv(x, w) }")
    model.graph.node[0].input[1] = "conv1.weight"
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "conv1.weight"))
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'bn1', 'batch_norm']")
    assert layers_of(model) == ["conv1"]


def test_an_anonymous_weight_names_nothing():
    model = parsed("g (float[1, 1, 5, 5] x) => (float[N, M, H, W] y) { y = Conv(x, w) }")
    named(model, "/conv1/Conv").graph.node[0].input[1] = "onnx::Conv_17"
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "onnx::Conv_17"))
    assert layers_of(model) == ["conv1"]


def test_scopes_of_tf2onnx_lose_the_scope_of_the_model():
    model = chain(
        [
            "StatefulPartitionedCall/alexnet_1/conv2d_1/convolution",
            "StatefulPartitionedCall/alexnet_1/block/conv2d_2_1/Relu",
            "StatefulPartitionedCall/alexnet_1/dense_1/MatMul",
        ],
        producer="tf2onnx",
    )
    assert layers_of(model) == ["conv2d_1", "block/conv2d_2_1", "dense_1"]


def test_a_single_layer_of_tf2onnx_keeps_its_own_scope():
    assert layers_of(chain(["model/dense/MatMul", "model/dense/Relu"], producer="tf2onnx")) == ["dense", "dense"]


def test_slashes_of_other_producers_are_no_scopes():
    assert layers_of(chain(["a/b/c"], producer="someone")) == ["a/b/c"]


def test_what_the_converter_recorded_on_a_node_comes_first():
    model = chain(["/layer1/Relu"])
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'other', 'relu']")
    model.graph.node[0].metadata_props.add(key=LAYER_KEY, value="features.1")
    assert layers_of(model) == ["features.1"]


def recorded(model, *records):
    provenance = Provenance("tensorflow", "2.21", "faithful", "net", parameters=records)
    for key, value in write_provenance(provenance).items():
        model.metadata_props.add(key=key, value=value)
    return model


def test_the_recorded_path_of_a_weight_names_its_layer_through_a_transpose():
    model = parsed(
        """g (float[1, 1, 5, 5] x) => (float[N, M, H, W] y) {
            t = Transpose<perm=[3, 2, 0, 1]>(kernel)
            y = Conv(x, t)
        }""",
        kernel=WEIGHT.transpose(2, 3, 1, 0),
    )
    named(model, "", "conv2d_1_2/convolution")
    record = ParameterRecord("conv2d_1/kernel", "conv2d_1", (3, 3, 1, 1), "float32", initializer="kernel")
    names = Names(load_model(recorded(model, record)))
    assert [names.layers[node] for node in names.main.nodes] == ["Transpose_0", "conv2d_1"]
    (operand,) = names.operands(names.main.nodes[1])
    assert operand.origin == Origin("kernel", "kernel", (3, 2, 0, 1), None)
    assert names.record(operand.origin) == record


def test_a_parameter_that_several_share_is_found_by_name_only():
    model = parsed("g (float[2] x) => (float[2] y) { y = MatMul(x, tied) }", tied=np.eye(2))
    records = [
        ParameterRecord(name, name.removesuffix(".weight"), (2, 2), "float32", initializer="tied")
        for name in ("encoder.weight", "decoder.weight")
    ]
    names = Names(load_model(recorded(model, *records)))
    assert names.record(Origin("tied", "tied", (), None)) is None
    assert names.record(Origin("tied", "decoder.weight", (), None)) == records[1]


def test_an_identity_gives_a_tied_weight_its_own_name():
    model = parsed("g (float[2] x) => (float[2] y) { alias = Identity(w) y = MatMul(x, alias) }", w=np.eye(2))
    model.graph.node[0].output[0] = model.graph.node[1].input[1] = "decoder.weight"
    assert operand_of(model).origin == Origin("w", "decoder.weight", (), None)
    assert layers_of(model)[1] == "decoder"


def test_two_transposes_are_one_permutation():
    array = np.arange(24).reshape(2, 3, 4)
    model = parsed(
        """g (float[5, 3] x) => (float[A, B, C] y) {
            a = Transpose<perm=[1, 2, 0]>(w)
            b = Transpose<perm=[0, 2, 1]>(a)
            y = MatMul(x, b)
        }""",
        w=array,
    )
    permutation = operand_of(model).origin.permutation
    used = array.transpose(1, 2, 0).transpose(0, 2, 1)
    np.testing.assert_array_equal(array.transpose(permutation), used)


@pytest.mark.parametrize(
    ("nodes", "permutation", "dequantized"),
    [
        ("c = Cast<to=1>(w)", (), None),
        ("c = Transpose(w)", (1, 0), None),
        ("t = Transpose(w) c = Transpose<perm=[1, 0]>(t)", (0, 1), None),
        ("c = Transpose<perm=[0, 0]>(w)", None, None),
        ("c = Transpose<perm=[0, 9]>(w)", None, None),
        ("c = Reshape(w, shape)", None, None),
    ],
)
def test_layout_on_the_way_to_a_weight(nodes, permutation, dequantized):
    model = parsed(f"g (float[2] x) => (float[N] y) {{ {nodes} y = MatMul(x, c) }}", w=np.eye(2))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 2]), "shape"))
    assert operand_of(model).origin == Origin("w", "w", permutation, dequantized)


def test_a_quantized_weight_is_found_behind_its_dequantization():
    model = parsed("g (float[2] x) => (float[N] y) { d = DequantizeLinear(q, scale) y = MatMul(x, d) }", scale=0.5)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.int8), "q"))
    assert operand_of(model).origin == Origin("q", "q", (), "d")
    names = Names(load_model(model))
    assert names.operands(names.main.nodes[0]) == ()  # it only hands the weight on


def test_a_weight_may_be_stored_in_a_constant_node_or_computed_from_none():
    stored = parsed("g (float[1] x) => (float[N] y) { c = Constant<value=float[1, 1]{2}>() y = MatMul(x, c) }")
    assert operand_of(stored).origin == Origin("c", "c", (), None)
    computed = parsed("g (float[2] x) => (float[N] y) { c = Mul(w, w) y = MatMul(x, c) }", w=np.eye(2))
    assert operand_of(computed).origin is None
    names = Names(load_model(computed))
    assert [names.owns_weights(node) for node in names.main.nodes] == [False, True]


def test_a_weight_of_the_main_graph_is_found_from_inside_a_body():
    model = parsed(
        """g (bool b, float[2] x) => (float[N] y) {
            y = If(b) <then_branch = t () => (float[N] p) { p = MatMul(x, w) },
                       else_branch = e () => (float[N] q) { q = Identity(x) }>
        }""",
        w=np.eye(2),
    )
    names = Names(load_model(model))
    inner = next(node for graph in names.graphs.values() for node in graph.nodes if node.op_type == "MatMul")
    assert names.owns_weights(inner)
    assert names.operands(inner)[0].origin == Origin("w", "w", (), None)


def test_products_of_activations_own_no_weights():
    model = load_model(parsed("g (float[2, 2] x) => (float[2, 2] y) { a = Relu(x) y = MatMul(a, x) }"))
    assert not Names(model).owns_weights(model.main.nodes[1])


def test_roles_follow_the_operator_and_leave_out_what_steers_it():
    model = parsed("""g (float[1] x) => (float[1] y) {
        a = BatchNormalization(x, s, b, m, v)
        c = Clip(a, lo, hi)
        d = Add(c, e)
        f = Conv(d, k)
        y = Unknown(f, z)
    }""")
    roles = [list(operand_roles(node)) for node in _nodes(model)]
    assert roles == [
        [(0, "constant"), (1, "weight"), (2, "bias"), (3, "running_mean"), (4, "running_var")],
        [(0, "constant")],
        [(0, "bias"), (1, "bias")],
        [(0, "constant"), (1, "weight")],
        [(0, "constant"), (1, "constant")],
    ]


def _nodes(proto):
    """The nodes of a graph whose constants are not stored: they are declared as inputs first."""
    produced = {output for node in proto.graph.node for output in node.output}
    given = {value.name for value in proto.graph.input}
    for node in proto.graph.node:
        for name in node.input:
            if name not in produced | given:
                proto.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))
                given.add(name)
    return load_model(proto).main.nodes


@pytest.mark.parametrize("name", ["onnx::Conv_345", "17", "val_3", "_val_12", "conv2d/ReadVariableOp:0", "const_2", ""])
def test_made_up_names(name):
    assert is_anonymous(name)


@pytest.mark.parametrize("name", ["conv1.weight", "features.0", "value", "constant", "layer1"])
def test_names_that_people_gave(name):
    assert not is_anonymous(name)


@pytest.fixture
def residual():
    """Two blocks, each `relu(conv2(conv1(x)) + x)`, as PyTorch's legacy exporter names them."""
    nodes, x = [], "x"
    for block in ("layer1.0", "layer1.1"):
        values = [f"{block}{suffix}" for suffix in ("_a", "_b", "_c", "_d")]
        scope = f"/layer1/{block}"
        nodes += [
            helper.make_node("Neg", [x], [values[0]], name=f"{scope}/conv1/Neg"),
            helper.make_node("Abs", [values[0]], [values[1]], name=f"{scope}/conv2/Abs"),
            helper.make_node("Add", [values[1], x], [values[2]], name=f"{scope}/Add"),
            helper.make_node("Relu", [values[2]], [values[3]], name=f"{scope}/relu/Relu"),
        ]
        x = values[3]
    nodes.append(helper.make_node("Neg", [x], ["y"], name="/fc/Neg"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])],
        [onnx.ValueInfoProto(name="y")],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    return Names(load_model(model))


def test_modules_are_the_scopes_around_layers(residual):
    assert list(residual.modules) == [
        *("layer1", "layer1.0", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.relu"),
        *("layer1.1", "layer1.1.conv1", "layer1.1.conv2", "layer1.1.relu", "fc"),
    ]
    assert [node.op_type for node in residual.modules["layer1.0"]] == ["Neg", "Abs", "Add", "Relu"]
    assert residual.is_module("layer1")
    assert residual.is_module("layer1.0")
    assert not residual.is_module("layer1.0.conv1")
    assert not residual.is_module("unknown")


def test_the_value_of_a_module_is_what_leaves_it(residual):
    assert residual.leaving("layer1") == ["layer1.1_d"]
    assert residual.leaving("layer1.0") == ["layer1.0_d"]
    assert residual.leaving("layer1.0.conv2") == ["layer1.0_b"]
    assert residual.leaving("fc") == ["y"]  # a declared output leaves, whoever reads it
    assert residual.leaving("unknown") == []


def test_a_module_may_have_several_values_in_execution_order():
    model = load_model(chain(["/enc/a/Relu", "/enc/b/Relu", "/out/Relu"]))
    model.proto.graph.node[2].op_type = "Add"
    model.proto.graph.node[2].input.append("v0")
    assert Names(load_model(model.proto)).leaving("enc") == ["v0", "v1"]


def test_constants_do_not_leave_a_module():
    model = parsed(
        "g (float[2, 2] x) => (float[2, 2] y) { t = Transpose<perm=[1, 0]>(w) y = MatMul(x, t) }",
        w=np.eye(2),
    )
    names = Names(load_model(named(model, "/a/Transpose", "/b/MatMul")))
    assert names.leaving("a") == []
    assert names.leaving("b") == ["y"]


def test_nodes_of_a_layer_called_twice_share_its_name():
    model = chain(["/conv/Relu", "/conv_1/Relu"])
    for node in model.graph.node:
        node.metadata_props.add(key=LAYER_KEY, value="conv")
    names = Names(load_model(model))
    assert [names.layers[node] for node in names.main.nodes] == ["conv", "conv"]
    assert len(names.modules["conv"]) == 2


def test_dots_in_the_name_of_a_lone_node_make_no_module():
    assert list(Names(load_model(chain(["a.b/c"], producer="someone"))).modules) == ["a.b/c"]


def test_values_have_the_name_of_their_body_where_another_graph_repeats_theirs():
    names = Names(
        load_model(
            named(
                parsed("""g (bool c, float[2] x) => (float[2] y) {
                    y = If(c) <then_branch = t () => (float[2] p) { h = Neg(x) a = Abs(x) p = Add(h, a) },
                               else_branch = e () => (float[2] q) { h = Abs(x) q = Relu(h) }>
                }"""),
                "cond",
            )
        )
    )
    main, *bodies = names.graphs.values()
    assert [names.value(main, value) for value in ("x", "y")] == ["x", "y"]
    assert sorted(names.value(body, "h") for body in bodies) == ["cond/else_branch/h", "cond/then_branch/h"]
    assert {names.value(body, value) for body in bodies for value in ("a", "p", "q")} == {"a", "p", "q"}
