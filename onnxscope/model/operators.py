"""What is known of operators: one row for each.

An operator that has no row is taken for one that keeps the axes of its first input and owns no weights. To teach
onnxscope another one, add a row to the table and a case to `tests/model/test_operators.py`. What is made of several
nodes, such as a Gelu written out or a BatchNorm behind its convolution, is told where it is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

__all__ = ["BLOCKED_DOMAIN", "OPERATORS", "Operator", "Training", "operator_of"]

BLOCKED_DOMAIN = "com.microsoft.nchwc"
"""Of operators between which onnxruntime keeps channels in blocks, in an order of its own that no shape tells."""

_CHANNELS_LAST_DOMAIN = "com.ms.internal.nhwc"

_Weight = Literal["outputs_first", "grouped", "gemm", "matmul", "outputs_last", "directions_first"]
"""How a weight lies: outputs along axis 0; along axis 1, by groups; where `transA` and `transB` put them; along the
axis that a product keeps; along the last axis; along axis 1, behind the directions of a recurrent layer."""

_Cost = Literal["convolution", "product", "spreading"]
"""What each number of a weight is used for: each place of the output; each row; each place of the input."""


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
        cost: How often it uses each number of its weight, None where that is not known.
        is_convolution: Whether it slides its weight over places.
        integers: Whether it multiplies stored integers, which are parameters then.
        scaled_along: Whether scale and zero point of its operands follow each of them, and along which axis they lie.
        is_packed: Whether its weight is stored in a form of its own, which cannot be read.
        takes_norm: Whether exporters fold a BatchNorm into its weight.
        folds: What onnxruntime's CPU provider folds into its weight where that follows (1.32).
        fuses: Which activation functions it computes in one go with it.
        passes_on: How it hands on a stored weight, or numbers that index one: as they are, as another type, as the real
            numbers behind integers, with other axes, or in another shape.
        channel_axis: Where it puts channels; -1 stands for the last axis.
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
    """

    name: str
    alike: str = ""
    roles: Mapping[int, str] = field(default_factory=dict)
    other_role: str = "constant"
    control: frozenset[int] = frozenset()
    separate_bias: bool = True
    weight: _Weight = "outputs_first"
    cost: _Cost | None = None
    is_convolution: bool = False
    integers: bool = False
    scaled_along: int | None = None
    is_packed: bool = False
    takes_norm: bool = False
    folds: tuple[str, ...] = ()
    fuses: tuple[str, ...] = ()
    passes_on: Literal["same", "cast", "dequantized", "permuted", "reshaped"] | None = None
    channel_axis: Literal[1, -1] | None = None
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

    @property
    def kind(self) -> str:
        """The same word for all operators that compute the same: `Linear` for Gemm and MatMul."""
        return self.alike or self.name

    @property
    def bias_position(self) -> int | None:
        """Which operand is its bias, None where it takes none."""
        return next((position for position, role in self.roles.items() if role == "bias"), None)


def operator_of(op_type: str, domain: str = "", *, channels_last: bool = False) -> Operator:
    """Return an operator's row; one without knowledge where the table has none.

    Args:
        op_type: Its name.
        domain: Its domain; onnxruntime's optimizer has some for layouts of its own.
        channels_last: Whether the node has been told by an attribute that its channels come last.
    """
    row = OPERATORS.get(op_type) or _without_knowledge(op_type)
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


_CONV = {1: "weight", 2: "bias"}
_GEMM = {0: "weight", 1: "weight", 2: "bias"}
_PRODUCT = {0: "weight", 1: "weight"}
_NORM = {1: "weight", 2: "bias"}
_FIRST = frozenset({0})
_RECURRENT = {1: "weight_ih", 2: "weight_hh", 3: "bias"}
_SCALES = frozenset({1, 2, 4, 5, 6, 7})
_SECOND = frozenset({1})
_BOXES = frozenset({2, 3, 4})
_SCALED = frozenset({1, 2})
_OF_GEMM = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign")
_BENDING = """
    Relu LeakyRelu ThresholdedRelu Elu Selu Celu HardSwish Gelu FastGelu QuickGelu BiasGelu Swish Mish Softplus
    Erf Exp Log Pow Sqrt Max Min Abs Where Shrink Softmax LogSoftmax Hardmax Greater GreaterOrEqual Less
    LessOrEqual Sin Cos
"""  # activation functions of which nothing else is known

