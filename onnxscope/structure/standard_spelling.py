"""One spelling for all that means the same: a node's attributes and operands as the newest operator set would say it.

What an attribute or an operand is called, and what holds where it is left out, is read from onnx's own schemas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from onnx import AttributeProto, defs

from onnxscope.model.graphs import Node, attribute_value
from onnxscope.model.tensors import Storage
from onnxscope.structure.attributes import default_of, digest_of, is_same_value, plain_attribute, schema_of

__all__ = ["COMMUTATIVE", "Spelling", "operand_names", "promoted_reals", "spell", "spell_promoted"]

COMMUTATIVE = frozenset(
    {"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum", "Mean", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
"""Operators that do not care in which order their operands stand."""

_MIRRORED = {"Less": "Greater", "LessOrEqual": "GreaterOrEqual"}
"""Operators that are another one with their operands exchanged."""

_RENAMED_OPERATORS = {"Scatter": "ScatterElements", "Upsample": "Resize"}
_RENAMED_ATTRIBUTES = {("Pad", "value"): "constant_value", ("Pad", "paddings"): "pads"}
_NEUTRAL: Mapping[str, int] = {"pads": 0, "output_padding": 0, "strides": 1, "dilations": 1}  # along every axis
_MEANINGLESS = frozenset({"consumed_inputs", "is_test", "seed"})  # of operators that survive in inference
_MOST_SHOWN = 16  # entries of a list that stands in a record as it is


@dataclass(frozen=True)
class Spelling:
    """A node's operator and what it is given beside tensors.

    Attributes:
        op_type: With its domain in front where that is not ONNX's own.
        attributes: What is not left at its default, ready for strict JSON, by name.
        operands: Attributes that are operands of the newest operator set, as numbers by the operand's name.
    """

    op_type: str
    attributes: Mapping[str, Any]
    operands: Mapping[str, str] = field(default_factory=dict)


def spell(node: Node, opset: int | None, storage: Storage) -> Spelling:
    """Return a node in the words of the newest operator set; bodies among its attributes are left out.

    Args:
        node: Of any operator.
        opset: The version of its domain that the model imports; None where it names none.
        storage: Of the node's model; reads the tensors among its attributes.
    """
    domain = "" if node.is_standard else node.domain
    op_type = node.op_type if domain else (_RENAMED_OPERATORS | _MIRRORED).get(node.op_type, node.op_type)
    op_type = "Add" if not domain and op_type == "Sum" and len(node.inputs) == 2 else op_type
    own, newest = schema_of(node.op_type, domain, opset), schema_of(op_type, domain)
    values: dict[str, Any] = {}
    if own is not None:
        values |= {name: default_of(own, name) for name in own.attributes if _is_in(name, newest)}
    written = {stored.name: stored for stored in node.proto.attribute if not _is_body(stored)}
    values |= {name: attribute_value(stored) for name, stored in written.items()}
    if not domain and (node.op_type == "Upsample" or (node.op_type == "Resize" and (opset or 0) < 11)):
        values |= {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    attributes: dict[str, Any] = {}
    operands: dict[str, str] = {}
    promoted = _promoted(op_type, domain)
    for name, value in sorted(values.items()):
        spelled = _RENAMED_ATTRIBUTES.get((op_type, name), name) if not domain else name
        if value is None or spelled in _MEANINGLESS or (not domain and _says_nothing(node, op_type, spelled, values)):
            continue
        if spelled.lower() in promoted:
            operand, defaults = promoted[spelled.lower()]
            number = _number_text(value)
            if number not in defaults:
                operands[operand] = number
        elif not _is_default(node, op_type, spelled, value, newest):
            attributes[spelled] = _short(plain_attribute(value, storage))
    return Spelling(f"{domain}.{op_type}" if domain else op_type, attributes, operands)


def _says_nothing(node: Node, op_type: str, name: str, values: Mapping[str, Any]) -> bool:
    """Whether what an attribute says follows from the others."""
    if op_type == "Split":
        return name == "num_outputs" and values[name] == len(node.outputs)
    if op_type != "Resize":
        return False
    mode = values.get("coordinate_transformation_mode")
    only_in = {
        "nearest_mode": values.get("mode", b"nearest") == b"nearest",
        "cubic_coeff_a": values.get("mode") == b"cubic",
        "extrapolation_value": mode == b"tf_crop_and_resize",
    }
    return not only_in.get(name, True)


def operand_names(node: Node, spelled: str) -> list[str]:
    """Return what the newest schema calls the inputs of a node, numbers where it has no name for them."""
    domain = "" if node.is_standard else node.domain
    schema = schema_of(spelled.removeprefix(f"{domain}.") if domain else spelled, domain)
    formal = list(schema.inputs) if schema is not None else []
    if not domain and node.op_type in ("Resize", "Upsample") and len(node.inputs) == 2 and len(formal) > 2:
        return [formal[0].name, formal[2].name]
    if not domain and node.op_type in _MIRRORED:
        return [entry.name for entry in reversed(formal)]
    names = []
    for place in range(len(node.inputs)):
        last = formal[-1] if formal else None
        variadic = last is not None and last.option == defs.OpSchema.FormalParameterOption.Variadic
        if last is not None and variadic and place >= len(formal) - 1:
            names.append(f"{last.name}[{place - len(formal) + 1}]")
        else:
            names.append(formal[place].name if place < len(formal) else f"{place}")
    return names


def spell_promoted(op_type: str, operand: str, values: np.ndarray[Any, Any]) -> str | None:
    """Return a constant operand that was an attribute once as `spell` gives it; None where it never was one.

    An empty text stands for what is the default.
    """
    promoted = _promoted(op_type, "").get(operand.lower())
    if promoted is None or values.dtype.kind not in "biuf":
        return None
    number = _number_text(values.ravel().tolist())
    return "" if number in promoted[1] else number


def _number_text(value: Any) -> str:
    """Numbers as text, a list of one as that one."""
    numbers = value if isinstance(value, list) else [value]
    return " ".join(_one_number(number) for number in numbers)


def _one_number(number: Any) -> str:
    whole = isinstance(number, (int, float)) and math.isfinite(number) and number == int(number)
    return f"{int(number)}" if whole and abs(number) < 1 << 62 else f"{number!r}"


def _is_body(attribute: AttributeProto) -> bool:
    return attribute.type == AttributeProto.GRAPH


def _is_in(name: str, schema: Any) -> bool:
    return schema is not None and name in schema.attributes


def _is_default(node: Node, op_type: str, name: str, value: Any, newest: Any) -> bool:
    default = default_of(newest, name)
    if default is not None:
        return is_same_value(value, default)
    if not node.is_standard:
        return False
    if isinstance(value, list):
        if name == "kernel_shape":
            return "Conv" in op_type  # the weight has it
        if name == "perm":
            return value == list(range(len(value)))[::-1]
        return name in _NEUTRAL and all(side == _NEUTRAL[name] for side in value)
    return name == "spatial" and value == 1


def _short(value: Any) -> Any:
    """A long list by its digest."""
    if isinstance(value, list) and len(value) > _MOST_SHOWN:
        return {"list": digest_of(value), "length": len(value)}
    return value


@cache
def _history() -> Mapping[tuple[str, str], Sequence[Any]]:
    schemas: dict[tuple[str, str], list[Any]] = {}
    for schema in defs.get_all_schemas_with_history():
        schemas.setdefault((schema.domain, schema.name), []).append(schema)
    return schemas


@cache
def _promoted(op_type: str, domain: str) -> Mapping[str, tuple[str, frozenset[str]]]:
    """Operands that older operator sets hold as attributes: by name in lower case, the name and former defaults."""
    newest = schema_of(op_type, domain)
    if newest is None:
        return {}
    olds = [name for name, renamed in _RENAMED_OPERATORS.items() if renamed == op_type]
    older = [schema for name in (op_type, *olds) for schema in _history().get((domain, name), ())]
    promoted = {}
    for formal in newest.inputs:
        former = [
            (schema, name)
            for schema in older
            for name in schema.attributes
            if _RENAMED_ATTRIBUTES.get((op_type, name), name).lower() == formal.name.lower()
        ]
        if former:
            defaults = {
                _number_text(default) for schema, name in former if (default := default_of(schema, name)) is not None
            }
            promoted[formal.name.lower()] = (formal.name, frozenset(defaults))
    return promoted


@cache
def promoted_reals() -> frozenset[str]:
    """Return the names of operands, of any operator, that older operator sets hold as attributes of real numbers."""
    kinds = (defs.OpSchema.AttrType.FLOAT, defs.OpSchema.AttrType.FLOATS)
    names: set[str] = set()
    for (domain, op_type), schemas in _history().items():
        newest = _RENAMED_OPERATORS.get(op_type, op_type)
        promoted = _promoted(newest, domain)
        for schema in schemas:
            for name, attribute in schema.attributes.items():
                operand = promoted.get(_RENAMED_ATTRIBUTES.get((newest, name), name).lower())
                if operand is not None and attribute.type in kinds:
                    names.add(operand[0])
    return frozenset(names)
