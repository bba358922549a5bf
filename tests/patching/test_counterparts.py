"""Which value of another model belongs in place of a value, and how it gets there."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import onnxscope
from onnxscope.errors import InputError
from onnxscope.model.loading import load_model
from onnxscope.patching.counterparts import PairedLayers, Seen, match_seen
from onnxscope.selection.selectors import select_taps

RNG = np.random.default_rng(4)
W = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
X = RNG.standard_normal((2, 3, 5, 5)).astype(np.float32)


def convolution(body, outputs="float[N, 4, 5, 5] y", given="float[N, 3, 5, 5] x", opset=17, **stored):
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": {opset}]> g ({given}) => ({outputs}) {{ {body} }}'
    )
    for name, values in {"w": W, **stored}.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


PLAIN = "[conv] a = Conv <pads = [1, 1, 1, 1]> (x, w) y = Neg(a)"


def replaced(first, second, layer="conv"):
    """What the first model's output is where the second one's value stands in its layer."""
    return onnxscope.features(first, X, select="value:y", replace={layer: second})[0].data


def numpy_convolution(weight, x=X):
    """A convolution with a border of one zero, in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64))


def test_layers_of_other_names_are_paired_by_what_they_compute():
    other = convolution("[renamed] b = Conv <pads = [1, 1, 1, 1]> (x, v) y = Neg(b)", v=2 * W)
    np.testing.assert_allclose(replaced(convolution(PLAIN), other), -numpy_convolution(2 * W), rtol=1e-4, atol=1e-4)


def test_another_layout_is_turned():
    body = """t = Transpose <perm = [0, 3, 1, 2]> (x) [conv] b = Conv <pads = [1, 1, 1, 1]> (t, v)
        u = Transpose <perm = [0, 2, 3, 1]> (b) y = Neg(u)"""
    other = convolution(body, "float[N, 5, 5, 4] y", "float[N, 5, 5, 3] x", v=3 * W)
    np.testing.assert_allclose(replaced(convolution(PLAIN), other), -numpy_convolution(3 * W), rtol=1e-4, atol=1e-4)


def test_another_element_type_is_cast():
    other = convolution(
        "h = Cast <to = 10> (x) [conv] b = Conv <pads = [1, 1, 1, 1]> (h, v) c = Cast <to = 1> (b) y = Neg(c)",
        v=W.astype(np.float16),
    )
    np.testing.assert_allclose(replaced(convolution(PLAIN), other), -numpy_convolution(W), rtol=1e-2, atol=3e-2)


def test_where_one_layer_alone_has_an_activation_function_both_are_taken_before_it():
    other = convolution("[conv] b = Conv <pads = [1, 1, 1, 1]> (x, v) c = Relu(b) y = Neg(c)", v=2 * W)
    np.testing.assert_allclose(replaced(convolution(PLAIN), other), -numpy_convolution(2 * W), rtol=1e-4, atol=1e-4)
    bent = convolution("[conv] b = Conv <pads = [1, 1, 1, 1]> (x, w) c = Relu(b) y = Neg(c)")
    expected = -np.maximum(numpy_convolution(2 * W), 0)
    np.testing.assert_allclose(
        replaced(bent, convolution(PLAIN.replace("w)", "v)"), v=2 * W)), expected, rtol=1e-4, atol=1e-4
    )


def test_another_operator_set_serves_where_its_operators_are_the_same():
    other = convolution(PLAIN.replace("w)", "v)"), opset=18, v=2 * W)
    np.testing.assert_allclose(replaced(convolution(PLAIN), other), -numpy_convolution(2 * W), rtol=1e-4, atol=1e-4)
    other = convolution(
        'p = Pad <mode = "constant"> (x, n) [conv] a = Conv <pads = [1, 1, 1, 1]> (p, w) y = Neg(a)',
        opset=18,
        n=np.zeros(8, np.int64),
    )
    with pytest.raises(InputError, match=r"^Pad is not the same in two operator sets ai.onnx: 17 of g and 18 of g"):
        replaced(convolution(PLAIN), other)


def test_values_of_bodies_have_no_counterpart():
    body = """y = If (go) <then_branch = t () => (float[N, 4, 5, 5] a)
            { [inside] a = Conv <pads = [1, 1, 1, 1]> (x, w) },
        else_branch = e () => (float[N, 4, 5, 5] b) { b = Conv <pads = [1, 1, 1, 1]> (x, w) }>"""
    model = load_model(convolution(body, go=np.array(True)))
    (tap,) = select_taps(model, ["inside"], at="post")
    with pytest.raises(InputError, match="'inside' is inside a body, where no other model is run: g"):
        PairedLayers(model, model).taps(tap)


def test_what_has_no_partner_is_named():
    model, other = (
        load_model(convolution(PLAIN)),
        load_model(convolution("q = Abs(x) y = Sum(q, q)", "float[N, 3, 5, 5] y")),
    )
    (tap,) = select_taps(model, ["conv"], at="post")
    with pytest.raises(InputError, match="g has no value that belongs in place of 'conv'"):
        PairedLayers(model, other).taps(tap)


@pytest.mark.parametrize(
    ("shapes", "permutation", "is_reshaped"),
    [
        (((2, 4, 5, 5), (2, 4, 5, 5)), (), False),
        (((2, 5, 6, 4), (2, 4, 5, 6)), (0, 2, 3, 1), False),
        (((2, 20), (2, 4, 5)), (), True),
        (((2, 4), (2, 5)), None, False),
    ],
)
def test_what_one_shape_becomes_of_another(shapes, permutation, is_reshaped):
    model = load_model(convolution(PLAIN))
    (tap,) = select_taps(model, ["value:y"], at="post")
    seen = Seen("float32", shapes[0]), Seen("float32", shapes[1])
    pair = match_seen((tap, tap), ("a", "b"), seen)
    assert (pair is None) == (permutation is None)
    if pair is not None:
        array = np.arange(np.prod(shapes[0])).reshape(shapes[0])
        assert pair.to_b(array).shape == shapes[1]
        assert pair.reshaped == is_reshaped
