"""A run's own values put back change nothing, bit for bit; those of another input give what that input gives."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import sequence_models
import small_networks
from onnx import numpy_helper
from planted_layers import NETWORKS

import onnxscope
from onnxscope.cli.main import run
from onnxscope.model.loading import load_model
from onnxscope.patching.patched_model import patched_pair
from onnxscope.patching.runs import Run
from onnxscope.runtime.session import open_session


def network(name):
    """A model and what it is fed."""
    if name in NETWORKS:
        return NETWORKS[name]({"dense": 12, "res": 9}.get(name, 8), 1)
    if name == "attention":
        return sequence_models.attention(), {"x": sequence_models.random(2, 5, 8)}
    made = getattr(small_networks, name)()
    return made.model, made.feeds


# Where onnxruntime fuses nodes across the value, its neighbours' numbers change in the last digit.
FEW = {
    "convolutions": ("a", "m", "p"),
    "transformer": ("h", "u", "p"),
    "residual": ("s",),
    "recurrent": ("a", "g"),
    "conv": ("c3",),
    "res": ("c1", "r5", "s2"),
    "dense": ("d1", "m5"),
    "lstm": ("l2", "q6"),
    "attention": ("s", "p"),
}
QUICK = [(name, value) for name, values in FEW.items() for value in values]


@pytest.mark.parametrize(("name", "value"), QUICK)
def test_own_values_put_back_change_no_bit(name, value):
    unchanged(*network(name), value)


@pytest.mark.acceptance
@pytest.mark.parametrize("name", FEW)
def test_all_values_of_a_network_put_back_change_no_bit(name):
    proto, feeds = network(name)
    model = load_model(proto)
    for node in model.main.nodes:
        for value in node.outputs:
            if value and value not in model.main.constants:
                unchanged(proto, feeds, value)


def unchanged(proto, feeds, value):
    recorded = onnxscope.features(proto, feeds, select=f"value:{value}")[0].data
    model = load_model(proto)
    for source in (recorded, model):
        pair = patched_pair(model, {f"value:{value}": source}, lambda: iter([Run(feeds, None, None)]))
        before, after = (open_session(one).run(feeds) for one in pair)
        plain = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
        for (name, array), expected in zip(before.items(), plain, strict=True):
            assert array.tobytes() == after[name].tobytes(), name
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5)
    maps = onnxscope.features(proto, feeds, select=f"value:{value}", replace={f"value:{value}": recorded})
    assert all(output.identical for output in maps.replaced.outputs)


BODIES = {
    "Loop": """y = Loop (n, go, x) <body = b (int64 i, bool c, float[N, 3] before)
        => (bool again, float[N, 3] after) { again = Identity(c)  h = Exp(x)  after = Mul(before, h) }>""",
    "Scan": """last, y = Scan <num_scan_inputs = 1, body = b (float[3] state, float[3] row)
        => (float[3] next, float[3] out) { h = Exp(first)  out = Mul(h, row)  next = Identity(state) }> (first, x)""",
    "If": """y = If (go) <then_branch = t () => (float[N, 3] a) { h = Exp(x)  a = Mul(h, h) },
        else_branch = e () => (float[N, 3] b) { b = Identity(x) }>""",
}


@pytest.mark.parametrize("kind", BODIES)
def test_own_values_of_bodies_put_back_change_no_bit(kind):
    x = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)
    proto = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3] x) => (float[N, 3] y) <int64 n = {{3}}, bool go = {{1}}, float[3] first = {{0.1, 0.2, 0.3}}>
        {{ {BODIES[kind]} }}""")
    h = _exp(np.array([0.1, 0.2, 0.3], np.float32) if kind == "Scan" else x)
    maps = onnxscope.features(proto, x, select="value:y", replace={"value:h": h})
    assert [output.identical for output in maps.replaced.outputs] == [True]
    moved = onnxscope.features(proto, x, select="value:y", replace={"value:h": 2 * h})
    assert [output.identical for output in moved.replaced.outputs] == [False]


def _exp(x):
    """What onnxruntime's Exp gives."""
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Exp(x) }'
    session = onnxruntime.InferenceSession(onnx.parser.parse_model(text).SerializeToString())
    return session.run(None, {"x": x.reshape(-1)})[0].reshape(x.shape)


def test_values_of_another_input_give_what_that_input_gives(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    proto, feeds = NETWORKS["conv"](8, 1)
    onnx.save(proto, "model.onnx")
    np.save("x.npy", feeds["x"])
    np.save("other.npy", feeds["x"][::-1] * 2)
    assert run(["features", "model.onnx", "-i", "other.npy", "-s", "conv3", "-o", "recorded", "--arrays", "-q"]) == 0
    with np.load("recorded/features.npz") as arrays:
        (recorded,) = arrays.values()
    np.save("conv3.npy", recorded)
    capsys.readouterr()
    for name in ("conv3.npy", "recorded/features.npz"):
        maps = onnxscope.features("model.onnx", "x.npy", select="value:y", replace={"conv3": name})
        session = onnxruntime.InferenceSession("model.onnx")
        (expected,) = session.run(None, {"x": np.load("other.npy")})
        np.testing.assert_allclose(maps[0].data, expected, rtol=1e-5, atol=1e-6)
        assert not maps.replaced.outputs[0].identical
    assert (
        run(["features", "model.onnx", "-i", "x.npy", "-s", "conv5", "-o", "out", "--replace", "conv3=conv3.npy"]) == 0
    )
    err = capsys.readouterr().err
    assert "replaced: conv3.npy in place of conv3" in err
    assert "output y moves: " in err


def test_a_part_of_the_values_of_another_input_moves_the_outputs_as_a_model_that_holds_them_does():
    proto, feeds = network("res")
    (value,) = onnxscope.features(proto, {"x": feeds["x"] + 1}, select="value:c1")
    maps = onnxscope.features(proto, feeds, select="value:y", replace={"value:c1": value.data})
    node = next(node for node in proto.graph.node if "c1" in node.output)
    proto.graph.node.remove(node)
    proto.graph.initializer.append(numpy_helper.from_array(value.data, "c1"))
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(maps[0].data, expected, rtol=1e-5, atol=1e-6)
