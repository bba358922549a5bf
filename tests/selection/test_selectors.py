"""The selector grammar: which taps each form chooses, in which order, and what it says when it finds none."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxscope.base.name_patterns import matcher, select_names
from onnxscope.errors import SelectorError
from onnxscope.model.graphs import ValueType, walk_graphs
from onnxscope.model.loading import load_model
from onnxscope.selection.selectors import select_taps, tap_values


def parsed(text, names=(), **initializers):
    """A model from text, with node names and stored weights."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    for node, name in zip(model.graph.node, names, strict=False):
        node.name = name
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    return model


def values(model, *selectors, at="post"):
    return [tap.value for tap in select_taps(load_model(model), selectors, at=at)]


def layers(model, *selectors, at="post"):
    return [tap.layer for tap in select_taps(load_model(model), selectors, at=at)]


@pytest.fixture
def network():
    """Two blocks of convolution, BatchNorm and Relu, a skip connection around the second, and a classifier."""
    kernel = np.ones((3, 3, 1, 1))
    return parsed(
        """net (float[N, 3, 4, 4] x) => (float[N, 2] y) {
            c1 = Conv(x, w1)  n1 = BatchNormalization(c1, s, b, m, v)  r1 = Relu(n1)
            c2 = Conv(r1, w2)  n2 = BatchNormalization(c2, s, b, m, v)  a2 = Add(n2, r1)  r2 = Relu(a2)
            p = GlobalAveragePool(r2)  f = Flatten(p)  d = MatMul(f, w3)  y = Add(d, b3)
        }""",
        names=(
            *("/layer1/conv/Conv", "/layer1/bn/BatchNormalization", "/layer1/relu/Relu"),
            *("/layer2/conv/Conv", "/layer2/bn/BatchNormalization", "/layer2/Add", "/layer2/relu/Relu"),
            *("/pool/GlobalAveragePool", "/Flatten", "/fc/MatMul", "/fc/Add"),
        ),
        w1=kernel,
        w2=kernel,
        w3=np.ones((3, 2)),
        b3=[1, 2],
        s=np.ones(3),
        b=np.ones(3),
        m=np.ones(3),
        v=np.ones(3),
    )


def test_without_a_selector_every_convolution_is_tapped_after_its_activation(network):
    assert values(network) == ["r1", "c2"]  # an Add of two activations ends what follows the second
    assert values(network, at="pre") == ["c1", "c2"]
    assert layers(network) == ["layer1.conv", "layer2.conv"]


def test_without_convolutions_the_layers_with_weights_are_tapped_and_without_those_everything():
    dense = parsed(
        "g (float[2, 2] x) => (float[2, 2] y) { d = MatMul(x, w) a = Add(d, b) h = Relu(a) y = Neg(h) }",
        w=np.eye(2),
        b=[1, 2],
    )
    assert values(dense) == ["h"]
    assert values(dense, at="pre") == ["a"]
    assert values(parsed("g (float[2] x) => (float[2] y) { a = Neg(x) y = Neg(a) }")) == ["a", "y"]


def test_exclusions_alone_start_from_every_layer_that_has_weights(network):
    assert values(network, "!layer1.conv") == ["c2", "n2", "y"]


@pytest.mark.parametrize(
    ("selector", "post", "pre"),
    [
        ("layer1.conv", ["r1"], ["c1"]),
        ("layer1.bn", ["r1"], ["n1"]),
        ("layer1.relu", ["r1"], ["r1"]),
        ("layer2.conv", ["c2"], ["c2"]),
        ("layer1", ["r1"], ["r1"]),
        ("layer2", ["r2"], ["r2"]),
        ("layer*.conv", ["r1", "c2"], ["c1", "c2"]),
        ("layer?.relu", ["r1", "r2"], ["r1", "r2"]),
        ("layer[2-9].conv", ["c2"], ["c2"]),
        ("fc", ["y"], ["y"]),
        ("op:Conv", ["r1", "c2"], ["c1", "c2"]),
        ("op:*Pool", ["p"], ["p"]),
        ("node:/layer2/*/Conv", ["c2"], ["c2"]),
        ("/layer1/conv/Conv", ["r1"], ["c1"]),
        ("value:c1", ["c1"], ["c1"]),
        ("value:c*", ["c1", "c2"], ["c1", "c2"]),
        ("value:x", ["x"], ["x"]),
        ("value:w1", ["w1"], ["w1"]),
        ("a2", ["a2"], ["a2"]),
        ("re:layer\\d\\.conv", ["r1", "c2"], ["c1", "c2"]),
        ("re:[np]\\d?", ["n1", "n2", "p"], ["n1", "n2", "p"]),
        ("rank:2", ["f", "d", "y"], ["f", "d", "y"]),
    ],
)
def test_every_form_of_selector(network, selector, post, pre):
    assert values(network, selector) == post
    assert values(network, selector, at="pre") == pre


