"""A part by itself does what it does in the model: onnxruntime on the whole, onnx's own evaluator on the part."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import small_networks
from nested_models import GROWING
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

import onnxscope
from onnxscope.errors import InputError, RunError
from onnxscope.model.tensors import every_tensor

ENCODER = small_networks.transformer()
LAYERS = {
    "convolutions": ["op:Conv", "op:Gemm", "op:BatchNormalization", "op:AveragePool"],
    "residual": ["op:Add", "op:Resize", "op:ConvTranspose", "op:GroupNormalization"],
    "transformer": ["op:LayerNormalization", "value:q1", "value:o3", "value:p", "value:g"],
    "recurrent": ["op:LSTM", "op:GRU", "op:Gemm"],
    "bodies": ["value:u0", "value:t1", "op:Loop", "value:after", "op:If"],
    "quantized_pairs": ["op:Conv", "op:MatMul", "op:GlobalAveragePool"],
    "function_calls": ["op:*"],
}


def network(name):
    return getattr(small_networks, name)()


def inline(part) -> ModelProto:
    """The part with the bytes of its weights, for other programs."""
    proto = ModelProto()
    proto.CopyFrom(part.model.proto)
    for tensor in every_tensor(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.numpy_helper.from_array(part.model.array(tensor), tensor.name))
    if any(node.op_type == "DequantizeLinear" for node in proto.graph.node):
        proto.opset_import[0].version = 21  # onnx's evaluator knows no earlier one of it
    return proto


def in_the_whole(model: ModelProto, feeds, values):
    """What plain onnxruntime gives for values of the main graph."""
    tapped = ModelProto()
    tapped.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    tapped.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in values if name not in known)
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(values, session.run(list(values), feeds), strict=True))


@pytest.mark.parametrize(("name", "selector"), [(name, one) for name, several in LAYERS.items() for one in several])
def test_every_layer_gives_by_itself_what_it_gave_in_the_model(name, selector):
    whole = network(name)
    part = onnxscope.extract(whole.model, whole.feeds, select=selector)
    assert part.reproduces
    onnx.checker.check_model(inline(part), full_check=True)
    fed = {value.name: value.value for value in part.inputs}
    judged = ReferenceEvaluator(inline(part)).run([value.name for value in part.outputs], fed)
    for value, expected in zip(part.outputs, judged, strict=True):
        np.testing.assert_allclose(value.value, expected, rtol=2e-4, atol=2e-4, err_msg=value.name)
        assert value.max_abs <= 1e-5
    if not part.part.path and name != "function_calls":
        recorded = in_the_whole(whole.model, whole.feeds, [*fed, *(value.name for value in part.outputs)])
        for value in (*part.inputs, *part.outputs):
            np.testing.assert_allclose(value.value, recorded[value.name], rtol=1e-5, atol=1e-6)


def test_a_part_holds_what_it_needs_and_each_weight_once():
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]>
        net (float[N, 2] x) => (float[N, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, float[2, 2] unused = {0, 0, 0, 0}, float half = {0.5}> {
            k = Mul(w, half)
            a = MatMul(x, k)  b = MatMul(a, k)  c = MatMul(b, w)  y = Relu(c)
        }""")
    part = onnxscope.extract(model, {"x": np.ones((3, 2), np.float32)}, start=["x"], end=["c"])
    proto = part.model.proto
    assert [tensor.name for tensor in proto.graph.initializer].count("w") == 1
    assert {tensor.name for tensor in proto.graph.initializer} == {"w", "half"}
    assert [node.op_type for node in proto.graph.node] == ["Mul", "MatMul", "MatMul", "MatMul"]
    assert [(value.name, value.type.tensor_type.shape.dim[0].dim_param) for value in proto.graph.input] == [("x", "N")]
    assert proto.opset_import == model.opset_import
    assert [(entry.key, entry.value) for entry in proto.metadata_props] == [("onnxscope.part", "c of net")]
    kernel = np.array([[1, 2], [3, 4]])
    np.testing.assert_allclose(part.outputs[0].value, np.ones((3, 2)) @ (kernel / 2) @ (kernel / 2) @ kernel)


