"""Loading: what a model says about itself, what is put right, what is refused."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, TensorProto

from onnxscope.errors import ModelError
from onnxscope.model.loading import InputSpec, load_model
from onnxscope.model.provenance import Provenance, write_provenance
from onnxscope.runtime.session import Session

PLAIN = """
    <ir_version: 9, opset_import: ["": 17, "own.domain": 2], producer_name: "maker", producer_version: "1.5">
    plain (float[N, 3] x, float[3] d, string[?] s) => (float[N, 3] y) <float[3] d = {1, 2, 3}> { y = Add(x, d) }"""


def parse(text: str) -> ModelProto:
    return onnx.parser.parse_model(text)


def with_functions(graph: str, functions: str) -> ModelProto:
    return parse(f'<ir_version: 9, opset_import: ["": 17, "l": 1]> {graph} {functions}')


def function(header: str, body: str) -> str:
    return f'<domain: "l", opset_import: ["": 17, "l": 1]> {header} {{ {body} }}\n'


def doubling(levels: int) -> ModelProto:
    """Functions that each call the one before twice: 2**levels nodes."""
    functions = function("f0 (x) => (y)", "y = Relu(x)") + "".join(
        function(f"f{level} (x) => (y)", f"a = l.f{level - 1}(x)  y = l.f{level - 1}(a)")
        for level in range(1, levels + 1)
    )
    return with_functions(f"g (float[N] x) => (float[N] y) {{ y = l.f{levels}(x) }}", functions)


# ---- description


def test_a_model_describes_itself(tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    onnx.save(parse(PLAIN), path)
    model = load_model(path)
    assert repr(model) == "<Model plain.onnx: 1 nodes, 1 initializers>"
    assert model.inputs == (InputSpec("x", "float32", ("N", 3)), InputSpec("s", "str", (None,)))
    assert model.outputs == (InputSpec("y", "float32", ("N", 3)),)
    assert model.opsets == {"ai.onnx": 17, "own.domain": 2}
    assert model.producer == "maker 1.5"
    assert model.folder == tmp_path.resolve()
    assert model.to_dict() == {
        "name": "plain.onnx",
        "size_bytes": path.stat().st_size,
        "ir_version": 9,
        "opsets": {"ai.onnx": 17, "own.domain": 2},
        "producer": "maker 1.5",
        "graph": "plain",
        "framework": None,
        "mode": None,
        "source": None,
        "preprocess": None,
    }


def test_provenance_is_read_from_the_metadata() -> None:
    proto = parse(PLAIN)
    onnx.helper.set_model_props(proto, write_provenance(Provenance("torch", "2.13", "faithful", "alexnet", "imagenet")))
    record = load_model(proto).to_dict()
    assert [record[key] for key in ("framework", "mode", "source", "preprocess")] == [
        "torch 2.13",
        "faithful",
        "alexnet",
        "imagenet",
    ]


def test_a_model_from_memory_is_copied_and_left_alone() -> None:
    proto = with_functions(
        "g (float[-1, 4] x) => (float[-1, 2] y) { a, b = Split <axis = 1> (x)  y = l.f(a) }",
        function("f (x) => (y)", "y = Relu(x)"),
    )
    proto.graph.node[0].output[1] = ""
    before = proto.SerializeToString(deterministic=True)
    model = load_model(proto)
    assert model.proto.graph.node[0].output[1] != ""
    assert proto.SerializeToString(deterministic=True) == before
    assert (model.name, model.folder, model.size_bytes) == ("g", None, proto.ByteSize())


def test_a_loaded_model_is_taken_as_it_is() -> None:
    model = load_model(parse(PLAIN))
    assert load_model(model) is model


def test_a_model_is_found_through_a_symbolic_link_with_its_data_beside_the_real_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    proto = parse(PLAIN)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones(3, np.float32), "d"))
    onnx.save(proto, tmp_path / "real" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "link.onnx").symlink_to("real/m.onnx")
    model = load_model(str(tmp_path / "link.onnx"))
    assert model.name == "link.onnx"
    assert model.array(model.main.initializers["d"]).tolist() == [1, 1, 1]


# ---- what is put right


def test_dims_written_as_minus_one_become_unknown_everywhere() -> None:
    proto = parse("""
        <ir_version: 9, opset_import: ["": 17]>
        g (bool c, float[N, 3] x) => (float[N, 3] y) <float[N, 3] h> {
            h = Relu(x)
            y = If (c) <
                then_branch = t () => (float[N, 3] p) { p = Neg(h) },
                else_branch = e () => (float[N, 3] q) { q = Abs(h) }
            >
        }""")
    body = proto.graph.node[1].attribute[0].g
    for value in (proto.graph.input[1], proto.graph.output[0], proto.graph.value_info[0], body.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    model = load_model(proto)
    assert model.inputs[1].shape == (None, 3)
    assert model.outputs[0].shape == (None, 3)
    assert model.main.types["h"].shape == (None, 3)
    assert [graph.types["p"].shape for graph in model.graphs.values() if "p" in graph.types] == [(None, 3)]
    assert "dim_value: -1" not in str(model.proto)


def test_unnamed_outputs_of_split_get_names_that_nothing_else_has() -> None:
    proto = parse("""
        <ir_version: 9, opset_import: ["": 17]>
        g (bool c, float[6] x) => (float[2] y, float[2] z) {
            onnxscope_unused_0 = Identity(x)
            b, y, d = Split(x)
            z = If (c) <
                then_branch = t () => (float[2] p) { p, q, r = Split(x) },
                else_branch = e () => (float[2] k) { i, j, k = Split(x) }
            >
        }""")
    branches = [attribute.g.node[0] for attribute in proto.graph.node[2].attribute]
    for node, place in ((proto.graph.node[1], 0), (proto.graph.node[1], 2), (branches[0], 1), (branches[1], 0)):
        node.output[place] = ""
    model = load_model(proto)
    outputs = [output for graph in model.graphs.values() for node in graph.nodes for output in node.outputs]
    assert "" not in outputs
    assert len(set(outputs)) == len(outputs)
    found = Session(model.proto, folder=None, where="g").run({"c": np.array(True), "x": np.arange(6, dtype=np.float32)})
    assert (found["y"].tolist(), found["z"].tolist()) == ([2, 3], [0, 1])


def test_local_functions_are_inlined_with_their_attributes_and_the_same_result() -> None:
    proto = with_functions(
        "g (float[N] x) => (float[N] y) { h = l.outer <slope = 0.5> (x)  y = l.inner <alpha = 0.25> (h) }",
        function("outer <slope> (x) => (y)", "a = l.inner <alpha: float = @slope> (x)  y = Neg(a)")
        + function("inner <alpha> (x) => (y)", "y = LeakyRelu <alpha: float = @alpha> (x)"),
    )
    model = load_model(proto)
    assert model.inlined_functions == 2
    assert [node.op_type for node in model.main.nodes] == ["LeakyRelu", "Neg", "LeakyRelu"]
    assert [node.attribute("alpha") for node in model.main.nodes] == [0.5, None, 0.25]
    x = np.array([-8.0, 4.0], np.float32)
    found = Session(model.proto, folder=None, where="g").run({"x": x})["y"]
    assert found.tolist() == [4.0, -1.0]  # -8 * 0.5 = -4, negated 4; 4 negated -4, times 0.25


def test_functions_inside_bodies_are_inlined_too() -> None:
    text = """g (bool c, float[N] x) => (float[N] y) {
        y = If (c) <then_branch = t () => (float p) { p = l.f(x) }, else_branch = e () => (float q) { q = Abs(x) }>
    }"""
    model = load_model(with_functions(text, function("f (x) => (y)", "a = Relu(x)  y = Neg(a)")))
    assert [node.op_type for graph in model.graphs.values() for node in graph.nodes] == ["If", "Relu", "Neg", "Abs"]


def test_doubling_functions_of_a_bearable_size_are_inlined() -> None:
    assert len(load_model(doubling(10)).main.nodes) == 1024


# ---- what is refused


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (function("f (x) => (y)", "y = l.f(x)"), "function 'f' calls itself: g"),
        (
            function("f (x) => (y)", "y = l.h(x)") + function("h (x) => (y)", "y = l.f(x)"),
            "function 'f' calls itself: g",
        ),
        (
            function(
                "f (x) => (y)",
                "c = Cast <to = 9> (x)  y = If (c) <then_branch = t () => (float p) { p = l.f(x) }, "
                "else_branch = e () => (float q) { q = Relu(x) }>",
            ),
            "function 'f' calls itself: g",
        ),
    ],
)
def test_recursive_functions_are_refused(functions: str, message: str) -> None:
    proto = with_functions("g (float[N] x) => (float[N] y) { y = l.f(x) }", functions)
    with pytest.raises(ModelError, match=f"^{message}$"):
        load_model(proto)


@pytest.mark.parametrize("levels", [20, 60, 90])
def test_functions_that_explode_are_refused(levels: int) -> None:
    with pytest.raises(ModelError, match=r"^local functions expand to more than 1,000,000 nodes or .* bytes: g$"):
        load_model(doubling(levels))


@pytest.mark.parametrize("first", [1, 3000], ids=["innermost first", "outermost first"])
def test_a_long_chain_of_functions_is_refused(first: int) -> None:
    chain = [function("f0 (x) => (y)", "y = Relu(x)")]
    chain += [function(f"f{level} (x) => (y)", f"y = l.f{level - 1}(x)") for level in range(1, 3001)]
    called = "".join(f"v{level} = l.f{level}(x)  " for level in range(0, 3000, 50)) if first == 1 else ""
    proto = with_functions(f"g (float[N] x) => (float[N] y) {{ {called} y = l.f3000(x) }}", "".join(chain))
    with pytest.raises(ModelError, match=r"^local functions call each other more than 100 deep: g$"):
        load_model(proto)


def test_a_large_constant_in_a_function_called_often_is_refused() -> None:
    proto = doubling(14)
    constant = onnx.numpy_helper.from_array(np.zeros(1 << 18, np.float32))
    proto.functions[0].node.append(onnx.helper.make_node("Constant", [], ["unused"], value=constant))
    with pytest.raises(ModelError, match=r"^local functions expand to more than .* or 1,073,741,824 bytes: g$"):
        load_model(proto)


def test_a_large_tensor_handed_to_a_function_that_uses_it_often_is_refused() -> None:
    uses = "  ".join(f"c{i} = Constant <value: tensor = @t> ()" for i in range(2000))
    proto = with_functions(
        "g (float[N] x) => (float[N] y) { y = l.f(x) }", function("f <t> (x) => (y)", f"y = Relu(x)  {uses}")
    )
    tensor = onnx.numpy_helper.from_array(np.zeros(1 << 18, np.float32))
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("t", tensor))
    with pytest.raises(ModelError, match=r"^local functions expand to more than .* or 1,073,741,824 bytes: g$"):
        load_model(proto)


def test_a_function_that_takes_a_graph_is_refused() -> None:
    proto = with_functions(
        "g (bool c, float[N] x) => (float[N] y) { y = l.f <body = b () => (float[N] z) { z = Relu(x) }> (c) }",
        function("f <body> (c) => (y)", "y = If <then_branch: graph = @body, else_branch: graph = @body> (c)"),
    )
    with pytest.raises(ModelError, match=r"^function 'f' takes a graph as an attribute: g$"):
        load_model(proto)


def test_functions_that_onnx_cannot_inline_are_refused_in_one_line() -> None:
    proto = with_functions(
        "g (float[N] x) => (float[N] y) { y = l.f(x, x, x) }", function("f (x) => (y)", "y = Relu(x)")
    )
    with pytest.raises(ModelError, match=r"^local functions cannot be inlined \(.+\): g$") as caught:
        load_model(proto)
    assert "\n" not in str(caught.value)


def test_a_model_needs_a_graph_an_ir_version_and_an_operator_set() -> None:
    with pytest.raises(ModelError, match=r"^not an ONNX model \(no graph in it\): model$"):
        load_model(ModelProto(ir_version=9))
    proto = parse(PLAIN)
    proto.ClearField("ir_version")
    with pytest.raises(ModelError, match=r"^not an ONNX model \(it states no IR version\): plain$"):
        load_model(proto)
    proto = parse(PLAIN)
    del proto.opset_import[:]
    with pytest.raises(ModelError, match=r"^not an ONNX model \(it imports no operator set\): plain$"):
        load_model(proto)
    proto.ir_version = 2  # these had none
    assert load_model(proto).opsets == {}


def test_what_is_neither_a_path_nor_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^a model is a path or a ModelProto, not bytes$"):
        load_model(b"onnx")


def test_what_the_scanner_passes_but_protobuf_cannot_parse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\x08\x09\x3a\x02\x0a\x05\x42\x02\x10\x11")  # a node longer than its graph: scanned, not parsed
    with pytest.raises(ModelError, match=r"^not an ONNX model \(.*\): bad.onnx$"):
        load_model(path)
    path.write_bytes(b"\x08\x09\x3a\x04\x0a\x02\x0a\x05\x42\x02\x10\x11")
    with pytest.raises(ModelError, match=r"^not an ONNX model \(protobuf cannot parse it\): bad.onnx$"):
        load_model(path)


def test_names_in_messages_cannot_act_on_a_terminal() -> None:
    proto = parse(PLAIN)
    proto.graph.name = "g\x1b[2J"
    proto.graph.node[0].input[0] = "\x9b1m\n"
    with pytest.raises(
        ModelError, match=r"^node 'Add\(y\)' reads '\\\\x9b1m\\\\n', which nothing produces: g\\x1b\[2J$"
    ):
        load_model(proto)


def test_constant_tensors_of_the_elements_that_the_runtime_lacks_do_not_stop_a_description() -> None:
    proto = parse(PLAIN)
    proto.graph.initializer.add(name="odd", data_type=TensorProto.FLOAT6E2M3, dims=[4], raw_data=b"\0\0\0")
    assert set(load_model(proto).main.initializers) == {"d", "odd"}


def test_a_model_travels_as_its_path_or_as_its_bytes(tmp_path):
    path = tmp_path / "m.onnx"
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17]>
        net (float[2] x) => (float[2] y) { y = Relu(x) }""")
    onnx.save(model, path)
    loaded = load_model(path)
    whole = hashlib.sha256(hashlib.sha256(model.SerializeToString()).digest()).hexdigest()
    assert loaded.digest == whole
    travelling = pickle.dumps(loaded)
    assert pickle.loads(travelling).proto == loaded.proto
    assert pickle.loads(pickle.dumps(load_model(model))).proto == loaded.proto
    path.write_bytes(path.read_bytes() + b"\x32\x01a")  # one more field, doc_string
    with pytest.raises(ModelError, match=r"^the file has changed while it was in use: m\.onnx$"):
        pickle.loads(travelling)
    assert load_model(path).digest != whole
