"""What is removed from an export, and how a model is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from onnxscope.converting.saving import save_model
from onnxscope.errors import OutputError
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


def _weights() -> onnx.ModelProto:
    model = _model("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    rng = np.random.default_rng(0)
    for index, size in enumerate((1000, 3, 2000)):
        array = rng.standard_normal(size).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"w{index}"))
    return model


def test_small_models_are_one_file(tmp_path):
    assert not save_model(_weights(), str(tmp_path / "m.onnx"))
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == _weights().SerializeToString(deterministic=True)


def test_large_models_are_two_files_that_load_as_one(tmp_path):
    assert save_model(_weights(), str(tmp_path / "m.onnx"), limit_bytes=5000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert [t.data_location == t.EXTERNAL for t in bare.graph.initializer] == [True, False, True]
    loaded = onnx.load(tmp_path / "m.onnx")
    for stored, expected in zip(loaded.graph.initializer, _weights().graph.initializer, strict=True):
        assert stored.raw_data == expected.raw_data
    assert all(int(e.value) % 4096 == 0 for t in bare.graph.initializer for e in t.external_data if e.key == "offset")


@pytest.mark.parametrize("blocked", ["m.onnx", "m.onnx.data"])
def test_two_files_are_written_both_or_neither(tmp_path, blocked):
    (tmp_path / blocked).mkdir()  # a folder cannot be replaced by a file
    (tmp_path / blocked / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="cannot write"):
        save_model(_weights(), str(tmp_path / "m.onnx"), limit_bytes=5000)
    assert [p.name for p in tmp_path.iterdir()] == [blocked]
    assert [p.name for p in Path(tmp_path, blocked).iterdir()] == ["mine.txt"]
