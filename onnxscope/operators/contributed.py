"""Rows about the operators that onnxruntime adds: what its quantizers and its optimizer write (1.32)."""

from __future__ import annotations

from onnxscope.operators.operator import Codes, Operator, Training

__all__ = ["CONTRIBUTED"]

_CONV = {1: "weight", 2: "bias"}
_GEMM = {0: "weight", 1: "weight", 2: "bias"}
_BOTH = frozenset({1, 2})
_PRODUCT = {0: "weight", 1: "weight"}
_TABLES = {2: "weight", 3: "weight_position", 4: "weight_segment", 5: "norm_weight", 6: "norm_bias"}
_RECURRENT = {1: "weight_ih", 2: "weight_hh", 3: "bias", 7: "peephole"}
_TWO_SCALED = frozenset({1, 2, 4, 5, 6, 7})
_ONE_SCALED = frozenset({1, 2, 3, 4})
_CACHE = ("batch", "head", "token", "channel")
_STATE = ("direction", "batch", "channel")
_OPERANDS = {0: Codes((1,), 2), 3: Codes((4,), 5)}

CONTRIBUTED = (
    # ---- layers: operators that own weights
    Operator("FusedConv", alike="Conv", roles=_CONV, cost="convolution", is_convolution=True, channel_axis=1),
    Operator("NhwcConv", alike="Conv", roles=_CONV, cost="convolution", is_convolution=True, channel_axis=-1),
    Operator("NhwcFusedConv", alike="Conv", roles=_CONV, cost="convolution", is_convolution=True, channel_axis=-1),
    Operator("FusedGemm", alike="Linear", roles=_GEMM, weight="gemm", cost="product", channel_axis=-1),
    Operator("GemmFastGelu", alike="Linear", roles=_CONV, weight="matmul", cost="product", channel_axis=-1),
    Operator(
        "FusedMatMul",
        alike="Linear",
        roles=_PRODUCT,
        weight="gemm",
        cost="product",
        channel_axis=-1,
        contracts=True,
    ),
    Operator(
        "TransposeMatMul",
        alike="Linear",
        roles=_PRODUCT,
        weight="gemm",
        cost="product",
        channel_axis=-1,
        contracts=True,
    ),
    Operator("Attention", roles=_CONV, weight="outputs_last", packs=_BOTH, channel_axis=-1),
    Operator("PackedAttention", alike="Attention", roles=_CONV, weight="outputs_last", packs=_BOTH, channel_axis=-1),
    Operator("EmbedLayerNormalization", roles=_TABLES, weight="outputs_last", separate_bias=False, channel_axis=-1),
    # ---- layers of integers, with what makes real numbers of them
    Operator(
        "QGemm",
        alike="Linear",
        roles={0: "weight", 3: "weight", 6: "bias"},
        control=frozenset({1, 2, 4, 5, 7, 8}),
        weight="gemm",
        cost="product",
        integers=True,
        codes={**_OPERANDS, 6: Codes((1, 4))},
        gives_codes=(7, 8),
        channel_axis=-1,
    ),
    Operator(
        "MatMulIntegerToFloat",
        alike="Linear",
        roles={**_PRODUCT, 6: "bias"},
        control=frozenset({2, 3, 4, 5}),
        weight="matmul",
        cost="product",
        integers=True,
        codes={0: Codes((2,), 4), 1: Codes((3,), 5)},
        channel_axis=-1,
    ),
    Operator(
        "DynamicQuantizeMatMul",
        alike="Linear",
        roles={1: "weight", 4: "bias"},
        control=frozenset({2, 3}),
        weight="matmul",
        cost="product",
        integers=True,
        codes={1: Codes((2,), 3)},
        channel_axis=-1,
        quantizes=True,
    ),
    Operator(
        "MatMulNBits",
        alike="Linear",
        roles={1: "weight", 5: "bias"},
        control=frozenset({2, 3, 4}),
        cost="product",
        integers=True,
        codes={1: Codes((2,), 3, packing="rows")},
        channel_axis=-1,
    ),
    Operator(
        "MatMulBnb4",
        alike="Linear",
        roles={1: "weight"},
        control=frozenset({2}),
        cost="product",
        integers=True,
        codes={1: Codes((2,), packing="levels")},
        channel_axis=-1,
    ),
    Operator(
        "GatherBlockQuantized",
        alike="Gather",
        roles={0: "weight"},
        control=frozenset({2, 3}),
        weight="outputs_last",
        integers=True,
        codes={0: Codes((2,), 3, packing="last_axis")},
        keeps_axes=False,
        looks_up=True,
    ),
    Operator(
        "QAttention",
        alike="Attention",
        roles=_CONV,
        control=frozenset({3, 4, 5, 6, 7}),
        weight="outputs_last",
        integers=True,
        codes={1: Codes((4,), 7)},
        packs=_BOTH,
        channel_axis=-1,
    ),
    Operator(
        "QEmbedLayerNormalization",
        alike="EmbedLayerNormalization",
        roles=_TABLES,
        control=frozenset(range(8, 18)),
        weight="outputs_last",
        separate_bias=False,
        integers=True,
        codes={position: Codes((position + 6,), position + 11) for position in _TABLES},
        channel_axis=-1,
    ),
    Operator(
        "DynamicQuantizeLSTM",
        alike="LSTM",
        roles=_RECURRENT,
        control=frozenset({8, 9, 10, 11}),
        weight="directions_last",
        integers=True,
        codes={1: Codes((8,), 9), 2: Codes((10,), 11)},
        channel_axis=-1,
        output_axes={0: ("time", *_STATE), 1: _STATE, 2: _STATE},
        quantizes=True,
    ),
    Operator("QMoE", roles={2: "weight", 5: "weight_2", 8: "weight_3"}, is_packed=True, channel_axis=-1),
    # ---- normalization
    Operator(
        "SkipLayerNormalization",
        alike="LayerNormalization",
        roles={2: "weight", 3: "bias", 4: "skip_bias"},
        separate_bias=False,
        channel_axis=-1,
    ),
    Operator("SimplifiedLayerNormalization", alike="RMSNormalization", roles={1: "weight"}, channel_axis=-1),
    Operator(
        "SkipSimplifiedLayerNormalization",
        alike="RMSNormalization",
        roles={2: "weight", 3: "skip_bias"},
        separate_bias=False,
        channel_axis=-1,
    ),
    Operator("GroupNorm", alike="GroupNormalization", roles=_CONV, channel_axis=-1),
    Operator(
        "SkipGroupNorm",
        alike="GroupNormalization",
        roles={**_CONV, 4: "skip_bias"},
        separate_bias=False,
        channel_axis=-1,
    ),
    # ---- arithmetic and activation functions of integers
    Operator(
        "QLinearAdd",
        alike="Add",
        other_role="bias",
        control=_TWO_SCALED,
        codes=_OPERANDS,
        gives_codes=(6, 7),
        function="straight",
        behind_layer="part",
        ends_block=True,
    ),
    Operator(
        "QLinearMul",
        alike="Mul",
        other_role="scale",
        control=_TWO_SCALED,
        codes=_OPERANDS,
        gives_codes=(6, 7),
        function="straight",
    ),
    Operator(
        "QLinearSigmoid",
        alike="Sigmoid",
        control=_ONE_SCALED,
        codes={0: Codes((1,), 2)},
        gives_codes=(3, 4),
        function="bends",
        limits=(0.0, 1.0),
    ),
    Operator(
        "QLinearLeakyRelu",
        alike="LeakyRelu",
        control=_ONE_SCALED,
        codes={0: Codes((1,), 2)},
        gives_codes=(3, 4),
        function="bends",
    ),
    Operator(
        "QLinearSoftmax",
        alike="Softmax",
        control=_ONE_SCALED,
        codes={0: Codes((1,), 2)},
        gives_codes=(3, 4),
        function="bends",
        gives_shares=True,
    ),
    Operator("BiasSoftmax", function="bends", gives_shares=True),
    Operator("QLinearConcat", alike="Concat", gives_codes=(0, 1)),
    Operator("QLinearWhere", alike="Where", control=frozenset({2, 3, 5, 6, 7, 8}), gives_codes=(7, 8)),
    Operator("QLinearReduceMean", alike="ReduceMean", control=_ONE_SCALED, gives_codes=(3, 4), keeps_axes=False),
    *(Operator(name, roles={1: "bias"}, function="bends") for name in ("FastGelu", "BiasGelu")),
    Operator("QuickGelu", function="bends"),
    # ---- places and channels
    Operator("NhwcMaxPool", alike="MaxPool", channel_axis=-1),
    Operator("QLinearAveragePool", alike="AveragePool", control=_ONE_SCALED, gives_codes=(3, 4), channel_axis=1),
    Operator(
        "QLinearGlobalAveragePool", alike="GlobalAveragePool", control=_ONE_SCALED, gives_codes=(3, 4), channel_axis=1
    ),
    Operator("ReorderInput", channel_axis=1),
    Operator("ReorderOutput", channel_axis=1),
    Operator("BitmaskDropout", control=frozenset({1, 2}), training=Training("random", operand=2, ratio=1)),
    Operator("BiasDropout", control=frozenset({3, 4}), training=Training("random", operand=4, ratio=3)),
    Operator("BitmaskBiasDropout", control=frozenset({3, 4}), training=Training("random", operand=4, ratio=3)),
    Operator(
        "MultiHeadAttention",
        roles={3: "bias"},
        packs=frozenset({3}),
        channel_axis=-1,
        output_axes={1: _CACHE, 2: _CACHE, 3: ("batch", "head", "query", "key")},
    ),
    Operator("Sampling", is_random=True, keeps_axes=False),
)
