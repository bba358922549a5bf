"""Names of parameters that layers share, that lie behind layout, or beside which something is absent."""

from __future__ import annotations

import warnings

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic

import onnxscope
from onnxscope.model.loading import load_model
from onnxscope.runtime.stored_values import read_parameter


def network(text, shapes, *, producer="pytorch", opset=17):
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> {text}')
    proto.producer_name = producer
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return proto


def scoped(node, *scopes):
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str([*scopes, "op"]))


def names(proto):
    return {parameter.name: parameter for parameter in load_model(proto).parameters}


def test_what_is_absent_takes_no_name_from_what_is_stored():
    proto = network(
        "g (float[N, 3] x) => (float[N, 3] z) { w = Sqrt (val_1)  [fc] y = MatMul (x, w)  [fc] z = MatMul (y, val_2) }",
        {"val_1": (3, 3), "val_2": (3, 3)},
    )
    for node in proto.graph.node[1:]:
        scoped(node, "", "fc")
    model = load_model(proto)
    assert {parameter.name: parameter.initializer for parameter in model.parameters}["fc.weight"] == "val_2"
    assert ("fc.weight_2", "computed by Sqrt, not stored") in model.absent


def test_scopes_win_over_the_name_of_a_weight_that_layers_share():
    proto = network(
        """g (int64[N, 4] i) => (float[N, 4, 9] y) {
        e = Gather (table, i)  a = LayerNormalization (e, scale)  b = LayerNormalization (a, scale)
        y = MatMul (b, val_9) }""",
        {"val_9": (5, 9)},
    )
    for name, stored, shape in (("table", "lm_head.weight", (9, 5)), ("scale", "h.ln_1.weight", (5,))):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), stored))
        for node in proto.graph.node:
            node.input[:] = [stored if value == name else value for value in node.input]
    for node, scope in zip(proto.graph.node, ("wte", "h.ln_1", "h.ln_2", "lm_head"), strict=True):
        scoped(node, "", scope)
    model = load_model(proto)
    assert [model.names.layers[node] for node in model.names.weighted] == ["wte", "h.ln_1", "h.ln_2", "lm_head"]
    found = {parameter.name: parameter.initializer for parameter in model.parameters}
    assert found == {"wte.weight": "lm_head.weight", "h.ln_1.weight": "h.ln_1.weight", "lm_head.weight": "val_9"}


def test_a_module_that_uses_its_child_s_weight_keeps_the_child_s_name():
    proto = network("g (float[N, 3] x) => (float[N, 3] y) { y = MatMul (x, w) }", {})
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((3, 3), np.float32), "attn.out_proj.weight"))
    proto.graph.node[0].input[1] = "attn.out_proj.weight"
    scoped(proto.graph.node[0], "", "attn")
    assert list(names(proto)) == ["attn.out_proj.weight"]


STACKED = """g (float[T, N, 3] x) => (float[T, 2, N, 2] y) {
    f = Unsqueeze (val_1, axes)  b = Unsqueeze (val_2, axes)  w = Concat <axis = 0> (f, b)
    val_6 = Identity (val_3)  ru = Unsqueeze (val_6, axes)  rb = Unsqueeze (val_4, axes)  r = Concat <axis = 0> (ru, rb)
    [rnn] y = OPERATOR <direction = "bidirectional", hidden_size = 2> (x, w, r) }"""


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_each_direction_behind_layout_is_its_layer_s(operator, gates):
    shapes = {"val_1": (gates * 2, 3), "val_2": (gates * 2, 3), "val_3": (gates * 2, 2), "val_4": (gates * 2, 2)}
    proto = network(STACKED.replace("OPERATOR", operator), shapes)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    model = load_model(proto)
    found = {parameter.name: parameter.initializer for parameter in model.parameters}
    expected = {
        "rnn.weight_ih_l0": "val_1",
        "rnn.weight_ih_l0_reverse": "val_2",
        "rnn.weight_hh_l0": "val_3",
        "rnn.weight_hh_l0_reverse": "val_4",
    }
    assert found == expected
    assert not model.absent


def test_each_gate_behind_a_concat_is_named():
    text = """g (float[T, N, 3] x) => (float[T, 1, N, 2] y) {
        g4 = Concat <axis = 0> (val_1, val_2, val_3, val_4)  w = Unsqueeze (g4, axes)
        [rnn] y = LSTM <hidden_size = 2> (x, w, val_5) }"""
    proto = network(text, {**{f"val_{n}": (2, 3) for n in (1, 2, 3, 4)}, "val_5": (1, 8, 2)}, producer="other")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    found = {name: parameter.initializer for name, parameter in names(proto).items()}
    gates = {f"rnn.weight_ih_{gate}": f"val_{n}" for n, gate in enumerate("iofc", 1)}
    assert found == {**gates, "rnn.weight_hh": "val_5"}
    assert "LSTM holds its gates in ONNX's order, i, o, f, c" in onnxscope.inspect(proto).header()


NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(8, 5)

    def forward(self, x):
        return self.gru(self.lstm(x)[0])[0]
