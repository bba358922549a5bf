"""What is removed from an export, and how a model is written."""

from __future__ import annotations

import onnx
import pytest

pytest.importorskip("torch")

from onnxscope_torch.cleaning import clean_model


def _model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')


def test_stack_traces_go_and_scopes_stay():
    model = _model("g (float[N] x) => (float[N] z) { y = Relu(x) z = Neg(y) }")
    scopes = "['', 'layer1', 'relu']"
    entries = {"pkg.torch.onnx.stack_trace": "/home/me", "pkg.torch.onnx.name_scopes": scopes}
    for key, value in entries.items():
        model.graph.node[0].metadata_props.add(key=key, value=value)
    nowhere = "['_empty_nn_module_stack_from_metadata_hook', 'sym_size']"
    model.graph.node[1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=nowhere)
    model.graph.metadata_props.add(key="pkg.torch.export.ExportedProgram.graph_signature", value="/home/me")
    model.graph.node[0].doc_string = "/home/me/net.py"
    clean_model(model)
    assert b"/home/me" not in model.SerializeToString()
    assert [(e.key, e.value) for e in model.graph.node[0].metadata_props] == [("pkg.torch.onnx.name_scopes", scopes)]
    assert not model.graph.node[1].metadata_props


def test_a_computed_zero_bias_goes_and_another_stays():
    model = _model(
        """g (float[1,1,4,4] x, float[1,1,1,1] w) => (float[1,1,4,4] z) {
            zero = Constant <value = float {0.0}> ()
            one = Constant <value = float {1.0}> ()
            size = Constant <value = int64[1] {1}> ()
            none = Expand(zero, size)
            some = Expand(one, size)
            y = Conv(x, w, none)
            z = Conv(y, w, some)
        }"""
    )
    clean_model(model)
    assert [(n.op_type, list(n.input)) for n in model.graph.node if n.op_type != "Constant"] == [
        ("Expand", ["one", "size"]),
        ("Conv", ["x", "w"]),
        ("Conv", ["y", "w", "some"]),
    ]
    assert [n.output[0] for n in model.graph.node if n.op_type == "Constant"] == ["one", "size"]


def test_what_a_body_reads_from_outside_stays():
    model = _model(
        """g (float[1,1,4,4] x, float[1,1,1,1] w, bool c) => (float[1,1,4,4] y, float z) {
            zero = Constant <value = float[1] {0.0}> ()
            kept = Constant <value = float {2.0}> ()
            y = Conv(x, w, zero)
            z = If (c) <
                then_branch = a () => (float t) { t = Neg(kept) },
                else_branch = b () => (float e) { e = Constant <value = float {1.0}> () }
            >
        }"""
    )
    clean_model(model)
    assert [n.output[0] for n in model.graph.node] == ["kept", "y", "z"]


@pytest.mark.parametrize("written", ["", "x = Identity(x)"])
def test_an_output_that_is_an_input_gets_a_name(written):
    model = _model(f"g (float[N] x) => (float[N] y, float[N] x) {{ y = Relu(x) {written} }}")
    clean_model(model)
    assert [value.name for value in model.graph.output] == ["y", "output_1"]
    assert list(model.graph.node[1].input) == ["x"]
    assert list(model.graph.node[1].output) == ["output_1"]
    assert len(model.graph.node) == 2
