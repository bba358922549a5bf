"""What can be known of an operator: the columns of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Attends", "Codes", "Operator", "Training"]

_Weight = Literal["outputs_first", "grouped", "gemm", "matmul", "outputs_last", "directions_first", "directions_last"]
"""How a weight lies: outputs along axis 0; along axis 1, by groups; where `transA` and `transB` put them; along the
axis that a product keeps; along the last axis; along axis 1 or the last one, behind the directions of a recurrent
layer."""

_Cost = Literal["convolution", "product", "spreading", "recurrent"]
"""What each number of a weight is used for: each place of the output; each row; each place of the input; each step."""


@dataclass(frozen=True)
class Codes:
    """What makes real numbers of an operand's integers: `(code - zero_point) * scale`.

    Several scales belong to the operator's outputs, unless they belong to blocks.

    Attributes:
        scales: Which operands are the scale; of several their product is. None of them where the node gives integers,
            whose scale lies behind it.
        zero_point: Which operand is the zero point, None where there is none.
        packing: How several codes lie in a byte: as rows of whole blocks, in the bytes of the last axis, or as indices
            of a table of sixteen numbers. Where it is empty they lie apart, or as ONNX's own types of few bits.
    """

    scales: tuple[int, ...] = ()
    zero_point: int | None = None
    packing: Literal["", "rows", "last_axis", "levels"] = ""


@dataclass(frozen=True)
class Attends:
    """Where an attention operator has its queries, keys and values.

    Attributes:
        query: Which operand holds the queries, or all three where there are no keys.
        key: Which holds the keys.
        value: Which holds the values.
        cache: Which hold keys and values of earlier tokens, (batch, heads, tokens, width); a single one holds both
            along an axis before these.
        is_projected: Whether the operator makes all three of `query` with a weight of its own.
    """

    query: int = 0
    key: int = 1
    value: int = 2
    cache: tuple[int, ...] = ()
    is_projected: bool = False


@dataclass(frozen=True)
class Training:
    """How a node says that it is in training mode, for an operator that then gives something else.

    Before operator set 7 that was an attribute `is_test` of 0, its default.

    Attributes:
        gives: Numbers that are `random`, or those of a node that is `stateful`.
        since: The operator set from which on the mode is said as below.
        operand: Which operand is the mode, None where it is the attribute `training_mode`.
        ratio: Which operand is the share that is dropped; nothing is random where that is 0.
        by_outputs: Whether a second output meant training between operator set 7 and `since`.
        left_out: Whether onnxruntime's optimizer drops the node, in training mode too, where only its first output is
            read, that is no output of the graph, and a node of the same graph makes its first input alone (1.32).
    """

    gives: Literal["random", "stateful"]
    since: int = 1
    operand: int | None = None
    ratio: int | None = None
    by_outputs: bool = False
    left_out: bool = False


@dataclass(frozen=True, eq=False)
class Operator:
    """One row of the table.

    Attributes:
        name: As `op_type` has it, in ONNX's own domain or onnxruntime's.
        alike: The word for all operators that compute the same, where that is another one.
        roles: What its operands are by position, for an operator that owns weights. Named as PyTorch does.
        other_role: What any other constant operand is.
        control: Positions of operands that steer it, and are no parameters whatever their type.
        separate_bias: Whether an Add behind it may be its bias, where it has none of its own.
        weight: How its weight lies.
        gates: The gates of a recurrent layer, in the order in which its weights hold them.
        cost: How often it uses each number of its weight, None where that is not known.
        holds: What its attributes hold that was learned, in words, for an operator whose numbers lie in attributes.
        attends: Where it has queries, keys and values, for an attention operator.
        is_convolution: Whether it slides its weight over places.
        integers: Whether it multiplies stored integers, which are parameters then.
        codes: Operands, by position, whose integers stand for real numbers, with what makes these of them.
        gives_codes: Which operands are scale and zero point of its output, where that is integers that stand for real
            numbers; where it has not that many operands it gives real numbers.
        keeps_codes: Whether its outputs hold numbers of its first input, so that codes keep their scale.
        packs: Positions of operands whose last axis holds the numbers for query, key and value one behind the other.
        is_packed: Whether its weight is stored in a form of its own, which cannot be read.
        takes_norm: Whether exporters fold a BatchNorm into its weight.
        folds: What onnxruntime's CPU provider folds into its weight where that follows (1.32).
        fuses: Which activation functions it computes in one go with it.
        passes_on: How it hands on a stored weight, or numbers that index one: as they are, as another type, as the real
            numbers behind integers, with other axes, or in another shape.
        channel_axis: Where it puts channels; -1 stands for the last axis.
        output_axes: What the axes of its outputs stand for, by position, where it fixes all of them.
        gives_shares: Whether what it gives are shares of one along an axis.
        contracts: Whether it sums products of two operands, of which none needs to be a weight.
        keeps_axes: Whether the axes of its output are those of its first input.
        function: Whether it works on each element, and whether it bends (an activation function) or is straight.
        limits: Between which numbers a bounded activation function stays.
        behind_layer: What it may be between a layer and its activation function: `part` of the layer's work, as a bias
            or a BatchNorm is, or only `between`, as layout is.
        ends_block: Whether a map of what a layer sees is taken behind it: normalization, a sum, layout.
        looks_up: Whether it reads rows of its first input by the numbers of its second.
        is_random: Whether its output differs from run to run.
        quantizes: Whether it rounds its input to integers of few bits.
        index_outputs: Which outputs say places, lengths or counts, not quantities.
        training: How it says that it is in training mode, None where it has no such mode.
        reads_shape: Whether it reads the shape of its first input, and none of its numbers.
        shaped_by: Positions of operands whose numbers decide the shape of its output.
        by_function: From which operator set on onnxruntime (1.32) has no kernel for it, and computes the function that
            onnx defines it by; 0 for those that have one.
    """

    name: str
    alike: str = ""
    roles: Mapping[int, str] = field(default_factory=dict)
    other_role: str = "constant"
    control: frozenset[int] = frozenset()
    separate_bias: bool = True
    weight: _Weight = "outputs_first"
    gates: tuple[str, ...] = ()
    cost: _Cost | None = None
    holds: Mapping[str, str] = field(default_factory=dict)
    attends: Attends | None = None
    is_convolution: bool = False
    integers: bool = False
    codes: Mapping[int, Codes] = field(default_factory=dict)
    gives_codes: tuple[int, int] | None = None
    keeps_codes: bool = False
    packs: frozenset[int] = frozenset()
    is_packed: bool = False
    takes_norm: bool = False
    folds: tuple[str, ...] = ()
    fuses: tuple[str, ...] = ()
    passes_on: Literal["same", "cast", "dequantized", "permuted", "reshaped"] | None = None
    channel_axis: Literal[1, -1] | None = None
    output_axes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    gives_shares: bool = False
    contracts: bool = False
    keeps_axes: bool = True
    function: Literal["bends", "straight"] | None = None
    limits: tuple[float, float] | None = None
    behind_layer: Literal["part", "between"] | None = None
    ends_block: bool = False
    looks_up: bool = False
    is_random: bool = False
    quantizes: bool = False
    index_outputs: frozenset[int] = frozenset()
    training: Training | None = None
    reads_shape: bool = False
    shaped_by: frozenset[int] = frozenset()
    by_function: int = 0

    @property
    def kind(self) -> str:
        """The same word for all operators that compute the same: `Linear` for Gemm and MatMul."""
        return self.alike or self.name

    @property
    def bias_position(self) -> int | None:
        """Which operand is its bias, None where it takes none."""
        return next((position for position, role in self.roles.items() if role == "bias"), None)
