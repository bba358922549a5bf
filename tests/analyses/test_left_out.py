"""What `weights` lists and what it leaves out are together all that the file holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest
from compared_models import parsed
from nested_models import function, with_functions
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx_cases import node_cases
from placed_models import branching, unrolled

from onnxscope import weights
from onnxscope.cli.main import run
from onnxscope.errors import ModelError, RunError
from onnxscope.model.loading import load_model

FIXTURES = sorted((Path(__file__).resolve().parents[2] / "fixtures").glob("*.onnx"))
SHIPPED = sorted(Path(onnx.__file__).parent.glob("backend/test/data/**/*.onnx"))


def numbers_in(graph):
    """How many numbers a graph and its bodies hold, by onnx alone: tensors, sparse ones filled up, lists of floats."""
    count = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    count += sum(math.prod(sparse.dims) for sparse in graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if node.op_type == "Constant" and attribute.type != AttributeProto.TENSOR:
                dims = value.dims if attribute.type == AttributeProto.SPARSE_TENSOR else np.shape(value)
                count += math.prod(dims)
                continue
            if attribute.type == AttributeProto.GRAPH:
                count += numbers_in(value)
            count += len(value) if attribute.type == AttributeProto.FLOATS else 0
            values = value if attribute.type == AttributeProto.TENSORS else [value]
            count += sum(math.prod(tensor.dims) for tensor in values if isinstance(tensor, TensorProto))
    return count


def accounted(model):
    """How many numbers `weights` lists, each tensor once, and how many it leaves out."""
    found = weights(model)
    stored = {
        (row.parameter.graph.path, row.parameter.initializer): math.prod(row.parameter.shape) for row in found.rows
    }
    return sum(stored.values()), sum(other.size for other in found.left_out)


def odd_places():
    """A model that holds numbers in every place where a file can."""
    model = parsed(
        """<ir_version: 9, opset_import: ["": 18, "ai.onnx.ml": 3]>
        net (float[n, 4] x, bool c) => (float[n, 3] y, float[2] stored) {
            k = Constant<value_floats = [1.0, 2.0, 3.0]>()
            one = Constant<value_int = 1>()
            text = Constant<value_string = "a">()
            dead_constant = Constant<value_ints = [1, 2, 3, 4, 5]>()
            h = MatMul(x, w)
            dead = MatMul(h, v)
            m = Mul(h, k)
            scaled = ai.onnx.ml.Scaler<offset = [1.0, 2.0, 3.0], scale = [1.0]>(m)
            y = If (c) <
                then_branch = t () => (float[n, 3] p) <float[3] own = {4, 5, 6}> { p = Add(scaled, own) },
                else_branch = e () => (float[n, 3] q) { z = ConstantOfShape<value = float[1] {7}>(shape)
                    q = Sub(scaled, z) }>
        }""",
        w=np.ones((4, 3), np.float32),
        v=np.ones((3, 3), np.float32),
        unread=np.ones((2, 5), np.float32),
        unread_codes=np.ones((2, 7), np.int64),
        unread_number=np.float32(3),
        shape=np.array([3]),
        stored=np.ones(2, np.float32),
    )
    values = numpy_helper.from_array(np.ones(2, np.float32), "sparse")
    places = numpy_helper.from_array(np.array([3, 17]), "sparse_places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 5]))
    model.graph.node.append(helper.make_node("MatMul", ["x", "sparse"], ["by_sparse"]))
    return model


CALLED = with_functions(
    "g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { h = l.f(x, w) y = l.f(h, w) }",
    function("f (a, b) => (c)", "k = Constant<value_floats = [1.0, 2.0]>() m = MatMul(a, b) c = Add(m, k)"),
)


@pytest.mark.parametrize("make", [odd_places, unrolled, lambda: branching(inside=True), lambda: branching(named=False)])
def test_all_numbers_of_a_file_are_listed_or_left_out(make):
    listed, others = accounted(make())
    assert listed
    assert others + listed == numbers_in(make().graph)


def test_the_numbers_of_a_function_count_as_often_as_it_is_called():
    assert sum(accounted(CALLED)) == numbers_in(onnx.inliner.inline_local_functions(CALLED).graph) == 4 + 2 * 2


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_the_stored_models_add_up(path):
    listed, others = accounted(path)
    assert listed
    assert listed + others == numbers_in(onnx.load(path).graph)


@pytest.mark.acceptance
def test_every_model_that_onnx_ships_or_makes_adds_up():
    protos = [onnx.load(path) for path in SHIPPED]
    protos += list({case.name: case.model for case in node_cases()}.values())
    seen, off = 0, []
    for proto in protos:
        if proto.functions:
            continue
        try:
            total = sum(accounted(load_model(proto)))
        except (ModelError, RunError):
            continue  # what cannot be read, or evaluated, is told so
        seen += 1
        off += [] if total == numbers_in(proto.graph) else [proto.graph.name]
    assert off == []
    assert seen > 0.95 * len(protos)


def test_each_is_told_with_its_place_and_a_reason(tmp_path, capsys):
    found = {(other.name, other.body, other.size, other.reason) for other in weights(odd_places()).left_out}
    assert found >= {
        ("unread_codes", "", 14, "nothing reads it"),
        ("dead_constant", "", 5, "nothing reads it"),
        ("shape", "", 1, "a constant that ConstantOfShape reads"),
        ("ConstantOfShape(z)", "If(y)", 1, "in the attribute value"),
        ("Scaler(scaled)", "", 3, "in the attribute offset"),
    }
    onnx.save(odd_places(), tmp_path / "odd.onnx")
    assert run(["weights", str(tmp_path / "odd.onnx")]) == 0
    assert "numbers are no parameters" in capsys.readouterr().err
    assert run(["weights", str(tmp_path / "odd.onnx"), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["left_out"]
    assert {(row["name"], row["body"], row["size"], row["reason"]) for row in rows} == found
    assert weights(odd_places(), select="w").left_out == ()
