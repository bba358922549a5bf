"""Axes, ranges, shapes and pads in two spellings: one model where onnxruntime gives the same, else two."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from compared_models import parsed

from onnxscope import check, diff, snapshot
from onnxscope.model.loading import load_model
from onnxscope.structure.reshaped_sides import flattened, is_one_shape, without_zeros
from onnxscope.structure.standard_model import standard_model

STORED = {
    "p0": [0],
    "p1": [1],
    "p2": [2],
    "p3": [3],
    "p4": [4],
    "m1": [-1],
    "m2": [-2],
    "p01": [0, 1],
    "p12": [1, 2],
    "p11": [1, 1],
    "p22": [2, 2],
    "p21": [2, 1],
    "p24": [2, 4],
    "m1_12": [-1, 12],
    "z_m1": [0, -1],
    "p2_12": [2, 12],
    "p3_8": [3, 8],
    "far": [2**63 - 1],
    "far32": [2**31 - 1],
    "pads": [0, 1, 0, 1],
    "p13": [1, 3],
    "p10": [1, 0],
    "m31": [-(2**31)],
    "s1": 1,
    "sm1": -1,
    "s0": 0,
}
NUMBERS = {
    "w": np.arange(9).reshape(1, 1, 3, 3),
    "gamma": [1, 2, 3],
    "f0": 0,
    "f6": 6,
    "f1": 1,
    "f11": [[1]],
    "row1": [1],
    "row": [1, 2],
    "scales": [1, 1, 2, 2],
    "values": [0, 1],
}
# Input and outputs; two spellings of one thing with their operator sets; another thing.
SPELLINGS = {
    "Transpose without an order": (
        "float[2, 2, 2] x",
        "float[2, 2, 2] y",
        (13, "y = Transpose(x)"),
        (13, "y = Transpose<perm = [2, 1, 0]>(x)"),
        "y = Transpose<perm = [1, 2, 0]>(x)",
    ),
    "Softmax": (
        "float[2, 3, 4, 5] x",
        "float[2, 3, 4, 5] y",
        (13, "y = Softmax<axis = -2>(x)"),
        (13, "y = Softmax<axis = 2>(x)"),
        "y = Softmax<axis = 1>(x)",
    ),
    "Softmax over the last": (
        "float[2, 3, 4] x",
        "float[2, 3, 4] y",
        (13, "y = Softmax(x)"),
        (11, "y = Softmax<axis = 2>(x)"),
        "y = Softmax<axis = 0>(x)",
    ),
    "Concat": (
        "float[2, 3] x",
        "float[2, 6] y",
        (13, "a = Neg(x) y = Concat<axis = -1>(a, x)"),
        (11, "a = Neg(x) y = Concat<axis = 1>(a, x)"),
        "a = Neg(x) y = Concat<axis = 1>(x, a)",
    ),
    "Gather": (
        "float[2, 3] x",
        "float[2, 1] y",
        (13, "y = Gather<axis = -1>(x, p0)"),
        (13, "y = Gather<axis = 1>(x, p0)"),
        "y = Gather<axis = 1>(x, p1)",
    ),
    "ReduceMean": (
        "float[2, 3] x",
        "float[2, 1] y",
        (13, "y = ReduceMean<axes = [-1]>(x)"),
        (18, "y = ReduceMean(x, p1)"),
        "y = ReduceMean<axes = [0]>(x)",
    ),
    "ReduceMax over all": (
        "float[2, 3] x",
        "float[1, 1] y",
        (13, "y = ReduceMax(x)"),
        (18, "y = ReduceMax(x, p10)"),
        "y = ReduceMax<axes = [0]>(x)",
    ),
    "ArgMax": (
        "float[2, 3] x",
        "int64[2, 1] y",
        (13, "y = ArgMax<axis = -1>(x)"),
        (11, "y = ArgMax<axis = 1>(x)"),
        "y = ArgMax<axis = 0>(x)",
    ),
    "Squeeze": (
        "float[2, 3, 1] x",
        "float[2, 3] y",
        (11, "y = Squeeze<axes = [-1]>(x)"),
        (13, "y = Squeeze(x, p2)"),
        None,
    ),
    "Squeeze of all": (
        "float[2, 3, 1] x",
        "float[2, 3] y",
        (11, "y = Squeeze(x)"),
        (13, "y = Squeeze(x, m1)"),
        None,
    ),
    "Unsqueeze": (
        "float[2, 3] x",
        "float[a, b, c] y",
        (11, "y = Unsqueeze<axes = [-1]>(x)"),
        (13, "y = Unsqueeze(x, p2)"),
        "y = Unsqueeze<axes = [0]>(x)",
    ),
    "LayerNormalization": (
        "float[2, 3] x",
        "float[2, 3] y",
        (17, "y = LayerNormalization(x, gamma)"),
        (17, "y = LayerNormalization<axis = 1>(x, gamma)"),
        "y = LayerNormalization<epsilon = 0.1>(x, gamma)",
    ),
    "Flatten": (
        "float[n, 3, 4] x",
        "float[a, b] y",
        (13, "y = Flatten(x)"),
        (13, "y = Reshape(x, m1_12)"),
        "y = Flatten<axis = 2>(x)",
    ),
    "Flatten and a copied side": (
        "float[n, 3, 4] x",
        "float[a, b] y",
        (13, "y = Flatten<axis = -2>(x)"),
        (13, "y = Reshape(x, z_m1)"),
        "y = Flatten<axis = 2>(x)",
    ),
    "Reshape": (
        "float[2, 3, 4] x",
        "float[a, b] y",
        (13, "y = Reshape(x, z_m1)"),
        (13, "y = Reshape(x, p2_12)"),
        "y = Reshape(x, p3_8)",
    ),
    "Reshape of a batch": (
        "float[n, 3, 4] x",
        "float[a, b] y",
        (13, "y = Reshape(x, z_m1)"),
        (13, "y = Reshape(x, m1_12)"),
        "y = Reshape(x, p3_8)",
    ),
    "Transpose": (
        "float[2, 3, 4] x",
        "float[a, b, c] y",
        (13, "y = Transpose(x)"),
        (13, "y = Transpose<perm = [2, 1, 0]>(x)"),
        "y = Transpose<perm = [2, 0, 1]>(x)",
    ),
    "Transpose of nothing": (
        "float[2, 3] x",
        "float[a, b] y",
        (13, "y = Neg(x)"),
        (13, "t = Transpose<perm = [0, 1]>(x) y = Neg(t)"),
        "t = Transpose<perm = [1, 0]>(x) y = Neg(t)",
    ),
    "Split": (
        "float[2, 4] x",
        "float[a, b] y, float[c, d] z",
        (11, "y, z = Split<axis = 1, split = [2, 2]>(x)"),
        (13, "y, z = Split<axis = -1>(x, p22)"),
        "y, z = Split<axis = 1, split = [1, 3]>(x)",
    ),
    "Split in halves": (
        "float[2, 4] x",
        "float[a, b] y, float[c, d] z",
        (13, "y, z = Split<axis = 1>(x, p22)"),
        (18, "y, z = Split<axis = 1, num_outputs = 2>(x)"),
        "y, z = Split<axis = 1>(x, p13)",
    ),
    "Slice": (
        "float[2, 4] x",
        "float[a, b] y",
        (13, "y = Slice(x, p0, p3, p1)"),
        (11, "y = Slice(x, p0, m1, m1)"),
        "y = Slice(x, p0, p2, p1)",
    ),
    "Slice to the end": (
        "float[2, 4] x",
        "float[a, b] y",
        (13, "y = Slice(x, p1, p4, p1, p1)"),
        (13, "y = Slice(x, p1, far, p1)"),
        "y = Slice(x, p1, p3, p1)",
    ),
    "Slice to the end of a batch": (
        "float[n, 4] x",
        "float[a, b] y",
        (13, "y = Slice(x, p1, far32, p0)"),
        (13, "y = Slice(x, p1, far, p0)"),
        "y = Slice(x, p0, far, p0)",
    ),
    "Slice of all axes": (
        "float[2, 4] x",
        "float[a, b] y",
        (9, "y = Slice<starts = [1, 1], ends = [2, 4]>(x)"),
        (13, "y = Slice(x, p11, p24, p01)"),
        "y = Slice<starts = [0, 1], ends = [2, 4]>(x)",
    ),
    "Slice backwards": (
        "float[2, 4] x",
        "float[a, b] y",
        (13, "y = Slice(x, m1, m31, p1, m1)"),
        (13, "y = Slice(x, p3, m31, m1, m1)"),
        "y = Slice(x, p2, m31, p1, m1)",
    ),
    "Conv": (
        "float[1, 1, 8, 8] x",
        "float[a, b, c, d] y",
        (13, 'y = Conv<auto_pad = "SAME_UPPER">(x, w)'),
        (13, "y = Conv<pads = [1, 1, 1, 1]>(x, w)"),
        'y = Conv<auto_pad = "VALID">(x, w)',
    ),
    "Conv with strides": (
        "float[1, 1, 8, 8] x",
        "float[a, b, c, d] y",
        (13, 'y = Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w)'),
        (13, "y = Conv<pads = [1, 1, 0, 0], strides = [2, 2]>(x, w)"),
        'y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)',
    ),
    "Conv without pads": (
        "float[1, 1, 8, 8] x",
        "float[a, b, c, d] y",
        (13, 'y = Conv<auto_pad = "VALID">(x, w)'),
        (13, "y = Conv<pads = [0, 0, 0, 0]>(x, w)"),
        "y = Conv<pads = [0, 1, 0, 1]>(x, w)",
    ),
    "MaxPool": (
        "float[1, 1, 8, 8] x",
        "float[a, b, c, d] y",
        (13, 'y = MaxPool<auto_pad = "SAME_UPPER", kernel_shape = [3, 3], strides = [2, 2]>(x)'),
        (13, "y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]>(x)"),
        'y = MaxPool<auto_pad = "SAME_LOWER", kernel_shape = [3, 3], strides = [2, 2]>(x)',
    ),
    "AveragePool": (
        "float[1, 1, 8, 8] x",
        "float[a, b, c, d] y",
        (13, 'y = AveragePool<auto_pad = "SAME_UPPER", kernel_shape = [3, 3]>(x)'),
        (13, "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)"),
        "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)",
    ),
    "Clip": (
        "float[2] x",
        "float[2] y",
        (6, "y = Clip<min = 0.0, max = 6.0>(x)"),
        (13, "y = Clip(x, f0, f6)"),
        "y = Clip<min = -1.0, max = 6.0>(x)",
    ),
    "Constant": (
        "float[2] x",
        "float[2] y",
        (13, "c = Constant<value_floats = [1.0, 2.0]>() y = Sub(x, c)"),
        (13, "c = Constant<value = float[2] {1, 2}>() y = Sub(x, c)"),
        "c = Constant<value_floats = [1.0, 3.0]>() y = Sub(x, c)",
    ),
    "Upsample": (
        "float[1, 1, 2, 2] x",
        "float[1, 1, 4, 4] y",
        (9, 'y = Upsample<mode = "linear">(x, scales)'),
        (13, 'y = Resize<mode = "linear", coordinate_transformation_mode = "asymmetric">(x, , scales)'),
        'y = Upsample<mode = "nearest">(x, scales)',
    ),
    "Pad": (
        "float[1, 2] x",
        "float[1, 4] y",
        (2, "y = Pad<pads = [0, 1, 0, 1]>(x)"),
        (18, "y = Pad(x, p11, , m1)"),
        'y = Pad<pads = [0, 1, 0, 1], mode = "edge">(x)',
    ),
    "TopK": (
        "float[2, 3] x",
        "float[2, 1] y, int64[2, 1] z",
        (13, "y, z = TopK<axis = 1>(x, p1)"),
        (11, "y, z = TopK(x, p1)"),
        "y, z = TopK<axis = 1, largest = 0>(x, p1)",
    ),
    "OneHot": (
        "int64[2] x",
        "float[2, 3] y",
        (13, "y = OneHot<axis = -1>(x, p3, values)"),
        (11, "y = OneHot<axis = 1>(x, p3, values)"),
        None,
    ),
    "CumSum": (
        "float[2, 3] x",
        "float[2, 3] y",
        (13, "y = CumSum(x, s1)"),
        (11, "y = CumSum(x, sm1)"),
        "y = CumSum(x, s0)",
    ),
    "Slice of everything": (
        "float[2, 3] x",
        "float[n, k] y",
        (13, "y = Neg(x)"),
        (13, "a = Slice(x, p0, far, p1) b = Slice(a, p0, p2, p0) y = Neg(b)"),
        "a = Slice(x, p0, p2, p1) y = Neg(a)",
    ),
    "Slice of everything but the order": (
        "float[2, 3] x",
        "float[n, k] y",
        (9, "a = Slice<axes = [0, 1], starts = [0, 0], ends = [2, 3]>(x) y = Neg(a)"),
        (13, "y = Neg(x)"),
        "a = Slice<axes = [0, 1], starts = [0, 0], ends = [2, 2]>(x) y = Neg(a)",
    ),
    "a range of an open shape": (
        "float[n, k] x",
        "float[m, k] y",
        (13, "a = Abs(x) y = Slice(a, p1, far, p0, p1)"),
        (13, "a = Abs(x) y = Slice(a, p1, far32, p0)"),
        "a = Abs(x) y = Slice(a, p0, far, p0)",
    ),
    "a range of a shape that one file declares": (
        "float[4, 5] x",
        "float[n, 5] y",
        (13, "y = Slice(x, p1, p4, p0)"),
        (13, "y = Slice(x, p1, far, p0, p1)"),
        "y = Slice(x, p1, p3, p0)",
    ),
    "a range that is computed": (
        "float[4, 5] x",
        "float[n, 5] y",
        (13, "y = Slice(x, p1, p3, p0)"),
        (13, "a = Add(s1, s1) b = Add(a, s1) e = Unsqueeze(b, p0) y = Slice(x, p1, e, p0)"),
        "a = Add(s1, s1) e = Unsqueeze(a, p0) y = Slice(x, p1, e, p0)",
    ),
    "pads out of the shape of a Constant": (
        "float[4, 5] x",
        "float[n, k] y",
        (13, 'y = Pad<mode = "reflect">(x, pads)'),
        (
            13,
            "s = Shape(p01) g = Gather(s, s0) n = Sub(g, s1) u = Reshape(n, m1) "
            "z = ConstantOfShape<value = int64[1] {0}>(u) "
            'c = Concat<axis = 0>(z, u) d = Concat<axis = 0>(c, c) y = Pad<mode = "reflect">(x, d)',
        ),
        's = Shape(p01) k = Sub(s, p1) c = Concat<axis = 0>(k, k, k, k) y = Pad<mode = "reflect">(x, c)',
    ),
    "a zero that is added": (
        "float[2, 3] x",
        "float[2, 3] y",
        (13, "a = Sub(x, f0) b = Add(f0, a) y = Neg(b)"),
        (13, "y = Neg(x)"),
        "a = Add(x, f6) y = Neg(a)",
    ),
    "a one that is multiplied with": (
        "float[2, 3] x",
        "float[2, 3] y",
        (13, "a = Mul(x, f1) b = Mul(f1, a) c = Div(b, row1) y = Neg(c)"),
        (13, "y = Neg(x)"),
        "a = Div(f1, x) y = Neg(a)",
    ),
    "an axis more by a single one": (
        "float[2] x",
        "float[n, k] y",
        (13, "a = Mul(x, f11) y = Neg(a)"),
        (13, "a = Mul(f11, x) y = Neg(a)"),
        "a = Unsqueeze(x, p0) y = Abs(a)",
    ),
    "ArgMax behind a Transpose": (
        "float[2, 3, 4] x",
        "int64[2, 4] y",
        (13, "a = Transpose<perm = [0, 2, 1]>(x) y = ArgMax<axis = 2, keepdims = 0>(a)"),
        (13, "y = ArgMax<axis = 1, keepdims = 0>(x)"),
        "y = ArgMin<axis = 1, keepdims = 0>(x)",
    ),
    "a mean behind a Transpose": (
        "float[2, 3, 4] x",
        "float[n] y",
        (13, "a = Transpose<perm = [1, 2, 0]>(x) y = ReduceMean<axes = [0, 2], keepdims = 0>(a)"),
        (18, "y = ReduceMean<keepdims = 0>(x, p01)"),
        "y = ReduceMean<axes = [0, 2], keepdims = 0>(x)",
    ),
    "a mean behind a Transpose in a newer operator set": (
        "float[2, 3, 4] x",
        "float[2, 4] y",
        (18, "a = Transpose<perm = [0, 2, 1]>(x) y = ReduceMean<keepdims = 0>(a, p2)"),
        (13, "y = ReduceMean<axes = [1], keepdims = 0>(x)"),
        "a = Transpose<perm = [0, 2, 1]>(x) y = ReduceSum<keepdims = 0>(a, p2)",
    ),
    "reduction axes in another order": (
        "float[2, 3, 4] x",
        "float[2] y",
        (13, "y = ReduceMean<axes = [1, 2], keepdims = 0>(x)"),
        (18, "y = ReduceMean<keepdims = 0>(x, p21)"),
        "y = ReduceMax<axes = [2, 1], keepdims = 0>(x)",
    ),
    "Cast and back": (
        "float[2] x",
        "float[2] y",
        (13, "y = Neg(x)"),
        (13, "a = Cast<to = 11>(x) b = Cast<to = 1>(a) y = Neg(b)"),
        "a = Cast<to = 10>(x) b = Cast<to = 1>(a) y = Neg(b)",
    ),
}


def written(name, opset, nodes):
    given, outputs, *_ = SPELLINGS[name]
    stored = {key: np.array(values, np.int64) for key, values in STORED.items()}
    stored |= {key: np.array(values, np.float32) for key, values in NUMBERS.items()}
    used = {key: values for key, values in stored.items() if re.search(rf"[ (]{key}[,)]", nodes)}
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({given}) => ({outputs}) {{ {nodes} }}'
    return parsed(text, **used)


def answers(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    sides = [side if isinstance(side, int) else 2 for side in given.shape]
    values = np.random.default_rng(0).uniform(-3, 3, sides)
    return session.run(None, {given.name: values.astype(np.int64 if "int64" in given.type else np.float32)})


def are_alike(first, second):
    return all(x.shape == y.shape and np.allclose(x, y, atol=1e-6) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("name", SPELLINGS)
def test_two_spellings_are_one_and_another_thing_is_told(name):
    _, _, one, two, other = SPELLINGS[name]
    first, second = written(name, *one), written(name, *two)
    expected = answers(first)
    assert are_alike(answers(second), expected)
    for model in (first, second):
        assert are_alike(answers(standard_model(load_model(model)).proto), expected)
    for left, right in ((first, second), (second, first)):
        result = diff(left, right)
        assert (result.verdict, result.structure) == ("equal", ())
        assert check(right, snapshot(left)).findings == ()
    if other is not None:
        changed = written(name, one[0], other)
        assert not are_alike(answers(changed), expected) or name == "Cast and back"
        for model in (first, second):
            assert diff(model, changed).verdict == "differs"
            assert not check(changed, snapshot(model)).ok


@pytest.mark.parametrize(
    ("a", "b", "is_one"),
    [
        ("2 12", "2 12", True),
        ("-1 12", "2 12", True),
        ("2 -1", "2 12", True),
        ("-1 12", "2 -1", False),
        ("2 12", "3 8", False),
        ("-1 12", "-1 6", False),
        ("2 12", "2 12 1", False),
        ("flattened at 1", "-1 12", False),
    ],
)
def test_a_target_with_an_open_side(a, b, is_one):
    assert is_one_shape(a, b) is is_one
    assert is_one_shape(b, a) is is_one


def test_zeros_stand_for_the_sides_that_they_copy():
    assert without_zeros([0, -1], (2, 3, 4)) == [2, 12]
    assert without_zeros([0, -1], ("n", 3, 4)) == [None, 12]
    assert without_zeros([0, 0, -1], ("n", "m", 4)) is None
    assert without_zeros([0, -1], None) is None
    assert without_zeros([2, 0], (24,)) is None


def test_a_flattened_shape_has_two_parts():
    assert flattened((2, 3, 4), 1) == [2, 12]
    assert flattened(("n", 3, 4), 1) == [None, 12]
    assert flattened((2, 3, 4), 0) == [1, 24]
    assert flattened((2, 3, 4), -1) == [6, 4]
    assert flattened(("n", 3, "m"), 1) is None
    assert flattened(None, 1) is None


def test_a_copy_that_declares_what_can_be_inferred_has_the_same_structure():
    proto = parsed(f"""
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, 4] x, int64[2] i) => (float[N, 4] y, int64[2] j, int64[2] k)
        <float[4, 4] w = {{{", ".join(map(str, range(16)))}}}, int64[1] one = {{1}}> {{
            y = MatMul(x, w)
            h = Relu(y)
            sides = Shape(h)
            width = Gather(sides, one)
            again = Cast<to=7>(i)
            j = Add(again, width)
            some = Add(i, i)
            same = Cast<to=7>(some)
            k = Neg(same)
        }}""")
    declared = onnx.shape_inference.infer_shapes(proto)
    assert len(declared.graph.value_info) > len(proto.graph.value_info)
    assert diff(proto, declared).structure == ()


def test_a_range_ends_with_a_side_that_only_a_copy_declares():
    proto = parsed(
        """
        <ir_version: 9, opset_import: ["": 17]>
        g (float[N, T] x) => (float[N, 2, M] y)
        <int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[1] two = {2}, int64[1] four = {4}> {
            sides = Shape(x)  n = Gather(sides, zero)  t = Gather(sides, one)  rows = Unsqueeze(n, first)
            quarter = Div(t, last)  columns = Unsqueeze(quarter, first)
            target = Concat<axis = 0>(rows, four, columns)
            r = Reshape(x, target)  y = Slice(r, two, four, one_row)
        }""".replace("last", "four_alone"),
        four_alone=np.array(4, np.int64),
        one_row=np.array([1], np.int64),
    )
    declared = onnx.ModelProto()
    declared.CopyFrom(proto)
    declared.graph.value_info.append(onnx.helper.make_tensor_value_info("r", 1, ["N", 4, "quarter"]))
    assert diff(proto, declared).structure == diff(declared, proto).structure == ()
    baseline = snapshot(declared)
    assert check(proto, baseline).ok
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    next(tensor for tensor in changed.graph.initializer if tensor.name == "four").CopyFrom(
        onnx.numpy_helper.from_array(np.array([3]), "four")
    )
    assert diff(declared, changed).verdict == "differs"