_ROWS = (
    # ---- layers: operators that own weights
    Operator(
        "Conv",
        roles=_CONV,
        cost="convolution",
        is_convolution=True,
        takes_norm=True,
        folds=("BatchNormalization", "Add", "Mul"),
        fuses=("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid"),
        channel_axis=1,
    ),
    Operator("FusedConv", alike="Conv", roles=_CONV, cost="convolution", is_convolution=True, channel_axis=1),
    Operator("NhwcConv", alike="Conv", roles=_CONV, cost="convolution", is_convolution=True, channel_axis=-1),
    Operator("NhwcFusedConv", alike="Conv", roles=_CONV, cost="convolution", is_convolution=True, channel_axis=-1),
    Operator(
        "ConvInteger",
        alike="Conv",
        roles={1: "weight"},
        control=frozenset({2, 3}),
        cost="convolution",
        is_convolution=True,
        integers=True,
        takes_norm=True,
        channel_axis=1,
    ),
    Operator(
        "QLinearConv",
        alike="Conv",
        roles={3: "weight", 8: "bias"},
        control=_SCALES,
        cost="convolution",
        is_convolution=True,
        integers=True,
        scaled_along=0,
        channel_axis=1,
    ),
    Operator(
        "ConvTranspose",
        roles=_CONV,
        weight="grouped",
        cost="spreading",
        is_convolution=True,
        takes_norm=True,
        folds=("BatchNormalization",),
        channel_axis=1,
    ),
    Operator("DeformConv", roles={1: "weight", 3: "bias"}, is_convolution=True, channel_axis=1),
    Operator(
        "Gemm",
        alike="Linear",
        roles=_GEMM,
        weight="gemm",
        cost="product",
        fuses=(*_OF_GEMM, "ThresholdedRelu"),
        channel_axis=-1,
    ),
    Operator("FusedGemm", alike="Linear", roles=_GEMM, weight="gemm", cost="product", channel_axis=-1),
    Operator("MatMul", alike="Linear", roles=_PRODUCT, weight="matmul", cost="product", channel_axis=-1),
    Operator("FusedMatMul", alike="Linear", roles=_PRODUCT, weight="matmul", cost="product", channel_axis=-1),
    Operator(
        "MatMulInteger",
        alike="Linear",
        roles=_PRODUCT,
        control=frozenset({2, 3}),
        weight="matmul",
        cost="product",
        integers=True,
        channel_axis=-1,
    ),
    Operator(
        "QLinearMatMul",
        alike="Linear",
        roles={0: "weight", 3: "weight"},
        control=_SCALES,
        separate_bias=False,
        weight="matmul",
        cost="product",
        integers=True,
        scaled_along=-1,
        channel_axis=-1,
    ),
    Operator("MatMulNBits", roles={1: "weight"}, separate_bias=False, is_packed=True, channel_axis=-1),
    Operator("Gather", roles={0: "weight"}, weight="outputs_last", keeps_axes=False, looks_up=True),
    Operator("LSTM", roles={**_RECURRENT, 7: "peephole"}, weight="directions_first", channel_axis=-1),
    Operator("GRU", roles=_RECURRENT, weight="directions_first", channel_axis=-1),
    Operator("RNN", roles=_RECURRENT, weight="directions_first", channel_axis=-1),
    Operator("Attention", roles={1: "weight", 2: "bias"}, weight="outputs_last", channel_axis=-1),
    Operator("PRelu", roles={1: "weight"}, function="bends"),
    # ---- normalization
    Operator(
        "BatchNormalization",
        roles={1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
        channel_axis=1,
        behind_layer="part",
        ends_block=True,
        training=Training("stateful", since=14, by_outputs=True),
    ),
    Operator("InstanceNormalization", roles=_NORM, channel_axis=1),
    Operator("GroupNormalization", roles=_NORM, channel_axis=1),
    Operator("LayerNormalization", roles=_NORM, channel_axis=-1),
    Operator(
        "SkipLayerNormalization",
        alike="LayerNormalization",
        roles={2: "weight", 3: "bias"},
        separate_bias=False,
        channel_axis=-1,
    ),
    Operator("RMSNormalization", roles={1: "weight"}, channel_axis=-1),
    Operator("SimplifiedLayerNormalization", alike="RMSNormalization", roles={1: "weight"}, channel_axis=-1),
    # ---- arithmetic
    Operator("Add", other_role="bias", function="straight", behind_layer="part", ends_block=True),
    Operator("Sub", other_role="bias", function="straight", behind_layer="part"),
    Operator("Mul", other_role="scale", function="straight", behind_layer="part"),
    Operator("Div", other_role="scale", function="straight", behind_layer="part"),
    Operator("Sum", function="straight", ends_block=True),
    Operator("Mean", function="straight"),
    Operator("Neg", function="straight"),
    Operator("Reciprocal", function="straight"),
    # ---- activation functions, and what they are written out with
    Operator("Sigmoid", function="bends", limits=(0.0, 1.0)),
    Operator("HardSigmoid", function="bends", limits=(0.0, 1.0)),
    Operator("Tanh", function="bends", limits=(-1.0, 1.0)),
    Operator("Softsign", function="bends", limits=(-1.0, 1.0)),
    Operator("Clip", control=frozenset({1, 2}), function="bends"),  # its operands say its limits
    *(Operator(name, function="bends") for name in _BENDING.split()),
    # ---- what hands numbers on
    Operator("Identity", passes_on="same", function="straight", behind_layer="between", ends_block=True),
    Operator("Cast", passes_on="cast", function="straight", behind_layer="between", ends_block=True),
    Operator("CastLike", passes_on="cast", function="straight"),
    Operator("Transpose", passes_on="permuted", behind_layer="between", ends_block=True),
    Operator("Reshape", passes_on="reshaped", keeps_axes=False, shaped_by=_SECOND),
    Operator("Flatten", passes_on="reshaped", keeps_axes=False),
    Operator("Squeeze", passes_on="reshaped", keeps_axes=False, shaped_by=_SECOND),
    Operator("Unsqueeze", passes_on="reshaped", keeps_axes=False, shaped_by=_SECOND),
    Operator("QuantizeLinear", control=_SCALED, behind_layer="between", ends_block=True, quantizes=True),
    Operator("DynamicQuantizeLinear", quantizes=True),
    Operator("DequantizeLinear", control=_SCALED, passes_on="dequantized", behind_layer="part", ends_block=True),
    # ---- places and channels
    Operator("MaxPool", channel_axis=1, index_outputs=frozenset({1})),
    Operator("NhwcMaxPool", alike="MaxPool", channel_axis=-1),
    Operator("AveragePool", channel_axis=1),
    Operator("LpPool", channel_axis=1),
    Operator("GlobalAveragePool", channel_axis=1),
    Operator("QLinearAveragePool", alike="AveragePool", control=frozenset({1, 2, 3, 4}), channel_axis=1),
    Operator("QLinearGlobalAveragePool", alike="GlobalAveragePool", control=frozenset({1, 2, 3, 4}), channel_axis=1),
    Operator("ReorderInput", channel_axis=1),
    Operator("ReorderOutput", channel_axis=1),
    Operator("GlobalMaxPool", channel_axis=1),
    Operator("GlobalLpPool", channel_axis=1),
    Operator("LRN", channel_axis=1),
    Operator("MaxRoiPool", channel_axis=1),
    Operator("RoiAlign", channel_axis=1),
    Operator("DepthToSpace", channel_axis=1),
    Operator("SpaceToDepth", channel_axis=1),
    Operator(
        "Dropout",
        control=frozenset({1, 2}),
        training=Training("random", since=12, operand=2, ratio=1, left_out=True),
    ),
    Operator("BitmaskDropout", control=frozenset({1, 2}), training=Training("random", operand=2, ratio=1)),
    Operator("BiasDropout", control=frozenset({3, 4}), training=Training("random", operand=4, ratio=3)),
    Operator("BitmaskBiasDropout", control=frozenset({3, 4}), training=Training("random", operand=4, ratio=3)),
    Operator("Pad", control=frozenset({1, 2, 3}), shaped_by=frozenset({1, 3})),
    Operator("Resize", control=frozenset({1, 2, 3}), shaped_by=frozenset({1, 2, 3})),
    Operator("Upsample", control=frozenset({1}), shaped_by=_SECOND),
    Operator("MultiHeadAttention", channel_axis=-1),
    # ---- other axes than those of the first input
    Operator(
        "NonMaxSuppression",
        control=_BOXES,
        keeps_axes=False,
        shaped_by=frozenset({0, 1}) | _BOXES,
        index_outputs=_FIRST,
    ),
    Operator("OneHot", control=frozenset({1, 2}), keeps_axes=False, shaped_by=_SECOND),
    Operator(
        "Range", control=frozenset({0, 1, 2}), keeps_axes=False, shaped_by=frozenset({0, 1, 2}), index_outputs=_FIRST
    ),
    Operator("GatherElements", keeps_axes=False, looks_up=True),
    Operator("Shape", keeps_axes=False, reads_shape=True, index_outputs=_FIRST),
    Operator("Size", keeps_axes=False, reads_shape=True, index_outputs=_FIRST),
    Operator("GatherND", keeps_axes=False),
    Operator("Expand", keeps_axes=False, shaped_by=_SECOND),
    Operator("Tile", keeps_axes=False, shaped_by=_SECOND),
    Operator("Constant", keeps_axes=False),
    Operator("ConstantOfShape", keeps_axes=False, shaped_by=frozenset({0})),
    Operator("Einsum", keeps_axes=False),
    Operator("NonZero", keeps_axes=False, shaped_by=_FIRST, index_outputs=_FIRST),
    Operator("TopK", keeps_axes=False, shaped_by=_SECOND, index_outputs=_SECOND),
    Operator("Unique", keeps_axes=False, shaped_by=_FIRST, index_outputs=frozenset({1, 2, 3})),
    *(
        Operator(f"Reduce{word}", keeps_axes=False, shaped_by=_SECOND)
        for word in ("Max", "Min", "Mean", "Sum", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
    ),
    Operator("ArgMax", keeps_axes=False, index_outputs=_FIRST),
    Operator("ArgMin", keeps_axes=False, index_outputs=_FIRST),
    Operator("SequenceLength", keeps_axes=False, index_outputs=_FIRST),
    Operator("Slice", shaped_by=frozenset({1, 2, 3, 4})),
    Operator("Split", shaped_by=_SECOND),
    Operator("Compress", shaped_by=_SECOND),
    Operator("Concat"),
    Operator("EyeLike", reads_shape=True),
    Operator("If", keeps_axes=False),
    Operator("Loop", keeps_axes=False),
    Operator("Scan", keeps_axes=False),
    # ---- other numbers in every run
    Operator("RandomNormal", is_random=True),
    Operator("RandomNormalLike", is_random=True, reads_shape=True),
    Operator("RandomUniform", is_random=True),
    Operator("RandomUniformLike", is_random=True, reads_shape=True),
    Operator("Bernoulli", is_random=True),
    Operator("Multinomial", is_random=True, index_outputs=_FIRST),
    Operator("Sampling", is_random=True, keeps_axes=False),
)

OPERATORS: dict[str, Operator] = {row.name: row for row in _ROWS}
"""The table, by name."""
