"""What nothing reads goes, with what was its alone; what a body reads from outside stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx.reference import ReferenceEvaluator

from onnxscope.converting.unread_nodes import drop_unread


def model(graph, **weights):
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> {graph}')
    for name, value in weights.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return made


def names(graph):
    return [name for node in graph.node for name in node.output], [tensor.name for tensor in graph.initializer]


def test_a_chain_that_nothing_reads_goes_with_its_weights():
    made = model(
        """g (float[4] x) => (float[4] y) <float[4] a, float[4] b> {
            a = Add(x, alone)  b = Mul(a, both)  y = Mul(x, both)
        }""",
        alone=np.ones(4, np.float32),
        both=np.full(4, 2, np.float32),
        never=np.zeros(4, np.float32),
    )
    before = ReferenceEvaluator(made).run(None, {"x": np.arange(4, dtype=np.float32)})
    drop_unread(made.graph)
    onnx.checker.check_model(made, full_check=True)
    # A parameter that no node has ever read belongs to the framework's module all the same.
    assert names(made.graph) == (["y"], ["both", "never"])
    assert not made.graph.value_info
    np.testing.assert_array_equal(ReferenceEvaluator(made).run(None, {"x": np.arange(4, dtype=np.float32)}), before)


def test_where_everything_is_read_nothing_changes():
    made = model(
        "g (float[4] x) => (float[4] y) <float[4] a> { a = Add(x, w)  y = Neg(a) }",
        w=np.ones(4, np.float32),
        never=np.zeros(4, np.float32),
    )
    before = made.SerializeToString(deterministic=True)
    drop_unread(made.graph)
    assert made.SerializeToString(deterministic=True) == before


def test_a_weight_that_is_an_output_stays():
    made = model("g (float[4] x) => (float[4] y, float[4] w) { a = Add(x, w)  y = Neg(x) }", w=np.ones(4, np.float32))
    drop_unread(made.graph)
    assert names(made.graph) == (["y"], ["w"])


@pytest.mark.parametrize("read", ["t = Neg(kept)", "i = If (c) < then_branch = p () => (float q) { q = Neg(kept) },"
    " else_branch = r () => (float s) { s = Identity(weight) } >  t = Identity(i)"])  # fmt: skip
def test_what_a_body_reads_from_outside_stays_however_deep(read):
    made = model(
        f"""g (float x, bool c) => (float y) {{
            kept = Neg(x)
            gone = Neg(x)
            y = If (c) <
                then_branch = a () => (float t) {{ {read} }},
                else_branch = b () => (float e) {{ e = Add(x, weight) }}
            >
        }}""",
        weight=np.float32(2),
    )
    drop_unread(made.graph)
    onnx.checker.check_model(made)
    assert names(made.graph) == (["kept", "y"], ["weight"])


def test_what_only_a_dropped_body_reads_goes_too():
    made = model(
        """g (float x, bool c) => (float y) {
            alone = Neg(x)
            z = If (c) <
                then_branch = a () => (float t) { t = Neg(alone) },
                else_branch = b () => (float e) { e = Add(x, weight) }
            >
            y = Neg(x)
        }""",
        weight=np.float32(2),
    )
    drop_unread(made.graph)
    assert names(made.graph) == (["y"], [])


def test_an_omitted_output_is_read_by_nobody():
    made = model(
        """g (float[1,1,4,4] x) => (float[1,1,4,4] y) {
            gone = Dropout(x)
            y = Clip(x, , top)
        }""",
        top=np.float32(6),
    )
    made.graph.node[0].output.append("")
    assert list(made.graph.node[1].input) == ["x", "", "top"]
    drop_unread(made.graph)
    assert names(made.graph) == (["y"], ["top"])
