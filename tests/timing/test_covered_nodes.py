"""Which nodes of the model the nodes that onnxruntime runs stand for."""

from __future__ import annotations

import onnx.parser
import pytest
import small_networks

from onnxscope.model.loading import load_model
from onnxscope.selection.costs import Costs
from onnxscope.timing.covered_nodes import covered_nodes
from onnxscope.timing.run_graph import RunNode, name_nodes, read_run_graph
from onnxscope.timing.time_shares import owners_of


def owned(model, tmp_path) -> dict[str, set[str]]:
    """By layer the operators that onnxruntime runs for it; what nobody can tell is under an empty name."""
    loaded = load_model(model)
    named = name_nodes(loaded)
    nodes = read_run_graph(named, tmp_path, 1)
    owners = owners_of(loaded, covered_nodes(named, nodes), Costs(loaded))
    found: dict[str, set[str]] = {}

    def walk(nodes: tuple[RunNode, ...]) -> None:
        for node in nodes:
            owner = owners.get(node)
            found.setdefault("" if owner is None else loaded.names.layers[owner], set()).add(node.op_type)
            for body in node.bodies.values():
                walk(body)

    walk(nodes)
    return found


@pytest.mark.parametrize("name", ["_1", "conv", "fused Relu_nchwc", "@7@"])
def test_names_of_the_model_mean_nothing(name, tmp_path):
    model = small_networks.convolutions().model
    for place, node in enumerate(model.graph.node):
        node.name = f"{name}_{place}"
    found = owned(model, tmp_path)
    assert set(found) == {f"{name}_{place}" for place in (0, 3, 4, 6, 7, 8)}
    assert found[f"{name}_0"] == {"Conv", "ReorderOutput"}
    assert found[f"{name}_4"] == {"FusedConv"}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("residual", {"GroupNormalization_0", "Conv_0", "Conv_1", "ConvTranspose_0", "MatMul_0"}),
        ("transformer", {f"MatMul_{place}" for place in (0, 1, 2, 5, 6, 7)} | {"LayerNormalization_1"}),
        ("recurrent", {"LSTM_0", "GRU_0", "Gemm_0"}),
        ("quantized_pairs", {"Conv_0", "MatMul_0"}),
        ("quantized_operators", {"QLinearConv_0", "QLinearMatMul_0"}),
        ("dynamically_quantized", {"MatMulInteger_0", "Gemm_0"}),
        ("half_precision", {"Conv_0", "Conv_1", "MatMul_0"}),
        ("bodies", {"MatMul_0", "MatMul_1", "MatMul_2", "Gemm_0"}),
        ("function_calls", {"MatMul_0", "MatMul_1", "Gemm_0"}),
        ("embeddings", {"Gather_0", "Gather_1", "Gemm_0"}),
        ("trees", {"Scaler_0", "TreeEnsembleClassifier_0"}),
    ],
)
def test_every_node_that_is_run_is_somebody_s(name, layers, tmp_path):
    found = owned(getattr(small_networks, name)().model, tmp_path)
    assert "" not in found
    assert layers <= set(found)


def test_what_finishes_a_layer_s_work_is_the_layer_s(tmp_path):
    found = owned(small_networks.quantized_pairs().model, tmp_path)
    assert {"QLinearConv", "Transpose", "DequantizeLinear"} <= found["Conv_0"]  # in channels last, and back
    assert found["MatMul_0"] == {"Gemm", "DequantizeLinear"}
    assert found["QuantizeLinear_0"] == {"QuantizeLinear"}


def test_the_branch_of_a_constant_condition_is_found_in_the_main_graph(tmp_path):
    """onnxruntime puts the nodes of the branch that is always taken in the place of the If."""
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17]>
        g (float[N, 3] x) => (float[N, 3] y) <bool yes = {1}> {
            h = If(yes) <then_branch = t () => (float[N, 3] a) <float[3, 3] w = {1,2,3,4,5,6,7,8,9}> {
                             b = MatMul(x, w)  c = LpNormalization(b)  a = Neg(c) },
                         else_branch = e () => (float[N, 3] d) { d = Relu(x) }>
            y = Sqrt(h)
        }""")
    found = owned(model, tmp_path)
    assert "" not in found
    assert found["MatMul_0"] == {"MatMul"}
    assert found["LpNormalization_0"] == {"LpNormalization"}