def test_rank_asks_for_inferred_ranks_where_the_model_declares_none(network, monkeypatch):
    ranks = {"c1": 4, "f": 2, "y": 7}
    types = {name: ValueType("float32", (None,) * rank, TensorProto.FLOAT, "tensor") for name, rank in ranks.items()}
    monkeypatch.setattr("onnxscope.model.loading.infer_types", lambda model: {(): types})
    assert values(network, "rank:4") == ["x", "c1"]
    assert values(network, "rank:2") == ["f", "y"]  # what the model declares holds


def test_nothing_is_inferred_where_the_model_declares_every_rank(monkeypatch):
    model = parsed("net (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }")
    monkeypatch.setattr("onnxscope.model.loading.infer_types", None)
    assert values(model, "rank:2") == ["x", "y"]


def test_several_selectors_give_each_value_once_in_execution_order(network):
    taps = select_taps(load_model(network), ["op:Relu", "value:r1", "fc", "layer1.conv", "value:x"])
    assert [tap.value for tap in taps] == ["x", "r1", "r2", "y"]
    assert [tap.at for tap in taps] == [None, "post", "post", "post"]


def test_a_tap_says_what_it_observes(network):
    (tap,) = select_taps(load_model(network), ["layer1.conv"])
    assert (tap.name, tap.value, tap.path, tap.layer, tap.op_type, tap.at, tap.channel_axis) == (
        *("r1", "r1", (), "layer1.conv", "Conv", "post"),
        1,
    )
    (tap,) = select_taps(load_model(network), ["layer2"])
    assert (tap.layer, tap.op_type, tap.at) == ("layer2", "Relu", None)
    (tap,) = select_taps(load_model(network), ["value:w1"])
    assert (tap.layer, tap.op_type, tap.at) == ("w1", "Initializer", None)
    (tap,) = select_taps(load_model(network), ["value:x"])
    assert (tap.layer, tap.op_type, tap.channel_axis) == ("x", "Input", 1)


@pytest.mark.parametrize(
    ("selectors", "chosen"),
    [
        (["op:Conv", "!layer1.conv"], ["c2"]),
        (["op:Conv", "!layer1.*"], ["c2"]),
        (["op:Conv", "!layer2"], ["r1"]),
        (["value:*", "!layer1", "!layer2", "!value:?"], []),
        (["value:*", "!value:[!rc]*"], ["c1", "r1", "c2", "r2"]),
        (["layer*", "!op:Conv", "!op:BatchNormalization", "!re:layer1.*"], ["r2"]),
    ],
)
def test_exclusions(network, selectors, chosen):
    if chosen:
        assert values(network, *selectors) == chosen
        return
    with pytest.raises(SelectorError, match=r"^the exclusions leave nothing to tap: net$"):
        values(network, *selectors)


def test_names_may_hold_brackets_stars_and_colons():
    model = parsed(
        "g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) c = Relu(b) y = Neg(c) }",
        names=("net[0]", "net[1]", "act*", "conv2d/Relu:0"),
    )
    assert values(model, "net[0]", at="pre") == ["a"]
    assert values(model, "node:net[1]", at="pre") == ["b"]
    assert values(model, "net[[]*", at="pre") == ["a", "b"]
    assert values(model, "act*", at="pre") == ["c"]
    assert values(model, "conv2d/Relu:0", at="pre") == ["y"]


