"""Which layers do the work: what is looked at where nothing was selected."""

from __future__ import annotations

import numpy as np
import onnx.parser
from onnx import numpy_helper

from onnxscope.analyses.feature_maps import features
from onnxscope.model.loading import load_model
from onnxscope.profiling.dataset_run import stats
from onnxscope.reporting.reports import report
from onnxscope.selection.selectors import select_taps
from onnxscope.selection.working_layers import note_on_default, working_layers


def network(text, shapes):
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return proto


def labels(proto):
    return [node.label for node in working_layers(load_model(proto))]


VIT = (
    """g (float[N, 3, 16, 16] x) => (float[N, 5] y) <int64[3] tokens = {0, 32, -1}, int64 first = {0}> {
    [patches] p = Conv <strides = [4, 4]> (x, k)  r = Reshape (p, tokens)  t = Transpose <perm = [0, 2, 1]> (r)
    [norm] n = LayerNormalization (t, g1, g2)  [up] u = MatMul (n, w)  a = Relu (u)  [down] d = MatMul (a, v)
    c = Gather <axis = 1> (d, first)  [head] y = Gemm (c, h) }""",
    {"k": (32, 3, 4, 4), "g1": (32,), "g2": (32,), "w": (32, 128), "v": (128, 32), "h": (32, 5)},
)


def test_linear_layers_over_tokens_are_looked_at_beside_the_convolution_before_them():
    assert labels(network(*VIT)) == ["patches", "up", "down"]


def test_a_classifier_behind_convolutions_is_left_out():
    proto = network(
        """g (float[N, 3, 16, 16] x) => (float[N, 9] y) {
        [one] a = Conv (x, k)  [norm] b = BatchNormalization (a, s, s, s, v)  f = Flatten (b)
        [head] h = Gemm (f, w)  [last] y = Gemm (h, u) }""",
        {"k": (4, 3, 3, 3), "s": (4,), "w": (4 * 14 * 14, 16), "u": (16, 9)},
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "v"))
    assert labels(proto) == ["one"]


def test_linear_layers_that_do_most_of_the_work_are_no_mere_classifier():
    proto = network(
        """g (float[N, 3, 4, 4] x) => (float[N, 9] y) {
        [one] a = Conv (x, k)  f = Flatten (a)  [wide] h = Gemm (f, w)  [last] y = Gemm (h, u) }""",
        {"k": (4, 3, 3, 3), "w": (4 * 2 * 2, 500), "u": (500, 9)},
    )
    assert labels(proto) == ["one", "wide", "last"]


def test_recurrent_layers_and_attention_are_layers():
    proto = network(
        """g (float[N, 8, T] x) => (float[N, T, 8] y) {
        [one] a = Conv (x, k)  t = Transpose <perm = [2, 0, 1]> (a)  [rnn] r = LSTM <hidden_size = 8> (t, w, v)
        s = Squeeze (r, axis)  q = Transpose <perm = [1, 0, 2]> (s)
        [attn] y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, q, q) }""",
        {"k": (8, 8, 1), "w": (1, 32, 8), "v": (1, 32, 8)},
    )
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    assert labels(proto) == ["one", "rnn", "attn"]


def test_models_of_one_kind_keep_all_of_it():
    alone = network("g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { [c] y = Conv (x, k) }", {"k": (4, 3, 3, 3)})
    assert labels(alone) == ["c"]
    linear = network(
        "g (float[N, 3] x) => (float[N, 3] y) { [l] h = MatMul (x, w)  [n] y = LayerNormalization (h, s) }",
        {"w": (3, 3), "s": (3,)},
    )
    assert labels(linear) == ["l", "n"]


