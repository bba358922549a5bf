"""Rows about the operators of ONNX's own domain."""

from __future__ import annotations

from onnxscope.operators.operator import Attends, Codes, Operator, Training

__all__ = ["STANDARD"]

_CONV = {1: "weight", 2: "bias"}
_GEMM = {0: "weight", 1: "weight", 2: "bias"}
_PRODUCT = {0: "weight", 1: "weight"}
_NORM = {1: "weight", 2: "bias"}
_FIRST = frozenset({0})
_RECURRENT = {1: "weight_ih", 2: "weight_hh", 3: "bias"}
_CACHE = ("batch", "head", "token", "channel")
_STATE = ("direction", "batch", "channel")
_SEQUENCE = {0: ("time", *_STATE), 1: _STATE, 2: _STATE}
_LSTM_GATES = ("i", "o", "f", "c")  # input, output, forget, cell
_GRU_GATES = ("z", "r", "h")  # update, reset, hidden
_SCALES = frozenset({1, 2, 4, 5, 6, 7})
_SECOND = frozenset({1})
_BOXES = frozenset({2, 3, 4})
_SCALED = frozenset({1, 2})
_OF_GEMM = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign")
_BENDING = """
    Relu LeakyRelu ThresholdedRelu Elu Selu Celu HardSwish Gelu Swish Mish Softplus
    Erf Exp Log Pow Sqrt Max Min Abs Where Shrink LogSoftmax Hardmax Greater GreaterOrEqual Less
    LessOrEqual Sin Cos
"""  # activation functions of which nothing else is known