def test_matchers():
    assert matcher("a*c")("abc")
    assert not matcher("a*c")("abcd")
    assert not matcher("A")("a")
    assert matcher("a[0]")("a[0]")
    assert matcher("a[0]")("a0")
    assert matcher("re:a|b")("b")
    assert not matcher("re:a")("ab")
    assert matcher("a.b")("a.b")
    assert not matcher("a.b")("axb")


def test_a_layer_called_twice_has_a_tap_per_call():
    model = parsed(
        "g (float[2, 2] x) => (float[2, 2] y) { a = MatMul(x, w) h = Relu(a) b = MatMul(h, w) y = Relu(b) }",
        names=("/fc/MatMul", "/act/Relu", "/fc_1/MatMul", "/act_1/Relu"),
    )
    model.graph.initializer.append(numpy_helper.from_array(np.eye(2, dtype=np.float32), "fc.weight"))
    model.graph.node[0].input[1] = model.graph.node[2].input[1] = "fc.weight"
    assert values(model, "fc") == ["h", "y"]
    assert layers(model, "fc") == ["fc", "fc"]
    assert values(model, "fc", at="pre") == ["a", "b"]


def test_a_module_may_hand_out_several_values():
    model = parsed(
        "g (float[2] x) => (float[2] y) { a = Neg(x) b = Abs(a) y = Add(a, b) }",
        names=("/enc/one/Neg", "/enc/two/Abs", "/dec/Add"),
    )
    assert values(model, "enc") == ["a", "b"]


def test_every_output_of_a_node_is_tapped_but_of_a_layer_only_its_first():
    model = parsed(
        """g (float[4, 1, 2] x) => (float[2, 1, 2] l) {
            l, r = Split(x, sizes)  o, h = GRU<hidden_size=2>(x, w, u)
        }"""
    )
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([2, 2]), "sizes"),
            numpy_helper.from_array(np.ones((1, 6, 2), np.float32), "w"),
            numpy_helper.from_array(np.ones((1, 6, 2), np.float32), "u"),
        ]
    )
    assert values(model, "op:Split") == ["l", "r"]
    assert values(model, "op:GRU") == ["o"]


def test_an_initializer_that_is_an_input_too_is_tapped_by_its_name_only():
    model = parsed("g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }", w=[1, 2])
    assert values(model, "value:*") == ["x", "y"]
    assert values(model, "value:w") == ["w"]
    assert values(model, "rank:1") == ["x", "y"]


CONDITIONAL = """g (bool c, float[2] x) => (float[2] y, float[2] z) {
    y = If(c) <then_branch = t1 () => (float[2] p) { h = Neg(x) p = Relu(h) },
               else_branch = e1 () => (float[2] q) { h = Abs(x) q = Relu(h) }>
    z = If(c) <then_branch = t2 () => (float[2] r) { k = Neg(y) r = Relu(k) },
               else_branch = e2 () => (float[2] s) { s = Abs(y) }>
}"""


def names_of(model, *selectors):
    return [tap.name for tap in select_taps(load_model(model), selectors)]


def test_values_inside_bodies_are_named_by_their_owner_where_names_are_shared():
    model = parsed(CONDITIONAL, names=("first", "second"))
    assert names_of(model, "value:h") == ["first/then_branch/h", "first/else_branch/h"]
    assert names_of(model, "value:first/else_branch/h") == ["first/else_branch/h"]
    assert names_of(model, "value:k") == ["k"]
    assert names_of(model, "op:If") == ["y", "z"]
    assert sorted(names_of(model, "op:Relu")) == ["p", "q", "r"]


def test_owners_that_share_their_name_still_give_distinct_taps():
    model = parsed(CONDITIONAL, names=("cond", "cond"))
    second = model.graph.node[1].attribute[0].g
    second.node[0].output[0] = second.node[1].input[0] = "h"
    assert names_of(model, "value:h") == ["cond/then_branch@0/h", "cond/else_branch@0/h", "cond/then_branch@1/h"]


def test_taps_inside_bodies_stand_in_execution_order():
    model = parsed(CONDITIONAL, names=("first", "second"))
    first, second = model.graph.node
    model.graph.ClearField("node")
    model.graph.node.extend([second, first])  # stored out of order
    assert names_of(model, "value:k", "value:first/then_branch/h") == ["first/then_branch/h", "k"]


