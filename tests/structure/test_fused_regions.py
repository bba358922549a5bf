"""An operator of one model that stands for several nodes of the other, and where it is compared."""

from __future__ import annotations

import attention_models
import numpy as np
import onnx
import pytest
from attention_models import DENSE, FED, HEADS, MICROSOFT, PARTS, normal, packed, parsed
from onnx import helper
from onnxruntime.quantization import quantize_dynamic
from plain_runs import outputs_of

from onnxscope import diff


def both_ways(a, b):
    return ((a, b), (b, a))


def value_of(model, name):
    """What plain onnxruntime gives for a value."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.insert(0, onnx.ValueInfoProto(name=name))
    return outputs_of(copy, FED)[0]


def with_scale(model, scale):
    """The model with another factor for the scores of its attention."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (node,) = (node for node in copy.graph.node if "Attention" in node.op_type)
    node.attribute.append(helper.make_attribute("scale", scale))
    return copy


def told_by_ends(weight=None):
    """Attention by an operator that its mask, of the starts and ends of rows, keeps from being taken apart."""
    stored = packed() | DENSE | {"m": np.array([5, 5, 0, 0], np.int32)}
    stored["self_qkv_weight"] = stored["self_qkv_weight"] if weight is None else weight
    nodes = f"c = {MICROSOFT}.Attention<num_heads = {HEADS}>(x, self_qkv_weight, self_qkv_bias, m)"
    return attention_models.named(parsed(f"{nodes} y = MatMul(c, dense__weight)", stored, "float[2, s, 8] x"))


def of_two():
    """Attention written out, for as many rows as the mask above tells of."""
    model = attention_models.unfused()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    return model


@pytest.mark.parametrize("fuse", [attention_models.fused, attention_models.biased])
def test_without_data_it_is_undecided_and_nothing_else_is_told(fuse):
    for a, b in both_ways(attention_models.unfused(), fuse()):
        result = diff(a, b)
        (part,), (undecided,) = result.fused, result.undecided
        assert (result.verdict, result.counted_structure, part.layers) == ("undecided", (), ())
        assert [change.fused for change in result.structure] == [part]
        assert "stands for" in undecided.reason
        assert "-i names" in undecided.reason
        assert "1 fused operator cannot be judged" in result.summary()
        for word in ("MatMul", "Div", "Softmax"):
            assert word in undecided.reason


@pytest.mark.parametrize("fuse", [attention_models.fused, attention_models.biased])
def test_it_is_compared_at_what_it_gives(fuse):
    for a, b in both_ways(attention_models.unfused(), fuse()):
        result = diff(a, b, FED)
        (part,) = result.fused
        assert (result.verdict, part.model) == ("equal", "b" if b.graph.node[-2].domain else "a")
        assert set(part.compared_at) == {"r", "a"}
        (row,) = (row for row in result.layers if (row.a.name, row.b.name) == part.compared_at)
        assert [one.a.layer for one in result.layers].index(row.a.layer) == len(
            result.layers
        ) - 2  # in front of `dense`
        assert "compared at" in result.changes_table().text()
        assert result.to_dict()["fused"][0]["compared_at"] == dict(zip("ab", part.compared_at, strict=True))
        assert result.summary() == "equal: 4 layers, 1 fused operator and 1 output"


@pytest.mark.parametrize("fuse", [attention_models.fused, attention_models.biased])
def test_what_it_does_otherwise_is_its_own_fault(fuse):
    model, copy = attention_models.unfused(), with_scale(fuse(), 0.1)
    result = diff(model, copy, FED)
    (guilty,) = result.guilty
    expected, found = value_of(model, "r"), value_of(copy, "a")
    ratio = np.linalg.norm(expected - found) / np.linalg.norm(expected)
    assert guilty.own.relative_l2 == pytest.approx(ratio, rel=1e-4)
    assert result.first_divergence is guilty
    assert {guilty.a.name, guilty.b.name} == {"r", "a"}


