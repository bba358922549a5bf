"""Attributes and constant operands of the onnx wheel's node cases, changed within small networks; and other changes.

What is changed into what stands here, apart from the program's own tables; used by test_explained_plants.py.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_cases import Case

__all__ = ["Plant", "answers", "attribute_plants", "cases_of", "is_far", "other_plants", "sampled"]

_FLAGS = frozenset(
    {
        *("keepdims", "ceil_mode", "count_include_pad", "exclusive", "reverse", "upper", "largest", "align_corners"),
        *("exclude_outside", "antialias", "linear_before_reset", "input_forget", "select_last_index", "is_causal"),
        *("interleaved", "onesided", "inverse", "storage_order", "noop_with_empty_axes", "fmod", "stash_type"),
    }
)
_WORDS: Mapping[str, Sequence[str]] = {
    "auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
    "coordinate_transformation_mode": (
        *("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"),
        *("output_half_pixel", "tf_crop_and_resize"),
    ),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    "mode": (
        *("nearest", "linear", "cubic", "bilinear", "bicubic", "avg", "max", "DCR", "CRD"),
        *("constant", "reflect", "edge", "wrap"),
    ),
    "padding_mode": ("zeros", "border", "reflection"),
    "approximate": ("none", "tanh"),
    "direction": ("forward", "reverse", "LEFT", "RIGHT"),
    "reduction": ("none", "add", "mul", "max", "min", "mean", "sum"),
}
_WHOLE = {
    "p": (1, 2, 3),
    "size": (1, 3, 5),
    "blocksize": (1, 2),
    "batch_axis": (0, 1),
    "time_axis": (0, 1),
    "k": (1, 2),
}
_LISTS = frozenset({"pads", "strides", "dilations", "perm", "axes", "output_padding", "split"})
_OPERANDS = frozenset(
    {
        *("Resize", "Pad", "Clip", "CumSum", "TopK", "Slice", "Tile", "Trilu", "OneHot", "QuantizeLinear"),
        *("DequantizeLinear", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceMin", "ReduceLogSumExp"),
        *("CenterCropPad", "Expand", "ReduceProd", "ReduceL1", "ReduceSumSquare", "CumProd", "Range", "Col2Im"),
    }
)
_UNUSABLE = frozenset({"Dropout", "Bernoulli", "SoftmaxCrossEntropyLoss", "ImageDecoder", "Cast", "CastLike", "Shape"})
_WEIGHT_CHANGES = ("noise", "another weight", "one number", "a factor for each channel", "few steps")
_ADDED = ("Softplus", "Sin", "Erf", "Mul", "Add", "Softsign", "Cos")
_MOST_OF_ONE = 3  # plants of one operator's one attribute


@dataclass(frozen=True)
class Plant:
    """Two models, the second of which has one thing otherwise, and what tells them apart.

    Attributes:
        label: For messages.
        a: The reference.
        b: The one with the fault.
        feeds: What both are fed.
        what: The attribute, or the operand as its operator calls it; empty where nothing in the table explains it.
        value: What the first model has there; None where that is not written down and there is no default.
    """

    label: str
    a: ModelProto
    b: ModelProto
    feeds: dict[str, np.ndarray]
    what: str = ""
    value: Any = None

    @property
    def op_type(self) -> str:
        """The case's operator."""
        return middle(self.a).op_type


def cases_of(modules: Iterable[str]) -> list[Case]:
    """The wheel's generated cases of some of its modules; all of them take ten times as long to generate."""
    from onnx.backend.test.case import node

    found: list[Case] = []
    for name in modules:
        module = importlib.import_module(f"onnx.backend.test.case.node.{name}")
        kinds = {value.__name__ for value in vars(module).values() if isinstance(value, type)}
        for case in node._NodeTestCases:
            if case.model is not None and len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in kinds:
                found += [
                    Case(case.name, case.model, inputs, expected, case.rtol, case.atol)
                    for inputs, expected in case.data_sets
                ]
    return found