"""


@pytest.mark.parametrize(
    "options", [{"dynamo": True, "optimize": False}, {"dynamo": False, "do_constant_folding": False}]
)
def test_unfolded_exports_have_the_parameters_of_the_network(tmp_path, options):
    torch = pytest.importorskip("torch")
    made: dict = {}
    exec(NETWORK, made)
    net = made["Net"]().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(2, 7, 6),), tmp_path / "m.onnx", verbose=False, **options)
    model = load_model(tmp_path / "m.onnx")
    found = {parameter.name: parameter.shape for parameter in model.parameters if parameter.role != "constant"}
    assert found == {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert {parameter.layer for parameter in model.parameters} == {"lstm", "gru"}
    assert not model.absent


def sharing(nodes):
    """Layers of some legacy node names that share the weight `enc.0.norm.weight`."""
    text = " ".join(f"h{place + 1} = LayerNormalization (h{place}, w)" for place in range(len(nodes))).replace(
        "h0", "x"
    )
    proto = network(f"g (float[N, 3] x) => (float[N, 3] h{len(nodes)}) {{ {text} }}", {})
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "enc.0.norm.weight"))
    for node, (name, output) in zip(proto.graph.node, nodes, strict=True):
        node.name, node.input[1] = name, "enc.0.norm.weight"
        for reader in proto.graph.node:
            reader.input[:] = [output if output and value == node.output[0] else value for value in reader.input]
        node.output[0] = output or node.output[0]
    proto.graph.output[0].name = proto.graph.node[-1].output[0]
    model = load_model(proto)
    return [model.names.layers[node] for node in model.names.weighted]


def test_layers_that_share_a_weight_that_is_stored_once_have_their_own_scopes():
    scopes = ["/enc/enc.0/norm/LayerNormalization", "/enc/enc.1/norm/LayerNormalization", "/final/LayerNormalization"]
    assert sharing([(scope, "") for scope in scopes]) == ["enc.0.norm", "enc.1.norm", "final"]
    outputs = [("fused_0", ""), ("fused_1", "/enc/enc.1/norm/out_0"), ("fused_2", "/final/out_0")]
    assert sharing(outputs) == ["enc.0.norm", "enc.1.norm", "final"]


def test_a_layer_that_is_called_again_stays_the_same():
    assert sharing([("/norm/LayerNormalization", ""), ("/norm_1/LayerNormalization", "")]) == ["enc.0.norm"] * 2


@pytest.mark.parametrize("as_codes", [False, True])
def test_folded_exports_have_the_parameters_of_the_network(tmp_path, as_codes):
    torch = pytest.importorskip("torch")
    made: dict = {}
    exec(NETWORK, made)
    net = made["Net"]().eval()
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(2, 7, 6),), path, verbose=False, dynamo=False)
        if as_codes:  # of LSTM alone
            path = tmp_path / "quantized.onnx"
            quantize_dynamic(tmp_path / "m.onnx", path, extra_options={"DefaultTensorType": 1})
    model = load_model(path)
    expected = {name: value.numpy() for name, value in net.state_dict().items()}
    found = {parameter.name: parameter for parameter in model.parameters if parameter.role != "constant"}
    assert {name: parameter.shape for name, parameter in found.items()} == {n: v.shape for n, v in expected.items()}
    for name, parameter in found.items():
        is_code = as_codes and name.startswith("lstm.weight")
        assert (parameter.encoding is not None) == is_code
        gap = np.abs(expected[name]).max() / 127 if is_code else 0
        np.testing.assert_allclose(read_parameter(model, parameter), expected[name], atol=gap)
        assert parameter.channel_axis == (0 if "weight" in name else None)
    assert {parameter.layer for parameter in found.values()} == {"lstm", "gru"}


def test_what_another_program_stacks_stays_in_one():
    proto = network(
        "g (float[T, N, 3] x) => (float[T, 2, N, 2] y) {"
        ' [rnn] y = LSTM <direction = "bidirectional", hidden_size = 2> (x, val_1, val_2) }',
        {"val_1": (2, 8, 3), "val_2": (2, 8, 2)},
        producer="other",
    )
    assert {name: parameter.shape for name, parameter in names(proto).items()} == {
        "rnn.weight_ih": (2, 8, 3),
        "rnn.weight_hh": (2, 8, 2),
    }


def test_a_change_in_one_direction_is_told_of_that_direction():
    shapes = {"val_1": (2, 8, 3), "val_2": (2, 8, 2), "val_3": (2, 16)}
    text = """g (float[T, N, 3] x) => (float[T, 2, N, 2] y) {
        [rnn] y = LSTM <direction = "bidirectional", hidden_size = 2> (x, val_1, val_2, val_3) }"""
    first, second = network(text, shapes), network(text, shapes)
    for name, place in (("val_1", (1, 4, 2)), ("val_3", (0, 9))):
        (tensor,) = (tensor for tensor in second.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[place] += 0.5
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    changes = {change.a: change for change in onnxscope.diff(first, second).weights}
    assert {name: change.channels for name, change in changes.items()} == {
        "rnn.weight_ih_l0_reverse": (4,),
        "rnn.bias_hh_l0": (1,),
    }
    for name, change in changes.items():
        assert change.message.startswith(f"{name}: largest difference 0.5")
