"""The table of operators: its rows are real, agree with the operators' schemas, and are all that a new one takes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.defs
import onnx.parser
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state

import onnxscope
from onnxscope.model.loading import load_model
from onnxscope.operators import standard
from onnxscope.operators.operator import Operator
from onnxscope.operators.table import OPERATORS, operator_of
from onnxscope.pairing.layer_weights import LayerWeights

STANDARD = [schema for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain]
SCHEMAS: dict[str, list] = {}
for _schema in (*STANDARD, *onnxruntime_pybind11_state.get_all_operator_schema()):
    if _schema.domain in ("", "com.microsoft", "com.microsoft.nchwc"):
        SCHEMAS.setdefault(_schema.name, []).append(_schema)
for _schema in onnx.defs.get_all_schemas_with_history():
    if _schema.domain == "ai.onnx.ml":
        SCHEMAS.setdefault(_schema.name, []).append(_schema)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_row_is_about_an_operator_of_onnx_or_of_onnxruntime(name):
    assert name in SCHEMAS
    assert OPERATORS[name].name == name


def test_every_operator_that_a_row_speaks_of_has_a_row():
    for row in OPERATORS.values():
        assert {*row.folds, *row.fuses} <= set(OPERATORS), row.name
        assert row.kind in {*OPERATORS, "Linear"}, row.name
        assert all(OPERATORS[name].function == "bends" for name in row.fuses), row.name


def test_positions_are_operands_that_the_operator_takes():
    for row in OPERATORS.values():
        takes = max(len(schema.inputs) for schema in SCHEMAS[row.name])
        assert all(position < takes for position in (*row.roles, *row.control)), row.name
        assert not set(row.roles) & row.control, row.name


def test_what_owns_no_weight_says_nothing_of_one():
    for row in OPERATORS.values():
        says = (row.cost, row.is_convolution, row.integers, row.is_packed, row.takes_norm)
        if not row.roles:
            assert not any(says), row.name
            assert row.weight == "outputs_first", row.name


def test_attributes_that_hold_numbers_are_attributes_of_the_operator():
    for row in OPERATORS.values():
        named = {name for schema in SCHEMAS[row.name] for name in schema.attributes}
        assert set(row.holds) <= named, row.name
    assert sum(bool(row.holds) for row in OPERATORS.values()) == 8


def test_the_operators_with_a_seed_are_the_random_ones():
    seeded = {schema.name for schema in STANDARD if "seed" in schema.attributes}
    random = {row.name for row in OPERATORS.values() if row.is_random}
    assert random - {"Sampling"} == seeded - {"Dropout"}  # one is onnxruntime's, the other drops in training alone


def test_a_training_mode_stands_where_the_schemas_have_it():
    trained = {row.name: row.training for row in OPERATORS.values() if row.training}
    assert trained.keys() | {"MatMulBnb4"} == {  # which computes the same in training
        name
        for name, schemas in SCHEMAS.items()
        for schema in schemas
        if "training_mode" in {*schema.attributes, *(operand.name for operand in schema.inputs)}
    }
    for name, training in trained.items():
        schema = max(SCHEMAS[name], key=lambda one: one.since_version)
        names = [operand.name for operand in schema.inputs]
        assert training.operand is None or names[training.operand] == "training_mode", name
        assert training.ratio is None or names[training.ratio] == "ratio", name
        assert training.operand is not None or "training_mode" in schema.attributes, name


@pytest.mark.parametrize("name", [row.name for row in OPERATORS.values() if row.shaped_by or row.reads_shape])
def test_what_shapes_an_output_is_an_operand(name):
    row = OPERATORS[name]
    takes = max(len(schema.inputs) for schema in SCHEMAS[name])
    assert all(position < takes for position in row.shaped_by)
    assert not (row.reads_shape and row.shaped_by)


@pytest.mark.parametrize("name", [row.name for row in standard.STANDARD if row.limits])
def test_a_bounded_function_comes_near_its_limits_and_stays_within(name):
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {{ y = {name}(x) }}'
    )
    (y,) = ReferenceEvaluator(model).run(None, {"x": np.array([-80, -3, -0.1, 0, 0.2, 4, 80], np.float32)})
    low, high = OPERATORS[name].limits
    assert low <= y.min() <= low + 0.02
    assert high - 0.02 <= y.max() <= high


_SCALED = [
    (row.name, position, codes) for row in OPERATORS.values() for position, codes in row.codes.items() if codes.scales
]


@pytest.mark.parametrize(("name", "position", "codes"), _SCALED, ids=[f"{name} {place}" for name, place, _ in _SCALED])
def test_each_operand_of_codes_has_the_scale_and_zero_point_that_the_schema_names(name, position, codes):
    operands = [operand.name.lower() for operand in SCHEMAS[name][-1].inputs]
    assert all("scale" in operands[place] or operands[place] == "absmax" for place in codes.scales)
    assert codes.zero_point is None or operands[codes.zero_point].endswith(("zero_point", "zero_points"))
    assert set(codes.scales) <= OPERATORS[name].control
    own = operands[position].removesuffix("_quant")
    if len(OPERATORS[name].codes) > 1 and len(codes.scales) == 1:
        assert operands[codes.scales[0]] == f"{own}_scale"
        assert codes.zero_point is None or operands[codes.zero_point] == f"{own}_zero_point"


def test_an_operator_without_a_row_owns_nothing_and_keeps_its_axes():
    row = operator_of("Unheard")
    assert (row.name, row.kind, row.bias_position) == ("Unheard", "Unheard", None)
    assert row.keeps_axes
    assert not row.roles


# ---- a new operator is one row


WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)  # four outputs


def network(node: str, weight=WEIGHT):
    proto = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 17, "own": 1]>
        g (float[N, 3] x) => (float[N, 4] y) <float[N, 4] h> {{ h = {node}  a = Add(h, c)  y = Relu(a) }}""")
    stored = {"fc.weight": weight, "fc.c": np.arange(4, dtype=np.float32)}
    for name in ("fc.weight", "fc.c"):
        proto.graph.initializer.append(numpy_helper.from_array(stored[name], name))
    for inner in proto.graph.node:
        inner.input[:] = [{"w": "fc.weight", "c": "fc.c"}.get(name, name) for name in inner.input]
    proto.graph.node[0].name = "fc"
    return proto