def labelled(model):
    """The model with nodes named as an exporter does, by the layer that leads the name of their first output."""
    for graph in walk_graphs(model.graph):
        for node in graph.node:
            layer, _, rest = node.output[0].partition("_")
            if rest:
                node.name = f"/{layer}/{node.op_type}"
    return model


LAYERS = {
    "float": "fc_m = MatMul(x, w)  fc_b = Add(fc_m, bias)  act_r = Relu(fc_b)",
    "dequantized": "fc_d = DequantizeLinear(k, s)  fc_m = MatMul(x, fc_d)  act_r = Relu(fc_m)",
    "quantized": """
        fc_q = QuantizeLinear(x, s, z)  fc_x = DequantizeLinear(fc_q, s, z)  fc_d = DequantizeLinear(k, s)
        fc_m = MatMul(fc_x, fc_d)  fc_o = QuantizeLinear(fc_m, s, z)  act_r = DequantizeLinear(fc_o, s, z)""",
    "integers": """
        fc_q, fc_s, fc_z = DynamicQuantizeLinear(x)  fc_i = MatMulInteger(fc_q, k, fc_z)
        fc_c = Cast<to = 1>(fc_i)  fc_p = Mul(fc_s, s)  act_r = Mul(fc_c, fc_p)""",
    "no weight": "fc_s = Sigmoid(x)  fc_m = Mul(x, fc_s)  act_r = Neg(fc_m)",
}
STORED = """<float[2, 2] w = {1, 2, 3, 4}, float[2] bias = {1, 2}, int8[2, 2] k = {1, 2, 3, 4}, float s = {0.5},
    uint8 z = {0}>"""


@pytest.mark.parametrize("at", ["post", "pre"])
@pytest.mark.parametrize("selector", ["fc", "act", "f*", "re:fc|act", "!act"])
@pytest.mark.parametrize("nodes", LAYERS.values(), ids=LAYERS.keys())
def test_a_layer_in_a_body_is_tapped_where_the_same_layer_of_the_main_graph_is(nodes, selector, at):
    main = labelled(parsed(f"g (float[N, 2] x) => (float[N, 2] y) {STORED} {{ {nodes}  y = Concat<axis = 0>(act_r) }}"))
    body = labelled(
        parsed(f"""g (bool c, float[N, 2] x) => (float[N, 2] out) {STORED} {{ out = If(c) <
            then_branch = t () => (float[N, 2] y) {{ {nodes}  y = Concat<axis = 0>(act_r) }},
            else_branch = e () => (float[N, 2] n) {{ n = Identity(x) }}> }}""")
    )
    selectors = ["fc", "value:y", selector] if selector.startswith("!") else [selector]
    taps = [
        [(tap.value, tap.layer, tap.op_type, tap.at) for tap in select_taps(load_model(model), selectors, at=at)]
        for model in (main, body)
    ]
    assert taps[0] == taps[1]
    assert len(taps[0]) == len({layer for _, layer, *_ in taps[0]}) > 0


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ("layer1.conb", "layer1.conv"),
        ("LAYER2", "layer2"),
        ("op:Conf", "op:Conv"),
        ("node:/layer1/conv/Con", "node:/layer1/conv/Conv"),
        ("value:c3", "value:c1"),
        ("value:xx", "value:x"),  # an input
        ("xx", "x"),
    ],
)
def test_a_selector_that_matches_nothing_lists_the_closest_names(network, selector, hint):
    with pytest.raises(SelectorError) as caught:
        values(network, selector)
    assert str(caught.value) == f"nothing matches the selector {selector!r}: net"
    assert caught.value.hint.startswith("closest names: ")
    assert hint in caught.value.hint.removeprefix("closest names: ").partition(";")[0].split(", ")
    assert caught.value.hint.endswith("; `onnxscope inspect net` lists the layers")


def test_a_selector_far_from_every_name_still_says_where_to_look(network):
    with pytest.raises(SelectorError) as caught:
        values(network, "rank:9")
    assert str(caught.value) == "nothing matches the selector 'rank:9': net"
    assert caught.value.hint == "`onnxscope inspect net` lists the layers"