STANDARD = (
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
    Operator(
        "ConvInteger",
        alike="Conv",
        roles={1: "weight"},
        control=frozenset({2, 3}),
        cost="convolution",
        is_convolution=True,
        integers=True,
        codes={1: Codes(zero_point=3)},
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
        codes={0: Codes((1,), 2), 3: Codes((4,), 5), 8: Codes((1, 4))},
        gives_codes=(6, 7),
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
    Operator(
        "MatMul",
        alike="Linear",
        roles=_PRODUCT,
        weight="matmul",
        cost="product",
        channel_axis=-1,
        contracts=True,
    ),
    Operator(
        "MatMulInteger",
        alike="Linear",
        roles=_PRODUCT,
        control=frozenset({2, 3}),
        weight="matmul",
        cost="product",
        integers=True,
        codes={0: Codes(zero_point=2), 1: Codes(zero_point=3)},
        channel_axis=-1,
        contracts=True,
    ),
    Operator(
        "QLinearMatMul",
        alike="Linear",
        roles={0: "weight", 3: "weight"},
        control=_SCALES,
        weight="matmul",
        cost="product",
        integers=True,
        codes={0: Codes((1,), 2), 3: Codes((4,), 5)},
        gives_codes=(6, 7),
        channel_axis=-1,
        contracts=True,
    ),
    Operator(
        "Gather",
        roles={0: "weight"},
        weight="outputs_last",
        codes={0: Codes()},
        keeps_codes=True,
        keeps_axes=False,
        looks_up=True,
    ),
    Operator(
        "LSTM",
        roles={**_RECURRENT, 7: "peephole"},
        weight="directions_first",
        gates=_LSTM_GATES,
        cost="recurrent",
        channel_axis=-1,
        output_axes=_SEQUENCE,
    ),
    *(
        Operator(
            name,
            roles=_RECURRENT,
            weight="directions_first",
            gates=gates,
            cost="recurrent",
            channel_axis=-1,
            output_axes=_SEQUENCE,
        )
        for name, gates in (("GRU", _GRU_GATES), ("RNN", ()))
    ),
    Operator(
        "Attention",
        attends=Attends(cache=(4, 5)),
        channel_axis=-1,
        output_axes={1: _CACHE, 2: _CACHE, 3: ("batch", "head", "query", "key")},
        by_function=25,
    ),
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
    Operator("RMSNormalization", roles={1: "weight"}, channel_axis=-1),
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
    Operator("Softmax", function="bends", gives_shares=True),
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
    Operator("MaxPool", keeps_codes=True, channel_axis=1, index_outputs=frozenset({1})),
    Operator("AveragePool", channel_axis=1),
    Operator("LpPool", channel_axis=1),
    Operator("GlobalAveragePool", channel_axis=1),
    Operator("GlobalMaxPool", channel_axis=1),
    Operator("GlobalLpPool", channel_axis=1),
    Operator("LRN", channel_axis=1),
    Operator("MaxRoiPool", channel_axis=1),
    Operator("RoiAlign", channel_axis=1),
    Operator("DepthToSpace", keeps_codes=True, channel_axis=1),
    Operator("SpaceToDepth", keeps_codes=True, channel_axis=1),
    Operator(
        "Dropout",
        control=frozenset({1, 2}),
        training=Training("random", since=12, operand=2, ratio=1, left_out=True),
    ),
    Operator("Pad", keeps_codes=True, control=frozenset({1, 2, 3}), shaped_by=frozenset({1, 3})),
    Operator("Resize", keeps_codes=True, control=frozenset({1, 2, 3}), shaped_by=frozenset({1, 2, 3})),
    Operator("Upsample", keeps_codes=True, control=frozenset({1}), shaped_by=_SECOND),
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
    Operator("GatherElements", keeps_codes=True, keeps_axes=False, looks_up=True),
    Operator("Shape", keeps_axes=False, reads_shape=True, index_outputs=_FIRST),
    Operator("Size", keeps_axes=False, reads_shape=True, index_outputs=_FIRST),
    Operator("GatherND", keeps_codes=True, keeps_axes=False),
    Operator("Expand", keeps_codes=True, keeps_axes=False, shaped_by=_SECOND),
    Operator("Tile", keeps_codes=True, keeps_axes=False, shaped_by=_SECOND),
    Operator("Constant", keeps_axes=False),
    Operator("ConstantOfShape", keeps_axes=False, shaped_by=frozenset({0})),
    Operator("Einsum", keeps_axes=False, contracts=True),
    Operator("NonZero", keeps_axes=False, shaped_by=_FIRST, index_outputs=_FIRST),
    Operator("TopK", keeps_axes=False, shaped_by=_SECOND, index_outputs=_SECOND),
    Operator("Unique", keeps_axes=False, shaped_by=_FIRST, index_outputs=frozenset({1, 2, 3})),
    *(
        Operator(f"Reduce{word}", keeps_axes=False, shaped_by=_SECOND)
        for word in ("Max", "Min", "Mean", "Sum", "Prod", "L1", "L2", "SumSquare")
    ),
    Operator("ArgMax", keeps_axes=False, index_outputs=_FIRST),
    Operator("ArgMin", keeps_axes=False, index_outputs=_FIRST),
    Operator("SequenceLength", keeps_axes=False, index_outputs=_FIRST),
    Operator("Slice", keeps_codes=True, shaped_by=frozenset({1, 2, 3, 4})),
    Operator("Split", keeps_codes=True, shaped_by=_SECOND),
    Operator("Compress", shaped_by=_SECOND),
    Operator("Concat"),
    Operator("EyeLike", reads_shape=True),
    Operator("If", keeps_axes=False),
    Operator("Loop", keeps_axes=False),
    Operator("Scan", keeps_axes=False),
    # ---- functions of the operators above
    Operator("CenterCropPad", shaped_by=_SECOND, by_function=1),
    Operator("NegativeLogLikelihoodLoss", keeps_axes=False, by_function=1),
    Operator("SoftmaxCrossEntropyLoss", keeps_axes=False, by_function=1),
    Operator("SequenceMap", keeps_axes=False, by_function=1),
    Operator("SwiGLU", by_function=1),
    # Where onnx defines them by a function, whether onnxruntime computes that (from operator set 28 on) or not.
    Operator("ReduceLogSum", keeps_axes=False, shaped_by=_SECOND, by_function=18),
    Operator("ReduceLogSumExp", keeps_axes=False, shaped_by=_SECOND, by_function=18),
    Operator("LinearAttention", keeps_axes=False, by_function=27),
    Operator("CausalConvWithState", keeps_axes=False, by_function=27),
    # ---- other numbers in every run
    Operator("RandomNormal", is_random=True),
    Operator("RandomNormalLike", is_random=True, reads_shape=True),
    Operator("RandomUniform", is_random=True),
    Operator("RandomUniformLike", is_random=True, reads_shape=True),
    Operator("Bernoulli", is_random=True),
    Operator("Multinomial", is_random=True, index_outputs=_FIRST),
)
