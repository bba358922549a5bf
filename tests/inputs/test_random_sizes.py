"""Random input finds sizes that run: from names, from the node that refuses, by doubling; or it says who refused."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxscope import features, load_model
from onnxscope.base.run_options import RunOptions
from onnxscope.datasets.dataset import open_dataset
from onnxscope.errors import InputError
from onnxscope.inputs.random_inputs import random_feeds

HEAD = '<ir_version: 9, opset_import: ["": 18]>'
CACHE = """
    g (int64[b, {s}] ids, float[b, {t}] bias, float[b, 2, {p}, 4] past)
      => (float[b, 2, all, 4] present, float[b, 2, {s}, q] scores)
    <float[10, 8] table, int64[4] heads = {{0, 0, 2, 4}}, int64[2] one = {{1, 2}}> {{
      new = Gather(table, ids)  split = Reshape(new, heads)  keys = Transpose<perm = [0, 2, 1, 3]>(split)
      present = Concat<axis = 2>(past, keys)  turned = Transpose<perm = [0, 1, 3, 2]>(present)
      products = MatMul(keys, turned)  wide = Unsqueeze(bias, one)  scores = Add(products, wide) }}"""


def model_of(text, **weights):
    model = onnx.parser.parse_model(HEAD + text)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in weights]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def cache(**names):
    table = np.random.default_rng(1).standard_normal((10, 8)).astype(np.float32)
    text = CACHE.format(**names).replace("float[10, 8] table, ", "")
    return model_of(text, table=table)


def opened(model, source="random", **dims):
    dataset = open_dataset(source, load_model(model, dims=dims or None), RunOptions())
    arrays = dataset.whole().arrays
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, arrays)
    return dataset, {name: array.shape for name, array in arrays.items()}


def test_a_mask_covers_past_and_present_whatever_its_dimension_is_called():
    dataset, shapes = opened(cache(s="s", t="t", p="p"))
    assert shapes == {"ids": (1, 8), "bias": (1, 16), "past": (1, 2, 8, 4)}
    assert dataset.record["dims"] == {"t": 16, "p": 8}
    assert dataset.notes[1:] == ("found what runs on random input: t=16, p=8; `--dim NAME=SIZE` sets a size",)


def test_a_cache_of_known_width_is_no_image_and_names_tell_its_relations():
    names = {"s": "sequence_length", "p": "past_sequence_length", "t": "total_sequence_length"}
    found = opened(cache(**names))[0].record["dims"]
    assert found == {"past_sequence_length": 8, "total_sequence_length": 16}
    dataset, shapes = opened(cache(**names), sequence_length=3, past_sequence_length=0)
    assert shapes == {"ids": (1, 3), "bias": (1, 3), "past": (1, 2, 0, 4)}
    assert dataset.record["dims"] == {
        "sequence_length": 3, "past_sequence_length": 0, "total_sequence_length": 3,
    }  # fmt: skip


def test_sums_of_symbols_follow_the_sizes_that_are_given():
    _, shapes = opened(onnx.ModelProto.FromString(_sum_model()), s15=5, s70=2)
    assert shapes == {"ids": (1, 2), "bias": (1, 7), "past": (1, 2, 5, 4)}


def _sum_model():
    model = cache(s="s70", t="t", p="s15")
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "s15 + s70"
    return model.SerializeToString()


WINDOWS = {
    "reshape": ("g (float[b, n, 96] x) => (float[1, 1536] y) <int64[2] to = {1, 1536}> { y = Reshape(x, to) }", 16, 16),
    "flattened": (
        "g (float[b, n, 8] x) => (float[b, 3] y) { f = Flatten(x)  y = Gemm(f, w) }",
        5,
        5,
    ),
    "added": ("g (float[b, n, 2] x) => (float[b, 24, 2] y) { y = Add(x, c) }", 24, 24),
    "reflected": (
        'g (float[b, n] x) => (float[b, m] y) <int64[4] by = {0, 64, 0, 64}> { y = Pad<mode = "reflect">(x, by) }',
        65,
        1 << 17,
    ),
    "convolved": ("g (float[b, 1, n] x) => (float[b, 1, m] y) { y = Conv(x, k) }", 400, 1 << 17),
    "framed": (
        "g (float[b, n, 1] x) => (float[b, f, 257, 2] y) <int64 step = {256}, int64 long = {512}> "
        "{ y = STFT(x, step, , long) }",
        512,
        1 << 17,
    ),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_what_a_node_asks_of_a_dimension_is_found(kind):
    text, least, most = WINDOWS[kind]
    rng = np.random.default_rng(1)
    weights = {
        "flattened": {"w": rng.standard_normal((40, 3)).astype(np.float32)},
        "added": {"c": rng.standard_normal((24, 2)).astype(np.float32)},
        "convolved": {"k": rng.standard_normal((1, 1, 400)).astype(np.float32)},
    }.get(kind, {})
    dataset, _ = opened(model_of(text, **weights))
    assert list(dataset.record["dims"]) == ["n"]
    assert least <= dataset.record["dims"]["n"] <= most


def test_a_height_that_a_chain_of_convolutions_must_end_at_is_found():
    rng = np.random.default_rng(1)
    kernels = {f"k{i}": rng.standard_normal((3, 3, 3, 3)).astype(np.float32) for i in range(3)}
    model = model_of(
        """g (float[b, 3, h, w] x) => (float[b, 3, 1, q] y) <int64[4] to = {0, 3, 1, -1}, int64[1] at = {2}> {
             a = Conv<strides = [4, 1], pads = [1, 1, 1, 1]>(x, k0)
             d = Conv<strides = [4, 1], pads = [1, 1, 1, 1]>(a, k1)
             f = Conv<strides = [2, 1], pads = [1, 1, 1, 1]>(d, k2)
             z = ReduceMean<keepdims = 1>(f, at)  y = Concat<axis = 1>(f, z) }""".replace(
            "[b, 3, 1, q] y", "[b, 6, 1, q] y"
        ),
        **kernels,
    )
    _, shapes = opened(model)
    assert shapes["x"][3] == 224
    assert math.ceil(math.ceil(math.ceil(shapes["x"][2] / 4) / 4) / 2) == 1


def test_a_dimension_rather_grows_than_shrinks():
    model = model_of("g (float[b, n] x, float[k, m] y) => (float[b, m] z) { z = MatMul(x, y) }")
    assert opened(model)[1] == {"x": (1, 8), "y": (8, 8)}


def test_a_rate_is_one_that_the_graph_compares_it_with():
    model = model_of(
        """g (float[b, n] x, int64 rate) => (float[b, m] y) <int64 known = {16000}> {
             is_known = Equal(rate, known)
             y = If(is_known) <
               then_branch = t () => (float[b, m] p) <int64[4] by = {0, 70, 0, 0}> { p = Pad<mode = "reflect">(x, by) },
               else_branch = e () => (float[b, m] q) <int64[2] to = {1, 7}> { q = Reshape(x, to) }
             > }"""
    )
    dataset, shapes = opened(model)
    assert dataset.whole().arrays["rate"] == 16000
    assert shapes["x"][1] > 70
    assert "rate is 16000" in dataset.notes[1]


def test_positions_count_on_from_the_past_and_lengths_are_those_of_what_is_fed():
    model = model_of(
        """g (int64[b, s] ids, int64[b, s] position_ids, int64[b, t] attention_mask, float[b, 1, p, 2] past_key,
              int64[b] seqlens_k, bool[1] use_cache_branch) => (float[b, 1, all, 2] y, float[b, t] z, int64[b] n)
            <float[40, 2] table, int64[1] one = {1}> {
              new = Gather(table, ids)  at = Gather(table, position_ids)  sum = Add(new, at)  u = Unsqueeze(sum, one)
              y = Concat<axis = 2>(past_key, u)  flat = Squeeze(y)  last = Gather<axis = 1>(flat, zero)
              row = Unsqueeze(last, zeros)  m = Cast<to = 1>(attention_mask)  z = Add(m, row)  n = Identity(seqlens_k)
            }""".replace("<float[40, 2] table, ", "<int64 zero = {0}, int64[1] zeros = {0}, "),
        table=np.ones((40, 2), np.float32),
    )
    dataset, shapes = opened(model)
    fed = dataset.whole().arrays
    assert shapes["attention_mask"] == (1, 16)
    assert fed["position_ids"].tolist() == [list(range(8, 16))]
    assert fed["attention_mask"].tolist() == [[1] * 16]
    assert fed["seqlens_k"].tolist() == [15]
    assert fed["ids"].max() < 40


@pytest.mark.parametrize("constant", [np.array(np.nan, np.float32), np.array(70000.0, np.float32)])
def test_a_number_that_the_input_cannot_hold_is_not_fed(constant):
    model = model_of(
        """g (float[b, n] x, int8 rate, int8[b] lengths) => (float[b, m] y, bool is_known, int8[b] l)
           <int64[4] by = {0, 500, 0, 0}> {
             wide = Cast<to = 1>(rate)  is_known = Equal(wide, known)  l = Identity(lengths)
             y = Pad<mode = "reflect">(x, by) }""",
        known=constant,
    )
    fed = opened(model)[0].whole().arrays
    assert fed["rate"] in (0, 1)
    assert fed["lengths"].tolist() == [127]
    assert fed["x"].shape[1] > 500


def test_what_has_always_run_keeps_its_bytes():
    model = model_of(
        "g (float[b, n, 4] x, int64[b, n] position_ids) => (float[b, n, 4] y, int64[b, n] z)"
        "{ y = Relu(x)  z = Identity(position_ids) }"
    )
    dataset, shapes = opened(model)
    fed, plain = dataset.whole().arrays, random_feeds(load_model(model).declared_inputs)
    assert shapes["x"] == (1, 8, 4)
    assert all(fed[name].tobytes() == plain[name].tobytes() for name in plain)
    assert dataset.record["dims"] == {}
    assert dataset.notes == ("the input is random (seed 0), no real data",)


def test_where_nothing_runs_the_node_and_the_dimension_are_named():
    model = model_of("g (float[n, k, 3] x) => (float[2, 5] y) <int64[2] to = {2, 5}> { [fit] y = Reshape(x, to) }")
    with pytest.raises(InputError) as caught:
        features(model, "random")
    assert str(caught.value).startswith("no random input was found that runs: Reshape 'fit' refuses it (")
    assert len(str(caught.value)) <= 300
    assert caught.value.hint == (
        "`--dim k=SIZE` sets a size; open are k, n; the model takes x float32 (n, k, 3); `-i FILE.npy` feeds that"
    )


def test_a_size_that_is_given_is_not_changed():
    text = "g (float[b, n, k] x) => (float[b, 3] y) { f = Flatten(x)  y = Gemm(f, w) }"
    dataset, shapes = opened(model_of(text, w=np.ones((40, 3), np.float32)), n=4)
    assert shapes["x"] == (1, 4, 10)
    assert dataset.record["dims"] == {"n": 4, "k": 10}


def test_samples_differ_and_share_the_sizes_that_were_found():
    model = model_of(WINDOWS["reshape"][0].replace("float[1, 1536] y", "float[m, 1536] y"))
    dataset = open_dataset("random:3", load_model(model), RunOptions(limit=3))
    first, second = (dataset.load(position)[0]["x"] for position in (0, 1))
    assert first.shape == second.shape == (16, 96)
    assert not np.array_equal(first, second)
