"""Which axes a picture shows, on values whose maps are cut out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from sequence_models import attention, convolution, random, recurrent, stored

from onnxscope.analyses.feature_maps import features


def only(model, x, value, **options):
    return features(model, x, select=f"value:{value}", **options)[0]


def map_of(tap):
    record = tap.to_dict()["map"]
    return None if record is None else (record["each"], record["numbers"], record["down"], record["right"])


def test_attention_has_a_map_for_each_head_query_by_key():
    model, x = attention(heads=4), random(3, 5, 8)
    scores, shares = ReferenceEvaluator(model).run(["s", "p"], {"x": x})
    for value, expected in (("s", scores), ("p", shares)):
        tap = only(model, x, value, sample=1)
        assert map_of(tap) == ("head", [0, 1, 2, 3], "query", "key")
        np.testing.assert_allclose(tap.maps(), expected[1], atol=1e-5)
    assert tap.channel_axis == 1
    assert tap.caption() == "heads 0 to 3, query down, key to the right"


def test_heads_in_one_axis_with_the_samples_are_told_apart():
    text = """<ir_version: 9, opset_import: ["": 17]>
        net (float[n, 3, 8] x) => (float[h, 3, 4] y) {
            s = Reshape(x, split)  t = Transpose<perm = [0, 2, 1, 3]>(s)  q = Reshape(t, rows)
            k = Transpose<perm = [0, 2, 1]>(q)  m = MatMul(q, k)  p = Softmax(m)  y = MatMul(p, q)
        }"""
    model = stored(text, {"split": np.array([0, 0, 2, 4]), "rows": np.array([-1, 3, 4])})
    x = random(3, 3, 8)
    (shares,) = ReferenceEvaluator(model).run(["p"], {"x": x})
    tap = only(model, x, "p", sample=2)
    assert map_of(tap) == ("head", [0, 1], "query", "key")
    np.testing.assert_allclose(tap.maps(), shares[4:], atol=1e-5)


def test_tokens_run_down_and_channels_to_the_right():
    model, x = attention(), random(3, 5, 8)
    tap = only(model, x, "y", sample=2)
    assert map_of(tap) == (None, [], "token", "channel")
    np.testing.assert_array_equal(tap.maps(), tap.data[2][None])
    assert tap.channels == tuple(range(8))
    queries = only(model, x, "q", sample=2)
    assert map_of(queries) == ("head", [0, 1], "token", "channel")
    np.testing.assert_array_equal(queries.maps(), queries.data[2])
    keys = only(model, x, "k", sample=2)
    np.testing.assert_array_equal(keys.maps(), keys.data[2].transpose(0, 2, 1))


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_layer_has_a_map_for_each_direction_with_time_to_the_right(operator):
    tap = only(recurrent(operator), random(7, 3, 5), "a", batch_axis=1, sample=2)
    assert map_of(tap) == ("direction", [0, 1], "channel", "time")
    np.testing.assert_array_equal(tap.maps(), tap.data[:, :, 2].transpose(1, 2, 0))


def test_a_sequence_with_time_first_is_told_by_its_growth():
    text = """<ir_version: 9, opset_import: ["": 17]>
        net (float[7, n, 5] x) => (float[7, n, 6] y) { a = LSTM<hidden_size = 6>(x, w, r)  y = Squeeze(a, one) }"""
    model = stored(text, {"w": random(1, 24, 5), "r": random(1, 24, 6), "one": np.array([1])})
    tap = only(model, random(7, 4, 5), "y", batch_axis=1, sample=3)
    assert tap.to_dict()["axes"] == ["time", "batch", "channel"]
    assert map_of(tap) == (None, [], "channel", "time")
    np.testing.assert_array_equal(tap.maps()[0], tap.data[:, 3].T)


def test_a_spectrogram_keeps_its_look():
    tap = only(convolution(3), random(2, 2, 9), "y", sample=1)
    assert map_of(tap) == (None, [], "channel", "time")
    np.testing.assert_array_equal(tap.maps()[0], tap.data[1])


def test_slices_of_a_volume_lie_side_by_side_with_gaps():
    tap = only(convolution(3, 3, 3), random(2, 2, 9, 4, 6), "y", sample=1, channels=2)
    assert map_of(tap) == ("channel", [0, 1], "height", "width")
    maps = tap.maps()
    assert maps.shape == (2, 4, 4 * 6 + 3)
    for place, depth in enumerate((0, 3, 5, 8)):
        np.testing.assert_array_equal(maps[:, :, 7 * place : 7 * place + 6], tap.data[1, :2, depth])
    assert np.isnan(maps[:, :, 6::7]).all()
    assert tap.caption() == "channels 0, 1, height down, width, depth 0, 3, 5, 8 to the right"


def test_rows_of_samples_and_tokens_have_a_picture_for_one_sample_alone():
    text = """<ir_version: 9, opset_import: ["": 17]>
        net (float[n, 3, 4] x) => (float[r, 2] y) { f = Reshape(x, rows)  y = Gemm(f, w) }"""
    model = stored(text, {"rows": np.array([-1, 4]), "w": random(4, 2)})
    alone = only(model, random(1, 3, 4), "y")
    assert map_of(alone) == (None, [], "token", "channel")
    np.testing.assert_array_equal(alone.maps()[0], alone.data)
    together = only(model, random(2, 3, 4), "y")
    assert together.maps() is None
    assert "feed one alone" in together.to_dict()["no_picture"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Flatten(x)", "one number a channel"),
        ("a = Flatten(x)  y = ArgMax<keepdims = 1>(a)", "its numbers say places"),
        ("y = ReduceSum<keepdims = 0>(x)", "below two axes"),
        (
            "s = Constant<value_ints = [1, 2, 1, 3, 2, 2]>()  y = Reshape(x, s)",
            "axes stand for: batch, channel, part",
        ),
        (
            "z = Constant<value_ints = [0]>()  o = Constant<value_ints = [1]>()  y = Slice(x, z, z, o)",
            "it is empty",
        ),
    ],
)
def test_where_there_is_no_picture_the_row_says_why(body, reason):
    text = f"""<ir_version: 9, opset_import: ["": 17]>
        net (float[1, 2, 3, 4] x) => (y) {{ {body} }}"""
    maps = features(stored(text, {}), random(1, 2, 3, 4), select="value:y")
    assert reason in maps[0].to_dict()["no_picture"]
    assert maps[0].maps() is None
    assert reason in f"{maps}"


def test_an_image_says_nothing_of_its_axes_in_its_picture():
    tap = only(convolution(3, 3), random(1, 2, 5, 6), "y")
    assert map_of(tap) == ("channel", [0, 1, 2], "height", "width")
    assert tap.caption() == "channels 0 to 2"
    assert "no picture" not in f"{tap}"


def in_pieces(model, x, axis, value):
    """What plain onnxruntime gives for one sample after another, in a list."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    if value not in [output.name for output in tapped.graph.output]:
        tapped.graph.output.add().name = value
    session = ort.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run([value], {"x": x.take([sample], axis)})[0] for sample in range(x.shape[axis])]