def test_the_first_round_of_a_body_is_recorded():
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        net (float[2, 2] x, int64 n) => (float[2, 2] y) <bool go = {1}, float[2, 2] w = {0.5, 1, 2, -1}> {
            y = Loop(n, go, x) <body = b (int64 i, bool c, float[2, 2] s) => (bool more, float[2, 2] next) {
                more = Identity(c)
                [inner] m = MatMul(s, w)
                next = Tanh(m)
            }>
        }""")
    x = np.array([[1, 2], [3, 4]], np.float32)
    part = onnxscope.extract(model, {"x": x, "n": np.array(3)}, select="inner")
    np.testing.assert_array_equal(part.inputs[0].value, x)
    np.testing.assert_allclose(part.outputs[0].value, np.tanh(x @ [[0.5, 1], [2, -1]]), rtol=1e-6)
    assert "the part lies in a body, of which the first round is recorded" in part.notes
    with pytest.raises(InputError, match="'s' was not computed on this input: net") as caught:
        onnxscope.extract(model, {"x": x, "n": np.array(0)}, select="inner")
    assert caught.value.hint == "the loop that holds it made no round; feed what makes one"


def test_a_value_that_grows_from_round_to_round_is_no_part_by_itself():
    model, feeds = onnx.parser.parse_model(GROWING), {"x": np.ones(2, np.float32), "n": np.array(3)}
    with pytest.raises(RunError, match="its shape changes from one iteration to the next") as caught:
        onnxscope.extract(model, feeds, select="value:next")
    assert caught.value.hint == "`--select` takes the node around the body as a whole"
    np.testing.assert_array_equal(onnxscope.extract(model, feeds, select="op:Loop").outputs[0].value, np.ones(16))


def test_a_branch_that_was_not_taken_is_no_part():
    whole = network("bodies")
    with pytest.raises(InputError, match="was not computed on this input: net") as caught:
        onnxscope.extract(whole.model, whole.feeds, select="value:v0")
    assert caught.value.hint == "the else_branch that holds it was not taken; feed what takes it"


def test_without_data_the_part_alone_is_fed_random_numbers():
    part = onnxscope.extract(ENCODER.model, select="MatMul_0")
    assert part.fed == "part"
    assert part.reproduces
    assert part.input["kind"] == "random"
    assert part.notes[-1] == "the part alone was run: `-i` names what the whole model is fed"
    (fed,), (given,) = part.inputs, part.outputs
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in ENCODER.model.graph.initializer}
    expected = fed.value.astype(np.float64) @ weights["wq"] + weights["bq"]
    np.testing.assert_allclose(given.value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(fed.value, onnxscope.extract(ENCODER.model, select="MatMul_0").inputs[0].value)


def test_what_is_random_is_said_not_to_reproduce():
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        net (float[N, 2] x) => (float[N, 2] y) { r = RandomNormalLike(x)  [sum] y = Add(x, r) }""")
    feeds = {"x": np.ones((4, 2), np.float32)}
    assert onnxscope.extract(model, feeds, select="sum").reproduces  # what was drawn reaches it as data
    part = onnxscope.extract(model, feeds, start=["x"], end=["y"])
    assert not part.reproduces
    assert part.notes[-1].startswith("'y' does not reproduce: it depends on RandomNormalLike(r), which draws")
    assert "differs" in part.table().text()


def test_sequences_optionals_and_strings_reach_a_part():
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        net (float[2] x, string[3] words) => (seq(float[2]) out, float[2] y, string[M] w, bool there) {
            s = SequenceConstruct(x, x)
            o = Optional(x)
            [insert] out = SequenceInsert(s, x)
            at = Constant <value_int = 1> ()
            [take] y = SequenceAt(s, at)
            t = Identity(words)
            [joined] w = Concat <axis = 0> (t, words)
            [asked] there = OptionalHasElement(o)
        }""")
    feeds = {"x": np.array([1, 2], np.float32), "words": np.array(["a", "bc", ""])}
    for selector in ("insert", "take", "joined", "asked"):
        part = onnxscope.extract(model, feeds, select=selector)
        assert part.reproduces, selector
        onnx.checker.check_model(part.model.proto, full_check=True)
    assert [value.dtype for value in onnxscope.extract(model, feeds, select="insert").outputs] == ["sequence"]


def test_an_unknown_operator_is_named():
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17, "mine": 1]>
        net (float[N, 2] x) => (float[N, 2] y) { [odd] h = mine.Odd(x)  [next] y = Relu(h) }""")
    with pytest.raises(RunError, match=r"mine\.Odd, an operator that onnxruntime does not know"):
        onnxscope.extract(model, {"x": np.ones((1, 2), np.float32)}, select="odd")


def test_what_cannot_be_recorded_or_made_up_is_refused():
    text = """<ir_version: 9, opset_import: ["": 17, "mine": 1]>
        net (float[N, 2] x) => (float[N, 2] y) { h = mine.Odd(x)  [next] y = Relu(h) }"""
    with pytest.raises(InputError, match="nothing tells the type of 'h', so no random numbers: net") as caught:
        onnxscope.extract(onnx.parser.parse_model(text), select="next")
    assert "`-i`" in caught.value.hint
    whole = network("trees")
    with pytest.raises(InputError, match="held a map, which onnx's test data cannot hold: 'map': "):
        onnxscope.extract(whole.model, whole.feeds, select="value:map")
