"""The values that parameters of operators are mistaken for each other in: one row for each operator and parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["BEFORE_THERE_WAS", "EXCHANGED", "as_called", "choices_of"]

_NORMS = (1e-5, 1e-3, 1e-6, 1e-12, 1e-7, 1e-8, 1e-4, 0.0)
_EPSILON = {"epsilon": _NORMS}
_FLAG = (0, 1)
_AXIS = {"axis": (1, -1, 0, 2, 3)}
_PADDED = {"auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")}
_RECURRENT = {"direction": ("forward", "reverse"), "layout": _FLAG}
_REDUCING = {"keepdims": _FLAG, "noop_with_empty_axes": _FLAG}

_CHOICES: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "Resize": {
        "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
        "coordinate_transformation_mode": (
            *("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"),
        ),
        "mode": ("nearest", "linear", "cubic"),
        "cubic_coeff_a": (-0.75, -0.5),
        "exclude_outside": _FLAG,
        "antialias": _FLAG,
        "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    },
    "Upsample": {"mode": ("nearest", "linear")},
    "GridSample": {
        "align_corners": _FLAG,
        "mode": ("linear", "nearest", "cubic", "bilinear", "bicubic"),
        "padding_mode": ("zeros", "border", "reflection"),
    },
    "AffineGrid": {"align_corners": _FLAG},
    "RoiAlign": {
        "coordinate_transformation_mode": ("half_pixel", "output_half_pixel"),
        "mode": ("avg", "max"),
        "sampling_ratio": (0, 1, 2),
    },
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "GroupNormalization"), _EPSILON),
    "LayerNormalization": {**_EPSILON, **_AXIS},
    "RMSNormalization": {**_EPSILON, **_AXIS},
    **dict.fromkeys(("SimplifiedLayerNormalization", "SkipLayerNormalization"), _EPSILON),
    "MeanVarianceNormalization": {},
    "LpNormalization": {"p": (2, 1), "axis": (-1, 1, 0)},
    "LpPool": {"p": (2, 1), **_PADDED, "ceil_mode": _FLAG},
    "GlobalLpPool": {"p": (2, 1)},
    "Conv": _PADDED,
    "ConvTranspose": _PADDED,
    "MaxPool": {**_PADDED, "ceil_mode": _FLAG, "storage_order": _FLAG},
    "AveragePool": {**_PADDED, "ceil_mode": _FLAG, "count_include_pad": _FLAG},
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "Concat", "Gather", "GatherElements", "Split"), _AXIS),
    **dict.fromkeys(("Flatten", "ScatterElements", "Compress", "OneHot", "QuantizeLinear", "DequantizeLinear"), _AXIS),
    "ArgMax": {**_AXIS, "select_last_index": _FLAG, "keepdims": _FLAG},
    "ArgMin": {**_AXIS, "select_last_index": _FLAG, "keepdims": _FLAG},
    **dict.fromkeys(
        (
            *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
            *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
        ),
        _REDUCING,
    ),
    "LeakyRelu": {"alpha": (0.01, 0.1, 0.2, 0.3, 0.0)},
    "Elu": {"alpha": (1.0,)},
    "Celu": {"alpha": (1.0,)},
    "Selu": {"alpha": (1.67326319,), "gamma": (1.05070102,)},
    "HardSigmoid": {"alpha": (0.2, 1 / 6), "beta": (0.5,)},
    "ThresholdedRelu": {"alpha": (1.0,)},
    "Shrink": {"lambd": (0.5,), "bias": (0.0,)},
    "LRN": {"alpha": (1e-4,), "beta": (0.75,), "bias": (1.0, 2.0)},
    "Gemm": {"alpha": (1.0,), "beta": (1.0,), "transA": _FLAG, "transB": _FLAG},
    "Gelu": {"approximate": ("none", "tanh")},
    "Pad": {"mode": ("constant", "reflect", "edge", "wrap")},
    "DepthToSpace": {"mode": ("DCR", "CRD")},
    "Mod": {"fmod": _FLAG},
    "CumSum": {"reverse": _FLAG, "exclusive": _FLAG},
    "TopK": {"largest": _FLAG, "sorted": _FLAG, "axis": (-1, 1, 0)},
    "LSTM": {**_RECURRENT, "input_forget": _FLAG},
    "GRU": {**_RECURRENT, "linear_before_reset": _FLAG},
    "RNN": _RECURRENT,
    "Cast": {"to": (1, 10, 16, 6, 7, 11), "saturate": _FLAG},
    "Trilu": {"upper": _FLAG},
    "BitShift": {"direction": ("LEFT", "RIGHT")},
    "Attention": {"is_causal": _FLAG},
    "RotaryEmbedding": {"interleaved": _FLAG},
    "STFT": {"onesided": _FLAG},
    "DFT": {"inverse": _FLAG, "onesided": _FLAG},
    "ScatterND": {"reduction": ("none", "add", "mul", "max", "min")},
}
EXCHANGED: Mapping[str, Sequence[Sequence[int]]] = {
    **dict.fromkeys(
        ("Sub", "Div", "Pow", "Mod", "MatMul", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "BitShift"),
        ((1, 0),),
    ),
    "Where": ((0, 2, 1),),
    "Concat": ((1, 0), (0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)),
    "Gemm": ((1, 0), (1, 0, 2)),
    "MatMulInteger": ((1, 0),),
    "BatchNormalization": ((0, 2, 1, 3, 4), (0, 1, 2, 4, 3)),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), ((0, 2, 1),)),
}
"""Orders of inputs in which operators are given them by mistake."""
BEFORE_THERE_WAS: Mapping[tuple[str, str], Any] = {
    ("Resize", "coordinate_transformation_mode"): "asymmetric",
    ("Resize", "nearest_mode"): "floor",
    ("Upsample", "coordinate_transformation_mode"): "asymmetric",
    ("Upsample", "nearest_mode"): "floor",
    ("AveragePool", "ceil_mode"): 0,
    ("MaxPool", "ceil_mode"): 0,
    ("TopK", "largest"): 1,
}
"""What an operator did in operator sets that have no such attribute."""
_RENAMED: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "GridSample": {"bilinear": ("linear", 20), "bicubic": ("cubic", 20)},
}
"""Words that an operator has another one for, and the operator set from which on it has."""


def choices_of(op_type: str, parameter: str) -> Sequence[Any]:
    """Return the values that a parameter is often given, none where there are no such ones."""
    return _CHOICES.get(op_type, {}).get(parameter, ())


def as_called(op_type: str, value: Any, opset: int | None = None) -> Any:
    """Return a word of an attribute as an operator set calls it, by default the newest; other values as they are."""
    for old, (new, since) in _RENAMED.get(op_type, {}).items():
        if isinstance(value, str) and value in (old, new):
            return new if opset is None or opset >= since else old
    return value