@pytest.mark.parametrize("length", [1, "n"])
@pytest.mark.parametrize("steps", [3, 7])  # as many as samples, or more
@pytest.mark.parametrize(("value", "axis"), [("x", 1), ("m", 1), ("t", 0), ("c", 2), ("a", 2)])
def test_samples_are_shown_along_the_axis_that_is_asked_for(value, axis, steps, length):
    text = f"""<ir_version: 9, opset_import: ["": 17]>
        net (float[{steps}, {length}, 5] x) => (float[s, d, b, c] a) {{
            m = MatMul(x, p)  t = Transpose<perm = [1, 0, 2]>(m)  c = Transpose<perm = [0, 2, 1]>(m)
            a = LSTM<hidden_size = 6>(m, w, r)
        }}"""
    model = stored(text, {"p": random(5, 5), "w": random(1, 24, 5), "r": random(1, 24, 6)})
    x = random(steps, 3, 5)
    parts = in_pieces(model, x, 1, value)
    for sample in (0, 2):
        tap = only(model, x, value, batch_axis=1, sample=sample)
        np.testing.assert_allclose(tap.data, np.concatenate(parts, axis), atol=1e-6)
        assert (tap.view.axes[axis], tap.sample) == ("batch", sample)
        expected = parts[sample].reshape(steps, -1)
        maps = tap.maps()[0]
        np.testing.assert_allclose(maps if maps.shape == expected.shape else maps.T, expected, atol=1e-6)


def test_places_with_channels_last_are_shown_for_a_sample_of_another_axis():
    text = """<ir_version: 9, opset_import: ["": 17]>
        net (float[3, n, 4, 5] x) => (float[3, n, 4, 6] y) { y = MatMul(x, w) }"""
    model, x = stored(text, {"w": random(5, 6)}), random(3, 3, 4, 5)
    tap = only(model, x, "y", batch_axis=1, sample=2)
    assert tap.to_dict()["axes"] == ["height", "batch", "width", "channel"]
    np.testing.assert_allclose(tap.maps(), in_pieces(model, x, 1, "y")[2][:, 0].transpose(2, 0, 1), atol=1e-6)