def test_an_exclusion_that_matches_nothing_is_an_error(network):
    with pytest.raises(SelectorError, match=r"^nothing matches the selector 'nowhere': net$"):
        values(network, "op:Conv", "!nowhere")


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("", "an empty selector: ''"),
        ("!", "an empty selector: '!'"),
        ("rank:four", "rank is not a number: 'rank:four'"),
        ("rank:-1", "rank is not a number: 'rank:-1'"),
    ],
)
def test_malformed_selectors(network, selector, message):
    with pytest.raises(SelectorError) as caught:
        values(network, selector)
    assert str(caught.value) == message


def test_a_broken_regular_expression_is_an_error(network):
    with pytest.raises(SelectorError) as caught:
        values(network, "re:(")
    assert str(caught.value).startswith("not a regular expression (")
    assert str(caught.value).endswith("): 're:('")


def test_control_characters_in_a_selector_do_not_reach_the_message(network):
    with pytest.raises(SelectorError) as caught:
        values(network, "evil\x1b[31m")
    assert "\x1b" not in str(caught.value)


CANDIDATES = [
    ("conv1.weight", "conv1", "w0"),
    ("conv1.bias", "conv1", "b0"),
    ("layer1.0.conv1.weight", "layer1.0.conv1", "onnx::Conv_3"),
    ("block/dense/kernel", "block/dense", "k"),
]


@pytest.mark.parametrize(
    ("selectors", "chosen"),
    [
        ([], [0, 1, 2, 3]),
        (["conv1"], [0, 1]),
        (["conv1.bias"], [1]),
        (["layer1"], [2]),
        (["block"], [3]),
        (["*.weight"], [0, 2]),
        (["value:w0"], [0]),
        (["re:.*conv1"], [0, 1, 2]),
        (["k", "conv1"], [0, 1, 3]),
        (["!*.bias"], [0, 2, 3]),
        (["*conv1*", "!layer1"], [0, 1]),
    ],
)
def test_choosing_weights_by_any_of_their_names(selectors, chosen):
    assert select_names(CANDIDATES, selectors, where="net") == chosen


def test_a_weight_selector_that_matches_nothing_lists_the_closest_names():
    with pytest.raises(SelectorError, match=r"^nothing matches the selector 'conv2\.weight': net$") as caught:
        select_names(CANDIDATES, ["conv2.weight"], where="net")
    assert "conv1.weight" in caught.value.hint


def test_a_model_of_constants_only_has_taps_too():
    node = helper.make_node("Constant", [], ["y"], value_floats=[1.0])
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    assert values(model) == ["y"]


@pytest.mark.parametrize("name", ["re:x", "re:x[", "a[0]", "!x", "value:x", "op:*"])
def test_a_value_that_is_known_is_tapped_whatever_it_is_called(name):
    model = parsed("g (float[N] x) => (float[N] y) { h = Relu(x)  a0 = Neg(h)  y = Abs(a0) }")
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = name
    taps = tap_values(load_model(model), [((), "y"), ((), name), ((), "x")])
    assert list(taps) == [((), "x"), ((), name), ((), "y")]
    assert [(tap.name, tap.value, tap.op_type, tap.at) for tap in taps.values()] == [
        ("x", "x", "Input", None),
        (name, name, "Relu", None),
        ("y", "y", "Abs", None),
    ]


def test_a_known_value_is_that_of_its_own_body():
    model = load_model(
        parsed(
            """g (float[N] x, bool c) => (float[N] y) {
                y = If (c) <
                    then_branch = t () => (float[N] a) { a = Relu(x) },
                    else_branch = e () => (float[N] a) { a = Neg(x) }
                >
            }"""
        )
    )
    bodies = [path for path in model.graphs if path]
    assert len(bodies) == 2
    taps = tap_values(model, [(path, "a") for path in bodies])
    assert [(tap.path, tap.value) for tap in taps.values()] == [(path, "a") for path in bodies]
    assert {tap.op_type for tap in taps.values()} == {"Relu", "Neg"}
    assert len({tap.name for tap in taps.values()}) == 2


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "a{99999999999}"], ids=["deep", "repeated"])
def test_a_regular_expression_that_is_too_much_is_an_error(network, pattern):
    with pytest.raises(SelectorError, match=r"^not a regular expression \("):
        values(network, f"re:{pattern}")
