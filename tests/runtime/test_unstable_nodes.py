"""Random and stateful nodes: found in every spelling and place, and held to what onnxruntime gives in several runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from unstable_models import X, moving, written

from onnxscope.model.loading import load_model
from onnxscope.runtime.unstable_nodes import find_unstable, remarks_on_unstable, unstable_values

SCALES = "<float[4] s = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0}, float[4] m = {0, 0, 0, 0}, float[4] v = {1, 1, 1, 1}>"
RANDOM = {
    "RandomNormal": "r = RandomNormal<shape = [6, 4]>() y = Add(x, r)",
    "RandomUniform": "r = RandomUniform<shape = [6, 4]>() y = Add(x, r)",
    "RandomNormalLike": "r = RandomNormalLike(x) y = Neg(r)",
    "RandomUniformLike": "r = RandomUniformLike(x) y = Neg(r)",
    "Bernoulli": "r = Bernoulli(x) y = Neg(r)",
    "Multinomial": "r = Multinomial<sample_size = 9>(x) y = Cast<to = 1>(r)",
    "Dropout": "p = Constant<value = float {0.5}>() t = Constant<value = bool {1}>() r = Dropout(x, p, t) y = Neg(r)",
}


@pytest.mark.parametrize("operator", RANDOM)
@pytest.mark.parametrize("seed", [None, 3])
def test_a_random_operator_is_found_and_what_it_reaches_is_what_moves(operator, seed):
    proto = written(f"a = Neg(x) k = Add(a, a) {RANDOM[operator]}", outputs="float[?, ?] y, float[6, 4] k")
    (node,) = (node for node in proto.graph.node if node.op_type == operator)
    if seed is not None:
        node.attribute.append(onnx.helper.make_attribute("seed", seed if operator == "Dropout" else float(seed)))
    (unstable,) = find_unstable(load_model(proto))
    assert (unstable.operator, unstable.kind, unstable.path) == (operator, "random", ())
    assert unstable.touched == {(): frozenset({"r", "y"})}
    assert unstable.outputs == ("y",)
    assert moving(proto) == {"r", "y"}  # a seed does not help
    assert unstable.seed == seed
    assert ("the same sequence in every session (seed 3)" in unstable.message) is (seed == 3)


@pytest.mark.parametrize("operator", RANDOM)
def test_a_seed_gives_every_session_the_same_sequence_and_no_two_runs_the_same(operator):
    proto = written(RANDOM[operator])
    (node,) = (node for node in proto.graph.node if node.op_type == operator)
    node.attribute.append(onnx.helper.make_attribute("seed", 5 if operator == "Dropout" else 5.0))
    runs = []
    for _ in range(2):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        fed = {value.name: X for value in session.get_inputs()}
        runs.append([session.run(["y"], fed)[0] for _ in range(6)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not all(np.array_equal(runs[0][0], run) for run in runs[0])


MODES = {
    "initializer": ("y = Dropout(x, , t)", "<bool t = {%d}>"),
    "constant": ("t = Constant<value = bool {%d}>() y = Dropout(x, , t)", ""),
    "cast": ("c = Constant<value = int64 {%d}>() t = Cast<to = 9>(c) y = Dropout(x, , t)", ""),
    "cast of an attribute": ("c = Constant<value_int = %d>() t = Cast<to = 9>(c) y = Dropout(x, , t)", ""),
    "identity": ("i = Identity(c) t = Identity(i) y = Dropout(x, , t)", "<bool c = {%d}>"),
    "reshape": ("t = Reshape(c, e) y = Dropout(x, , t)", "<bool[1] c = {%d}, int64[0] e = {}>"),
}


@pytest.mark.parametrize("spelling", MODES)
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("opset", [12, 13, 17, 22])
def test_dropout_says_its_mode_in_an_operand(spelling, trains, opset):
    text, stored = MODES[spelling]
    text, stored = ((part % trains if "%" in part else part) for part in (text, stored))
    proto = written(text, opset=opset, stored=stored)
    assert [node.operator for node in find_unstable(load_model(proto))] == ["Dropout"] * trains
    assert ("y" in moving(proto)) is trains


@pytest.mark.parametrize(
    ("text", "outputs", "left_out"),
    [
        ("a = Neg(x) d = Dropout(a, , t) y = Neg(d)", "", True),
        ("a = Neg(x) d, m = Dropout(a, p, t) y = Neg(d)", "", True),
        ("a = Neg(x) d = Dropout(a, , t) b = Neg(d) c = Exp(d) y = Add(b, c)", "", True),
        ("a = Neg(x) c = Identity(t) d = Dropout(a, , c) y = Neg(d)", "", True),
        ("a = Neg(x) y = Dropout(a, , t)", "", False),
        ("a = Neg(x) d = Dropout(a, , t) y = Neg(d)", ", float[6, 4] d", False),
        ("a = Neg(x) d, m = Dropout(a, , t) y = Neg(d)", ", bool[6, 4] m", False),
        ("a = Neg(x) d, m = Dropout(a, , t) c = Cast<to = 1>(m) y = Add(d, c)", "", False),
        ("d = Dropout(x, , t) y = Neg(d)", "", False),
        ("a = Neg(k) d = Dropout(a, , t) e = Add(x, d) y = Neg(e)", "", True),
        ("a = Constant<value = float[4] {1, 2, 3, 4}>() d = Dropout(a, , t) e = Add(x, d) y = Neg(e)", "", False),
        ("a = Neg(x) s = Sigmoid(x) q = ReduceMean<keepdims = 0>(s) d = Dropout(a, q, t) y = Neg(d)", "", False),
    ],
)
@pytest.mark.parametrize("opset", [13, 17])
def test_onnxruntime_drops_most_dropouts_in_training_mode_that_are_not_observed(text, outputs, left_out, opset):
    stored = "<bool t = {1}, float p = {0.5}, float[4] k = {1, 2, 3, 4}>"
    proto = written(text, opset=opset, outputs=f"float[6, 4] y{outputs}", stored=stored)
    (unstable,) = find_unstable(load_model(proto))
    assert unstable.left_out is left_out
    assert ("onnxruntime's optimizer drops it" in unstable.message) is left_out
    for level, random in (("ORT_ENABLE_ALL", not left_out), ("ORT_DISABLE_ALL", True)):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        runs = [session.run(["y"], {"x": X})[0] for _ in range(9)]
        assert any(not np.array_equal(runs[0], run) for run in runs) is random, level


def test_a_dropout_that_drops_nothing_is_not_random():
    proto = written("y = Dropout(x, p, t)", stored="<float p = {0}, bool t = {1}>")
    assert find_unstable(load_model(proto)) == ()
    assert moving(proto) == set()
    assert find_unstable(load_model(written("y = Dropout<ratio = 0.0, is_test = 0>(x)", opset=6))) == ()


@pytest.mark.parametrize(
    ("opset", "text", "trains"),
    [
        (1, "y = Dropout<is_test = 0>(x)", True),
        (6, "y = Dropout<is_test = 0>(x)", True),
        (6, "y = Dropout(x)", True),  # which is what the specification says of a missing is_test
        (6, "y = Dropout<is_test = 1>(x)", False),
        (7, "y = Dropout(x)", False),
        (10, "y, mask = Dropout(x)", False),
        (12, "y = Dropout(x)", False),
    ],
)
def test_before_operator_set_12_only_is_test_puts_dropout_in_training_mode(opset, text, trains):
    assert bool(find_unstable(load_model(written(text, opset=opset)))) is trains


@pytest.mark.parametrize(
    ("opset", "text", "trains"),
    [
        (6, "y = BatchNormalization<is_test = 0>(x, s, b, m, v)", True),
        (6, "y = BatchNormalization<is_test = 1>(x, s, b, m, v)", False),
        (7, "y = BatchNormalization(x, s, b, m, v)", False),
        (9, "y, rm, rv, sm, sv = BatchNormalization(x, s, b, m, v)", True),
        (13, "y, rm, rv, sm, sv = BatchNormalization(x, s, b, m, v)", True),
        (13, "y = BatchNormalization(x, s, b, m, v)", False),
        (14, "y, rm, rv = BatchNormalization<training_mode = 1>(x, s, b, m, v)", True),
        (17, "y, rm, rv = BatchNormalization<training_mode = 1>(x, s, b, m, v)", True),
        (17, "y = BatchNormalization<training_mode = 0>(x, s, b, m, v)", False),
        (17, "y = BatchNormalization(x, s, b, m, v)", False),
    ],
)
def test_batch_normalization_in_training_mode_is_stateful(opset, text, trains):
    unstable = find_unstable(load_model(written(text, opset=opset, stored=SCALES)))
    assert [(node.operator, node.kind) for node in unstable] == [("BatchNormalization", "stateful")] * trains
    if trains:
        assert "is in training mode, normalizing by the batch at hand: stateful" in unstable[0].message


def test_onnxruntime_lets_a_batch_normalization_in_training_mode_move_from_run_to_run():
    proto = written("y, rm, rv = BatchNormalization<training_mode = 1>(x, s, b, m, v)", stored=SCALES)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    first, second = (session.run(["y"], {"x": X})[0] for _ in range(2))
    assert not np.array_equal(first, second)
    assert set(unstable_values(load_model(proto))) == {"y", "rm", "rv"}


def test_contrib_dropouts_have_rows_of_their_own():
    contrib = ', "com.microsoft": 1'
    stored = "<float[4] c = {0, 0, 0, 0}, float p = {0.5}, bool t = {1}>"
    for text in (
        "y = com.microsoft.BiasDropout(x, c, , p, t)",
        "y, k = com.microsoft.BitmaskBiasDropout(x, c, , p, t)",
        "y, k = com.microsoft.BitmaskDropout(x, p, t)",
    ):
        proto = written(text, stored=stored, domains=contrib)
        assert [node.kind for node in find_unstable(load_model(proto))] == ["random"], text
    others = written("y = own.Dropout(x, p, t)", stored=stored, domains=', "own": 1')
    assert find_unstable(load_model(others)) == ()  # whatever that may be


def test_a_mode_that_is_fed_is_said_with_its_condition():
    proto = written("y = Dropout(x, , train)", inputs="float[6, 4] x, bool train")
    model = load_model(proto)
    (unstable,) = find_unstable(model)
    assert unstable.condition == "train"
    assert unstable.message == "Dropout(y) is in training mode where train is true: random; it reaches the output y"
    assert unstable_values(model) == {}


def test_a_node_in_a_local_function_is_found_where_it_is_called():
    proto = written(
        "a = Neg(x) y = own.Noisy(a) z = Neg(a)",
        outputs="float[6, 4] y, float[6, 4] z",
        domains=', "own": 1',
        more="""
        <domain: "own", opset_import: ["": 17]>
        Noisy (v) => (w) { r = RandomNormalLike(v) w = Add(v, r) }""",
    )
    (unstable,) = find_unstable(load_model(proto))
    assert unstable.outputs == ("y",)
    assert len(unstable.touched[()]) == 2
    assert moving(proto) == {"y"}


def test_layers_are_counted_and_named():
    stored = "<float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, bool t = {1}>"
    proto = written("a = Gemm(x, w) d = Dropout(a, , t) h = Gemm(d, w) y = Gemm(h, w)", stored=stored)
    for node, name in zip(proto.graph.node, ("in", "drop1", "mid", "out"), strict=True):
        node.name = name
    model = load_model(proto)
    (unstable,) = find_unstable(model)
    assert unstable.message == (
        "Dropout drop1 is in training mode: random; it reaches 2 of 3 layers and the output y; "
        "onnxruntime's optimizer drops it unless it is observed"
    )
    assert unstable.layers == ("mid", "out")
    assert unstable.layer == "drop1"
    assert unstable.to_dict()["message"] == unstable.message
    reason = "depends on Dropout drop1, which is in training mode: random"
    assert unstable_values(model) == dict.fromkeys(("d", "h", "y"), reason)
    assert moving(proto) == {"d", "h", "y"}


def test_a_node_that_nothing_reads_reaches_nothing():
    proto = written("r = RandomNormalLike(x) y = Neg(x)")
    (unstable,) = find_unstable(load_model(proto))
    assert unstable.message.endswith("it reaches no output")


def test_many_are_counted():
    text = "".join(f"r{i} = RandomNormalLike(x) " for i in range(300))
    model = load_model(written(f"{text} y = Add(r3, x)"))
    unstable = find_unstable(model)
    assert [node.outputs for node in unstable[:5]] == [(), (), (), ("y",), ()]
    assert len(unstable) == 300
    assert len(remarks_on_unstable(model)) == 6
    assert remarks_on_unstable(model)[-1] == ("295 more nodes are random or stateful; `onnxscope inspect` lists them")


def test_a_model_without_any_says_nothing():
    model = load_model(written("a = Neg(x) y = Softmax(a)"))
    assert find_unstable(model) == ()
    assert remarks_on_unstable(model) == ()
    assert unstable_values(model) == {}


def test_odd_attributes_are_no_mode():
    proto = written("t = Constant<value_int = 1>() y = Dropout(x, , t)")
    proto.graph.node[0].attribute[0].CopyFrom(onnx.helper.make_attribute("value_int", "text"))
    (unstable,) = find_unstable(load_model(proto))
    assert unstable.condition == "t"
    proto.graph.node[0].attribute[0].CopyFrom(
        onnx.helper.make_attribute("value", onnx.helper.make_tensor("t", TensorProto.COMPLEX64, [], [1j]))
    )
    (unstable,) = find_unstable(load_model(proto))
    assert unstable.condition == "t"


@pytest.mark.parametrize(
    "node",
    [
        onnx.helper.make_node("RandomNormal", [], ["d"], seed="text"),
        onnx.helper.make_node("RandomNormal", [], ["d"], seed=float("nan")),
    ],
    ids=["text", "nan"],
)
def test_malformed_seeds_are_no_reason_to_fail(node):
    proto = written("i = Identity(x) y = Neg(x)")
    proto.graph.node[0].CopyFrom(node)
    (unstable,) = find_unstable(load_model(proto))
    assert unstable.to_dict()["seed"] is None
    assert unstable.message


class TestExportedByTorch:
    """What PyTorch's exporter writes of a model in training mode."""

    @pytest.fixture(scope="class")
    @staticmethod
    def exports(tmp_path_factory):
        torch = pytest.importorskip("torch")
        nn = torch.nn
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 3))
        paths = {}
        for mode in (torch.onnx.TrainingMode.TRAINING, torch.onnx.TrainingMode.EVAL):
            paths[mode.name] = tmp_path_factory.mktemp("torch") / f"{mode.name}.onnx"
            network.train(mode.name == "TRAINING")
            torch.onnx.export(
                network,
                (torch.zeros(2, 3, 8, 8),),
                str(paths[mode.name]),
                training=mode,
                dynamo=False,
                do_constant_folding=False,
                opset_version=17,
            )
        return paths

    @pytest.mark.filterwarnings("ignore")
    def test_both_kinds_are_found(self, exports):
        norm, dropout = find_unstable(load_model(exports["TRAINING"]))
        assert (norm.operator, norm.kind) == ("BatchNormalization", "stateful")
        assert (dropout.operator, dropout.kind, dropout.condition) == ("Dropout", "random", None)
        assert norm.layers_reached > dropout.layers_reached == 1

    @pytest.mark.filterwarnings("ignore")
    def test_inference_mode_says_nothing(self, exports):
        assert find_unstable(load_model(exports["EVAL"])) == ()