def test_layers_inside_of_it_have_no_value_and_are_named():
    model, copy = of_two(), told_by_ends()
    for a, b in both_ways(model, copy):
        result = diff(a, b, FED)
        (part,) = result.fused
        assert part.layers == tuple(f"self.{name}" for name in PARTS)
        assert (result.verdict, result.only_a, result.only_b) == ("equal", (), ())
        assert "without values of their own: self.query, self.key, self.value" in result.changes_table().text()
        assert diff(a, b).verdict == "undecided"
    weight = packed()["self_qkv_weight"].copy()
    weight[3, 9] += 0.5
    changed = diff(model, told_by_ends(weight), FED)
    assert changed.verdict == "differs"
    assert [row.b.name for row in changed.guilty] == ["c"]


def test_it_stands_for_nothing_that_reads_other_layers():
    stored = {f"{name}_weight": normal(8, 8) for name in PARTS}
    layers = " ".join(f"{name} = MatMul(x, {name}_weight)" for name in PARTS)
    heads = " ".join(
        f"{name}_r = Reshape({name}, heads) {name}_t = Transpose<perm = [{order}]>({name}_r)"
        for name, order in (("query", "0, 2, 1, 3"), ("key", "0, 2, 3, 1"), ("value", "0, 2, 1, 3"))
    )
    shapes = {"heads": np.array([0, 0, HEADS, 4]), "whole": np.array([0, 0, 8]), "root": np.float32(2)}
    model = parsed(
        f"{layers} {heads} s = MatMul(query_t, key_t) d = Div(s, root) p = Softmax<axis = -1>(d) "
        "c = MatMul(p, value_t) t = Transpose<perm = [0, 2, 1, 3]>(c) r = Reshape(t, whole) e = Add(r, query) "
        "f = Add(e, key) y = Add(f, value)",
        stored | shapes,
    )
    end = "e = Add(r, query) f = Add(e, key) y = Add(f, value)"

    def fused(*operands):
        attention = f"r = {MICROSOFT}.MultiHeadAttention<num_heads = {HEADS}>({', '.join(operands)})"
        return parsed(f"{layers} {attention} {end}", stored)

    for a, b in both_ways(model, fused("query", "key", "value")):
        assert diff(a, b, FED).equal
        assert diff(a, b).verdict == "undecided"
    for a, b in both_ways(model, fused("query", "query", "value")):
        result = diff(a, b)
        assert (result.verdict, result.fused) == ("differs", ())
        assert diff(a, b, FED).verdict == "differs"


def test_what_is_changed_outside_of_it_still_differs_without_data():
    copy = attention_models.fused()
    copy.graph.node[-1].output[0] = "z"
    copy.graph.node.append(helper.make_node("Relu", ["z"], ["y"]))
    for a, b in both_ways(attention_models.unfused(), copy):
        result = diff(a, b)
        assert (result.verdict, len(result.fused)) == ("differs", 1)
        assert any("Relu" in change.message or "activation" in change.message for change in result.counted_structure)


def test_layers_of_a_fused_node_say_so():
    rows = {row.a.layer: row for row in diff(attention_models.unfused(), attention_models.fused(), FED).layers}
    assert rows["self.query"].to_dict()["fused"] == {"a": None, "b": "inside Attention Attention_0"}
    assert rows["dense"].to_dict()["fused"] == {"a": None, "b": None}
    text = 'c = FusedConv<activation = "Relu">(x, w) y = Neg(c)'.replace("FusedConv", f"{MICROSOFT}.FusedConv")
    stored = {"w": normal(4, 3, 1, 1)}
    written = parsed("h = Conv(x, w) c = Relu(h) y = Neg(c)", stored, "float[b, 3, 2, 2] x", "float[b, 4, 2, 2] y")
    fused = parsed(text, stored, "float[b, 3, 2, 2] x", "float[b, 4, 2, 2] y")
    (row,) = diff(written, fused, {"x": normal(2, 3, 2, 2)}).layers
    assert (row.a.fused, row.b.fused) == (None, "fused (FusedConv): compared at c")
    assert "compared at c" in diff(written, fused, {"x": normal(2, 3, 2, 2)}).table().text()