def answers(model: ModelProto, feeds: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What plain onnxruntime gives; None where it refuses."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return np.asarray(session.run(None, dict(feeds))[0])
    except Exception:  # of kinds of its own
        return None


def is_far(one: np.ndarray | None, other: np.ndarray | None, rtol: float = 1e-3) -> bool:
    """Whether two answers are further apart than rounding takes them."""
    if one is None or other is None or one.shape != other.shape:
        return True
    return bool(np.linalg.norm(one.astype(np.float64) - other) > rtol * np.linalg.norm(one.astype(np.float64)))


def attribute_plants(cases: Iterable[Case], seed: int) -> Iterator[Plant]:
    """Plants of every case, in a seeded order, few of each attribute of an operator."""
    rng = np.random.default_rng(seed)
    usable = [case for case in cases if _is_usable(case)]
    counts: dict[tuple[str, str], int] = {}
    for round_number in range(_MOST_OF_ONE):
        for place in rng.permutation(len(usable)):
            case = usable[place]
            node = case.model.graph.node[0]
            changes = [*_attribute_changes(case, node), *_operand_changes(case, node, rng)]
            for number in rng.permutation(len(changes)):
                change, what, value = changes[number]
                if counts.get((node.op_type, what), 0) > round_number:
                    continue
                plant = _planted(case, change, what, value)
                if plant is not None:
                    counts[node.op_type, what] = counts.get((node.op_type, what), 0) + 1
                    yield plant
                    break


def sampled(plants: Iterable[Plant], count: int) -> list[Plant]:
    """The first so many."""
    return [plant for _, plant in zip(range(count), plants, strict=False)]


def other_plants(cases: Iterable[Case], seed: int) -> Iterator[Plant]:
    """Changes that nothing in a table explains: of weights, operators between, or two at once; without end."""
    rng = np.random.default_rng(seed)
    usable = [case for case in cases if _is_usable(case)]
    kinds = [*_WEIGHT_CHANGES, *(f"a {op_type} added" for op_type in _ADDED), "an attribute and a weight"]
    for number in itertools.count():
        case, kind = usable[rng.integers(len(usable))], kinds[number % len(kinds)]
        built = network(case)
        if built is None:
            continue
        a, feeds = built
        b = ModelProto()
        b.CopyFrom(a)
        if kind in _WEIGHT_CHANGES:
            names = [tensor.name for tensor in b.graph.initializer if tensor.name.endswith(".weight")]
            _change_weight(b, names[rng.integers(len(names))], kind, rng)
        elif kind == "an attribute and a weight":
            changes = _attribute_changes(case, case.model.graph.node[0])
            if not changes:
                continue
            changes[rng.integers(len(changes))][0](b)
            _change_weight(b, "last.weight", "noise", rng)
            weight_alone = _with_node_of(a, b)
            if not is_far(answers(a, feeds), answers(weight_alone, feeds), 3e-5):
                continue  # of a result that is all zeros the weight does not matter
        else:
            _add(b, kind.split()[1], rng)
        right, wrong = answers(a, feeds), answers(b, feeds)
        if right is not None and wrong is not None and np.isfinite(right).all() and is_far(right, wrong, 3e-5):
            yield Plant(f"{case.name}: {kind}", a, b, feeds)


def _with_node_of(a: ModelProto, b: ModelProto) -> ModelProto:
    """The second of two networks with the first one's node."""
    both = ModelProto()
    both.CopyFrom(b)
    middle(both).CopyFrom(middle(a))
    return both


def _change_weight(model: ModelProto, name: str, kind: str, rng: np.random.Generator) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    w = numpy_helper.to_array(tensor).copy()
    size = np.abs(w).max()
    if kind == "noise":
        w += rng.standard_normal(w.shape).astype(w.dtype) * size * np.float32(10.0 ** -rng.integers(1, 4))
    elif kind == "another weight":
        w = rng.standard_normal(w.shape).astype(w.dtype)
    elif kind == "one number":
        w.reshape(-1)[rng.integers(w.size)] += size * np.float32(0.7)
    elif kind == "a factor for each channel":
        w *= rng.uniform(0.5, 1.5, (len(w), *[1] * (w.ndim - 1))).astype(w.dtype)
    else:
        step = size / 2.5
        w = np.round(w / step) * step
    tensor.CopyFrom(numpy_helper.from_array(w.astype(np.float32), name))


def _add(model: ModelProto, op_type: str, rng: np.random.Generator) -> None:
    """Put an operator in front of what makes the case's result a row."""
    place = next(place for place, node in enumerate(model.graph.node) if node.name == "long")
    node = model.graph.node[place]
    inputs = [node.input[0]]
    if op_type in ("Mul", "Add"):
        inputs.append("added.operand")
        number = np.float32(rng.uniform(0.5, 2))
        model.graph.initializer.append(numpy_helper.from_array(number, "added.operand"))
    node.input[0] = "added"
    model.graph.node.insert(place, helper.make_node(op_type, inputs, ["added"], name="added"))


def network(case: Case) -> tuple[ModelProto, dict[str, np.ndarray]] | None:
    """A case's node between two layers with weights: what it is fed by a layer, and read by a convolution.

    All but its first input is stored; None where that is not possible.
    """
    feeds = {name: np.asarray(value) for name, value in case.feeds.items()}
    if not feeds or any(array.dtype.kind not in "fiub" or array.dtype.itemsize > 8 for array in feeds.values()):
        return None
    model = ModelProto()
    model.CopyFrom(case.model)
    graph, node = model.graph, model.graph.node[0]
    node.name = "middle"
    first, x = next(iter(feeds.items()))
    if first not in node.input or x.size < 4 or not np.isfinite(x.astype(np.float64)).all():
        return None
    rng = np.random.default_rng(x.size)
    for name, array in list(feeds.items())[1:]:
        graph.initializer.append(numpy_helper.from_array(array, name))
    del graph.input[1:], graph.value_info[:]
    if x.dtype == np.float32 and x.ndim:
        width = x.shape[1 if x.ndim == 4 else -1]
        weight = (np.eye(width) + 0.1 * rng.standard_normal((width, width))).astype(np.float32)
        shaped = weight.reshape(*weight.shape, 1, 1) if x.ndim == 4 else weight
        graph.initializer.append(numpy_helper.from_array(shaped, "first.weight"))
        layer = helper.make_node("Conv" if x.ndim == 4 else "MatMul", [first, "first.weight"], ["fed"], name="first")
        node.input[:] = ["fed" if name == first else name for name in node.input]
        graph.node.insert(0, layer)
    node = next(each for each in graph.node if each.name == "middle")
    if not node.output[0]:
        return None
    graph.initializer.append(numpy_helper.from_array(np.array([1, 1, -1]), "row"))
    graph.initializer.append(numpy_helper.from_array(rng.standard_normal((2, 1, 1)).astype(np.float32), "last.weight"))
    graph.node.extend(
        [
            helper.make_node("Cast", [node.output[0]], ["real"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["real", "row"], ["long"], name="long"),
            helper.make_node("Conv", ["long", "last.weight"], ["result"], name="last"),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("result", TensorProto.FLOAT, None))
    return model, {first: x}


def middle(model: ModelProto) -> onnx.NodeProto:
    """The case's node within a network."""
    return next(node for node in model.graph.node if node.name == "middle")


def _planted(case: Case, change: Any, what: str, value: Any) -> Plant | None:
    built = network(case)
    if built is None:
        return None
    a, feeds = built
    b = ModelProto()
    b.CopyFrom(a)
    change(b)
    right, wrong = answers(a, feeds), answers(b, feeds)
    if right is None or wrong is None or not np.isfinite(right).all() or not is_far(right, wrong, 3e-5):
        return None
    return Plant(f"{case.name}: {what}", a, b, feeds, what, value)


def _is_usable(case: Case) -> bool:
    nodes = case.model.graph.node
    return len(nodes) == 1 and not nodes[0].domain and nodes[0].op_type not in _UNUSABLE and not case.has_bodies


def _schema(case: Case, node: onnx.NodeProto) -> Any:
    opset = next(entry.version for entry in case.model.opset_import if not entry.domain)
    return onnx.defs.get_schema(node.op_type, opset, "")


def _attribute_changes(case: Case, node: onnx.NodeProto) -> list[tuple[Any, str, Any]]:
    written = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    changes = []
    for name, declared in _schema(case, node).attributes.items():
        value = written.get(name)
        if value is None and declared.default_value.type:
            value = helper.get_attribute_value(declared.default_value)
        value = value.decode() if isinstance(value, bytes) else value
        for other in _others(case, name, int(declared.type.value), value):

            def change(model: ModelProto, name: str = name, other: Any = other) -> None:
                target = middle(model)
                kept = [attribute for attribute in target.attribute if attribute.name != name]
                del target.attribute[:]
                target.attribute.extend([*kept, helper.make_attribute(name, other)])

            changes.append((change, name, value))
    return changes


def _others(case: Case, name: str, kind: int, value: Any) -> list[Any]:
    rank = np.ndim(next(iter(case.feeds.values()), 0))
    if name in _FLAGS:
        return [1 - (value or 0)]
    if name in _WORDS:
        return [word for word in _WORDS[name] if word != value]
    if name == "axis" and rank > 1:
        return [axis for axis in range(rank) if axis != (value or 0) % rank]
    if name in _WHOLE and isinstance(value, int):
        return [number for number in _WHOLE[name] if number != value]
    if kind == 1:  # a float
        return [float(np.float32((value or 0) * 3 + 0.05)), *([1e-2] if name == "epsilon" else [])]
    if name in _LISTS and isinstance(value, list) and value:
        rolled = [*value[1:], value[0]]
        more = [[value[0] + 1, *value[1:]]] if name != "perm" else []
        return [other for other in (rolled, *more) if other != value]
    return []


def _operand_changes(case: Case, node: onnx.NodeProto, rng: np.random.Generator) -> list[tuple[Any, str, Any]]:
    changes = []
    if node.op_type not in _OPERANDS:
        return []
    names = [operand.name for operand in _schema(case, node).inputs]
    for position, name in list(enumerate(node.input))[1:]:
        array = case.feeds.get(name)
        if not isinstance(array, np.ndarray) or not 0 < array.size <= 16:
            continue
        other = np.array(array)
        place = int(rng.integers(array.size))
        other.reshape(-1)[place] = array.reshape(-1)[place] * 1.5 + 0.25 if array.dtype.kind == "f" else 1
        if array.dtype.kind != "f" and np.array_equal(other, array):
            other.reshape(-1)[place] = 0

        def change(model: ModelProto, name: str = name, other: np.ndarray = other) -> None:
            for tensor in model.graph.initializer:
                if tensor.name == name:
                    tensor.CopyFrom(numpy_helper.from_array(other, name))

        changes.append((change, names[min(position, len(names) - 1)], array))
    return changes