def test_what_was_not_looked_at_is_said_in_one_line_by_every_command():
    model = load_model(network(*VIT))
    (note,) = note_on_default(model, [], [tap.layer for tap in select_taps(model, [])])
    assert note.startswith("1 layer with weights is left out, ")
    assert note.endswith("`-s head`")
    assert note_on_default(model, ["op:Conv"], ["patches"]) == ()
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
    maps = features(model, x)
    assert [tap.tap.layer for tap in maps.taps] == ["patches", "up", "down"]
    for found in (maps, stats(model, x), report(model, x).content):
        assert [told for told in found.notes if "left out" in told] == [note]
    assert not [told for told in features(model, x, select="op:Conv").notes if "left out" in told]


def test_exclusions_alone_start_from_every_layer_and_nothing_is_told():
    model = load_model(network(*VIT))
    taps = select_taps(model, ["!patches"])
    assert {tap.layer for tap in taps} == {"norm", "up", "down", "head"}
    assert note_on_default(model, ["!patches"], [tap.layer for tap in taps]) == ()


def test_a_weight_of_packed_numbers_counts_one_by_one():
    proto = network(
        """g (float[N, 4, 2, 2] x) => (float[N, 4] y) {
        [one] a = Conv (x, k)  [two] b = Conv (a, k)  f = Flatten (b)
        [head] y = com.microsoft.MatMulNBits <K = 16, N = 4, bits = 4, block_size = 16> (f, q, s) }""",
        {"k": (4, 4, 1, 1), "s": (4,)},
    )
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 1, 8), np.uint8), "q"))
    assert labels(proto) == ["one", "two"]


def attention(tokens):
    """Attention written out over a number of tokens, with a classifier's Softmax at the end."""
    heads = "0, 0, 2, 4"
    parts = " ".join(
        f"[{part}] {part}_m = MatMul (x, w_{part}) {part}_r = Reshape ({part}_m, heads) "
        f"{part}_t = Transpose <perm = [{order}]> ({part}_r)"
        for part, order in (("query", "0, 2, 1, 3"), ("key", "0, 2, 3, 1"), ("value", "0, 2, 1, 3"))
    )
    return network(
        f"""g (float[N, {tokens}, 8] x) => (float[N, {tokens}, 3] y)
        <int64[4] heads = {{{heads}}}, int64[3] whole = {{0, 0, 8}}, float half = {{0.5}}> {{ {parts}
        s = MatMul (query_t, key_t) d = Mul (s, half) [scores] p = Softmax <axis = -1> (d) c = MatMul (p, value_t)
        t = Transpose <perm = [0, 2, 1, 3]> (c) r = Reshape (t, whole)
        [out] o = MatMul (r, w_out) [classes] y = Softmax <axis = -1> (o) }}""",
        {"w_query": (8, 8), "w_key": (8, 8), "w_value": (8, 8), "w_out": (8, 3)},
    )


def test_the_scores_of_an_attention_that_is_written_out_are_looked_at():
    proto = attention(5)
    assert labels(proto) == ["query", "key", "value", "scores", "out"]
    model = load_model(proto)
    assert note_on_default(model, [], [tap.layer for tap in select_taps(model, [])]) == ()
    x = np.random.default_rng(2).normal(size=(3, 5, 8)).astype(np.float32)
    (row,) = [row for row in features(model, x).taps if row.tap.op_type == "Softmax"]
    assert row.to_dict()["shape"] == [3, 2, 5, 5]
    assert labels(attention("T")) == ["query", "key", "value", "scores", "out"]
    assert labels(attention(2048)) == ["query", "key", "value", "out"]  # eight million for a sample: none looks at that


def test_sizes_whose_names_are_no_words_are_bound_by_their_places():
    """As PaddlePaddle's exporter leaves them."""
    proto = network(
        """g (float[N, 3, height, width] x) => (float[N, 9] y) {
        [one] a = Conv (x, k)  p = GlobalAveragePool (a)  f = Flatten (p)  [head] y = Gemm (f, w) }""",
        {"k": (4, 3, 3, 3), "w": (4, 9)},
    )
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "?"
    assert labels(proto) == ["one"]