@pytest.fixture
def mix(monkeypatch):
    """One row, for an operator that computes `x w^T` and is found nowhere else."""
    row = Operator("Mix", alike="Linear", roles={1: "weight"}, cost="product", channel_axis=-1)
    monkeypatch.setitem(OPERATORS, "Mix", row)


def test_without_its_row_an_operator_is_no_layer():
    assert load_model(network("own.Mix(x, w)")).layers == ()


@pytest.mark.usefixtures("mix")
def test_a_row_gives_names_parameters_and_channel_axes():
    model = load_model(network("own.Mix(x, w)"))
    (layer,) = model.layers
    assert (layer.name, layer.kind, layer.shape, layer.value, layer.activated) == ("fc", "Linear", (4, 3), "y", True)
    roles = {parameter.name: (parameter.role, parameter.channel_axis) for parameter in model.parameters}
    assert roles == {"fc.weight": ("weight", 0), "fc.c": ("bias", None)}
    assert model.channel_axes(()) == {"h": -1, "a": -1, "y": -1}


@pytest.mark.usefixtures("mix")
def test_a_row_gives_costs():
    (layer,) = onnxscope.inspect(network("own.Mix(x, w)")).layers
    assert layer.multiply_accumulates == 12


@pytest.mark.usefixtures("mix")
def test_a_row_makes_an_operator_comparable_with_those_that_compute_the_same():
    mixed, plain = network("own.Mix(x, w)"), network("Gemm<transB = 1>(x, w)")
    assert onnxscope.diff(mixed, plain).weights == ()
    (change,) = onnxscope.diff(network("own.Mix(x, w)", WEIGHT + 1), plain).weights
    assert (change.a, change.b, change.change, change.max_abs) == ("fc.weight", "fc.weight", "changed", 1.0)


@pytest.mark.parametrize(
    ("row", "role"),
    [
        (Operator("Line", roles={1: "weight"}), "add.bias"),  # `Line` stands in the word `Linear`, and is none
        (Operator("Line", roles={1: "weight"}, cost="product"), "bias"),
        (Operator("Line", roles={1: "weight"}, cost="convolution"), "bias"),
        (Operator("Line", roles={1: "weight"}, cost="spreading"), "add.bias"),
    ],
)
def test_an_add_is_the_bias_of_what_multiplies_by_a_weight(row, role, monkeypatch):
    monkeypatch.setitem(OPERATORS, "Line", row)
    model = load_model(network("own.Line(x, w)"))
    assert list(LayerWeights(model).read(model.layers[0])) == ["weight", role]


def test_what_a_random_operator_makes_is_no_constant(monkeypatch):
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Shake", ["w"], ["s"], domain="own"), helper.make_node("Mul", ["x", "s"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])],
            [numpy_helper.from_array(np.ones(4, np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
    )
    assert "s" in load_model(proto).main.constants
    monkeypatch.setitem(OPERATORS, "Shake", Operator("Shake", is_random=True))
    assert "s" not in load_model(proto).main.constants