def test_a_quantized_copy_is_compared_with_it_at_the_real_numbers(tmp_path):
    """What `dense` reads in the copy are codes, made when the model runs."""
    onnx.save(attention_models.unfused(), tmp_path / "m.onnx")
    quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx")
    copy = onnx.load(tmp_path / "q.onnx")
    assert "MatMulInteger" in {node.op_type for node in copy.graph.node}
    result = diff(attention_models.fused(), copy, FED)
    (part,) = result.fused
    assert part.compared_at == ("a", "r")
    (row,) = (row for row in result.layers if (row.a.name, row.b.name) == part.compared_at)
    expected, found = value_of(attention_models.fused(), "a"), value_of(copy, "r")
    ratio = 20 * np.log10(np.linalg.norm(expected) / np.linalg.norm(expected - found))
    assert abs(row.to_dict()["sqnr_db"] - ratio) < 0.5


def test_an_attention_of_onnx_that_reads_heads_is_one_too():
    """The nodes that turn query and value into heads are the same in both models, the key's are not."""
    layers = " ".join(f"{name} = MatMul(x, self__{name}__weight)" for name in PARTS)
    heads = "{name}_r = Reshape({name}, heads) {name}_t = Transpose<perm = [{order}]>({name}_r)"
    end = "t = Transpose<perm = [0, 2, 1, 3]>(c) r = Reshape(t, whole) y = MatMul(r, dense__weight)"
    stored = attention_models.WEIGHTS | DENSE | {"heads": np.array([0, 0, HEADS, 4]), "whole": np.array([0, 0, 8])}

    def model(middle, key_order, shapes):
        orders = zip(PARTS, ("0, 2, 1, 3", key_order, "0, 2, 1, 3"), strict=True)
        turned = " ".join(heads.format(name=name, order=order) for name, order in orders)
        return attention_models.named(parsed(f"{layers} {turned} {middle} {end}", stored | shapes, opset=23))

    written = "s = MatMul(query_t, key_t) d = Div(s, root) p = Softmax<axis = -1>(d) c = MatMul(p, value_t)"
    first = model(written, "0, 2, 3, 1", {"root": np.float32(2)})
    second = model("c = Attention(query_t, key_t, value_t)", "0, 2, 1, 3", {})
    for a, b in both_ways(first, second):
        assert (diff(a, b).verdict, len(diff(a, b).fused)) == ("undecided", 1)
        result = diff(a, b, FED)
        assert (result.verdict, result.fused[0].op_type) == ("equal", "Attention")
        assert result.fused[0].compared_at == ("c", "c")


def test_an_activation_function_stands_for_others_where_codes_cut_it_alone():
    """Written out with another number it is another function, which nobody needs data for."""
    gelu = "d = Div(m, root) e = Erf(d) p = Add(e, one) h = Mul(m, p) g = Mul(h, half)"
    stored = {"w": normal(8, 8), "v": normal(8, 3), "root": np.float32(2**0.5), "one": np.float32(1)}
    codes = {"s": np.float32(0.05), "z": np.uint8(128)}
    fused = parsed(f"m = MatMul(x, w) g = {MICROSOFT}.Gelu(m) y = MatMul(g, v)", stored)
    other = parsed(f"m = MatMul(x, w) {gelu} y = MatMul(g, v)", stored | {"half": np.float32(0.4)})
    assert (diff(fused, other).verdict, diff(fused, other).fused) == ("differs", ())
    cut = gelu.replace("p = Add(e, one)", "q = QuantizeLinear(e, s, z) f = DequantizeLinear(q, s, z) p = Add(f, one)")
    (part,) = diff(
        fused, parsed(f"m = MatMul(x, w) {cut} y = MatMul(g, v)", stored | codes | {"half": np.float32(0.5)})
    ).fused
    assert part.compared_at == ("g", "g")
