"""What is known of operators, by name: one row for each.

An operator that has no row is taken for one that keeps the axes of its first input and owns no weights. To teach
onnxscope another one, add a row to `standard`, `contributed` or `machine_learning` and a case to
`tests/operators/test_table.py`. What is made of several nodes, such as a Gelu written out or a BatchNorm behind its
convolution, is told where it is looked for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from onnxscope.operators.contributed import CONTRIBUTED
from onnxscope.operators.machine_learning import MACHINE_LEARNING
from onnxscope.operators.operator import Operator
from onnxscope.operators.standard import STANDARD

__all__ = ["BLOCKED_DOMAIN", "OPERATORS", "operator_of"]

BLOCKED_DOMAIN = "com.microsoft.nchwc"
"""Of operators between which onnxruntime keeps channels in blocks, in an order of its own that no shape tells."""

OPERATORS: dict[str, Operator] = {row.name: row for row in (*MACHINE_LEARNING, *CONTRIBUTED, *STANDARD)}
"""The table, by name; of two operators of one name the one of ONNX's own."""

_CHANNELS_LAST_DOMAIN = "com.ms.internal.nhwc"
_CONTRIBUTED_DOMAIN = "com.microsoft"
_CONTRIBUTED = {row.name: row for row in CONTRIBUTED}


def operator_of(op_type: str, domain: str = "", *, channels_last: bool = False) -> Operator:
    """Return an operator's row; one without knowledge where the table has none.

    Args:
        op_type: Its name.
        domain: Its domain; onnxruntime's optimizer has some for layouts of its own.
        channels_last: Whether the node has been told by an attribute that its channels come last.
    """
    contributed = _CONTRIBUTED.get(op_type) if domain == _CONTRIBUTED_DOMAIN else None
    row = contributed or OPERATORS.get(op_type) or _without_knowledge(op_type)
    if domain == BLOCKED_DOMAIN and row.roles:
        return _packed(op_type)
    if row.channel_axis == 1 and (channels_last or domain == _CHANNELS_LAST_DOMAIN):
        return _channels_last(op_type)
    return row


@lru_cache(maxsize=256)
def _packed(op_type: str) -> Operator:
    return replace(OPERATORS[op_type], is_packed=True, takes_norm=False, folds=(), fuses=())


@lru_cache(maxsize=256)
def _channels_last(op_type: str) -> Operator:
    return replace(OPERATORS[op_type], channel_axis=-1)


@lru_cache(maxsize=256)
def _without_knowledge(op_type: str) -> Operator:
    return Operator(op_type)
