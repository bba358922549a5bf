"""Which layer is which: by name, content, structure and order."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxscope.model.loading import load_model
from onnxscope.pairing.align_layers import Alignment, LayerKey, align_layers, layer_keys, pair_by_values
from onnxscope.pairing.layer_weights import LayerWeights

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
RNG = np.random.default_rng(7)


def chain(sizes, names=None, arrays=None):
    """A chain of matrices; `sizes` are its widths."""
    body = "".join(f"h{i} = MatMul({'x' if i == 0 else f'h{i - 1}'}, m{i}) " for i in range(len(sizes) - 1))
    last = f"float[N, {sizes[-1]}] h{len(sizes) - 2}"
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]> g (float[N, {sizes[0]}] x) => ({last}) {{ {body} }}'
    )
    for i, shape in enumerate(itertools.pairwise(sizes)):
        array = RNG.standard_normal(shape, np.float32) if arrays is None else arrays[i]
        model.graph.initializer.append(numpy_helper.from_array(array, f"m{i}"))
        if names is not None:
            model.graph.node[i].name = names[i]
    return model


def pairs(a, b, by="auto"):
    models = load_model(a), load_model(b)
    found = align_layers(*(layer_keys(model.layers, LayerWeights(model).content) for model in models), by)
    return dict(found.pairs), found.only_a, found.only_b


def test_names_that_agree_pair_layers_even_where_every_weight_has_changed():
    a, b = chain([3, 4, 4, 5], ["p", "q", "r"]), chain([3, 4, 4, 5], ["p", "q", "r"])
    assert pairs(a, b) == ({0: 0, 1: 1, 2: 2}, (), ())
    assert pairs(a, b, "name") == ({0: 0, 1: 1, 2: 2}, (), ())
    assert pairs(a, b, "content") == ({}, (0, 1, 2), (0, 1, 2))


def test_weights_pair_layers_that_were_renamed_or_shifted():
    arrays = [RNG.standard_normal(shape, np.float32) for shape in ((3, 3), (3, 3), (3, 3))]
    a = chain([3, 3, 3, 3], ["dense", "dense_1", "dense_2"], arrays)
    shifted = [RNG.standard_normal((3, 3), np.float32), *arrays]
    b = chain([3, 3, 3, 3, 3], ["dense", "dense_1", "dense_2", "dense_3"], shifted)
    assert pairs(a, b) == ({0: 1, 1: 2, 2: 3}, (), (0,))
    transposed = chain([3, 3, 3, 3], None, [array.T.copy() for array in arrays])
    assert pairs(a, transposed, "content") == ({0: 0, 1: 1, 2: 2}, (), ())


def test_structure_pairs_layers_without_names_or_equal_weights():
    a, b = chain([3, 4, 5, 6, 2]), chain([3, 4, 5, 6, 2])
    assert pairs(a, b, "structure") == ({0: 0, 1: 1, 2: 2, 3: 3}, (), ())
    assert pairs(chain([3, 4, 5, 6]), chain([3, 4, 6])) == ({0: 0}, (1, 2), (1,))


def test_what_is_left_is_paired_in_order():
    a, b = chain([3, 4, 4, 4, 2]), chain([3, 4, 4, 2])
    found, only_a, only_b = pairs(a, b)
    assert found[0] == 0
    assert found[3] == 2
    assert (len(found), len(only_a), only_b) == (3, 1, ())


def test_layers_that_swapped_their_weights_keep_their_names():
    arrays = [RNG.standard_normal((4, 4), np.float32) for _ in range(3)]
    a = chain([4, 4, 4, 4], ["p", "q", "r"], arrays)
    b = chain([4, 4, 4, 4], ["p", "q", "r"], [arrays[1], arrays[0], arrays[2]])
    assert pairs(a, b) == ({0: 0, 1: 1, 2: 2}, (), ())


@pytest.mark.parametrize("by", ["auto", "name", "structure"])
def test_exports_of_one_network_are_paired_whole(by):
    found, only_a, only_b = pairs(FIXTURES / "digits.onnx", FIXTURES / "digits_deployed.onnx", by)
    assert found == {0: 0, 1: 1, 2: 2, 3: 3}
    assert only_a == only_b == ()


def key(index, content):
    """An unnamed convolution whose surroundings nothing else has."""
    return LayerKey(None, "Conv", (8, 8, 3, 3), f"{index}", f"{index}", lambda: content)


def test_tens_of_thousands_of_layers_are_paired_by_content_and_in_order():
    count = 20_000
    a = [key(index, f"{index}") for index in range(count)]
    # In the second model every third layer has other weights, and none has its surroundings.
    b = [key(-1 - index, None if index % 3 == 0 else f"{index}") for index in range(count)]
    aligned = align_layers(a, b)
    assert aligned.pairs == tuple((index, index) for index in range(count))
    assert aligned.only_a == aligned.only_b == ()


def test_a_layer_that_crosses_most_of_the_others_is_not_paired_by_content():
    count = 20_000
    a = [key(index, f"{index}") for index in range(count)]
    rotated = align_layers(a, a[1:] + a[:1], "content")
    assert rotated.pairs == tuple((index, index - 1) for index in range(1, count))
    assert (rotated.only_a, rotated.only_b) == ((0,), (count - 1,))
    rng = np.random.default_rng(11)
    for _ in range(50):
        order = rng.permutation(9).tolist()
        places = [order.index(index) for index in range(9)]
        crossed = [sum((x - y) * (places[x] - places[y]) < 0 for y in range(9)) for x in range(9)]
        expected = tuple((index, places[index]) for index in range(9) if crossed[index] < 4.5)
        assert align_layers(a[:9], [a[index] for index in order], "content").pairs == expected


def test_values_pair_what_is_left_over_where_they_are_unambiguous_and_mostly_in_order():
    left = Alignment(((1, 1), (2, 2)), (0, 3, 4, 5), (0, 3, 4, 5))
    assert pair_by_values(left, []) == left
    found = pair_by_values(left, [(0, 0), (3, 4), (4, 3), (4, 5), (5, 3)])
    assert found == Alignment(((0, 0), (1, 1), (2, 2), (3, 4)), (4, 5), (3, 5))
    assert pair_by_values(left, [(0, 5), (5, 5)]) == left  # one value of the second, two of the first
    assert pair_by_values(left, [(5, 0)]) == left  # it would cross both pairs


@pytest.mark.parametrize("rounding", ["float16", "int8"])
def test_layers_that_look_alike_are_paired_by_weights_that_are_the_same_but_for_rounding(rounding):
    rng = np.random.default_rng(31)
    weights = [rng.standard_normal((8, 8)).astype(np.float32) for _ in range(3)]

    def rounded(values):
        if rounding == "float16":
            return values.astype(np.float16).astype(np.float32)
        scale = np.abs(values).max() / 127
        return (np.round(values / scale) * scale).astype(np.float32)

    def branches(values, order):
        nodes = " ".join(f"m{k} = MatMul(x, w{k}) r{k} = Relu(m{k})" for k in range(3)) + " y = Max(r0, r1, r2)"
        model = onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["": 17]> g (float[n, 8] x) => (float[n, 8] y) {{ {nodes} }}'
        )
        for place, k in enumerate(order):
            model.graph.initializer.append(numpy_helper.from_array(values[k], f"w{place}"))
        return load_model(model)

    order = [2, 0, 1]
    models = branches(weights, range(3)), branches([rounded(values) for values in weights], order)
    keys = []
    for model in models:
        reader = LayerWeights(model)
        keys.append(layer_keys(model.layers, reader.content, sketch=reader.sketch))
    assert set(align_layers(*keys).pairs) == {(k, order.index(k)) for k in range(3)}
