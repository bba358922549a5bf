"""The constants of a model as its nodes see them, stored or computed from stored ones, as short texts."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxscope.errors import OnnxscopeError
from onnxscope.model.graphs import Graph, Node, Step, ValueType
from onnxscope.model.loading import Model
from onnxscope.runtime.session import evaluate_constants
from onnxscope.runtime.small_constants import LARGEST, OPERATORS, fold

__all__ = ["ConstantValues", "array_text", "digest_of_text"]

Array = NDArray[Any]
_Key = tuple[tuple[Step, ...], str]  # the path of the graph that stores or computes a value, and its name
_MOST_SHOWN = 8  # numbers that stand in a text as they are
_LARGEST = 1 << 24  # elements of what is made out of nothing
_BLOCK_BYTES = 1 << 24
_DEEPEST = 32  # nodes between a small constant and what is stored, for numpy
_TEXT = re.compile(r"(b?float\d+|double)(?:\[([\d, ]*)\])? (.*)")
_GROWING = frozenset({"Expand", "Tile", "Range", "Pad", "Resize", "Upsample", "OneHot", "Loop", "Scan", "If"})
"""Operators whose result may be far larger than what they read."""


class ConstantValues:
    """Reads the constants of one model; one that cannot be computed is none."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._computed: dict[_Key, str | None] = {}
        self._small: dict[_Key, Array] = {}
        self._texts: dict[_Key, str] = {}
        self._cheap: dict[_Key, bool] = {}
        self._by_numpy: dict[_Key, TensorProto | None] = {}

    def is_constant(self, path: tuple[Step, ...], value: str) -> bool:
        """Whether a value of a graph is stored, or computed from stored ones in a way that can be followed."""
        graph = self._model.graphs[path]
        if value not in graph.constants:
            return False
        if self._stored(graph, value) is not None:
            return True
        return self._is_cheap(graph, value) and self._once(graph, value) is not None

    def prepare(self, values: Iterable[str], path: tuple[Step, ...] = ()) -> None:
        """Compute in one go those of these values of a graph that are constants of its own and not stored."""
        graph = self._model.graphs[path]
        constants = (value for value in dict.fromkeys(values) if value in graph.constants and value in graph.producers)
        missing = (value for value in constants if (path, value) not in self._computed)
        wanted = (value for value in missing if self._stored(graph, value) is None)
        self._compute(graph, [value for value in wanted if self._is_cheap(graph, value)])

    def text(self, path: tuple[Step, ...], value: str) -> str | None:
        """The numbers of a constant, or type, shape and a digest of many; None for what is no constant."""
        key = path, value
        if key not in self._texts:
            if not self.is_constant(path, value):
                return None
            tensor = self._stored(self._model.graphs[path], value)
            if tensor is None:
                return self._once(self._model.graphs[path], value)
            self._texts[key] = array_text(self._model.array(tensor))
        return self._texts[key]

    def values(self, path: tuple[Step, ...], value: str) -> Array | None:
        """The numbers of a small constant, None for others."""
        graph = self._model.graphs[path]
        tensor = self._stored(graph, value)
        if tensor is None:
            return self._small.get((graph.scope_of(value).path, value))
        return self._model.array(tensor) if math.prod(tensor.dims) <= 64 else None

    def array(self, path: tuple[Step, ...], value: str) -> Array:
        """The numbers of a constant, however many.

        Raises:
            RunError: It cannot be computed.
        """
        graph = self._model.graphs[path]
        tensor = self._stored(graph, value)
        if tensor is not None:
            return self._model.array(tensor)
        scope = graph.scope_of(value)
        return evaluate_constants(self._model, [value], path=scope.path)[value]

    def sides(self, path: tuple[Step, ...], value: str) -> list[int | None] | None:
        """The numbers of a vector that is put together from shapes, None for each that the model leaves open.

        Altogether None for a value that is not put together in a way that can be followed.
        """
        graph = self._model.graphs[path]
        constant = self.values(path, value) if self.is_constant(path, value) else None
        if constant is not None:
            return [int(side) for side in constant.ravel()] if constant.dtype.kind in "iu" else None
        node = graph.producers.get(value)
        if node is None or not node.is_standard or value != node.outputs[0]:
            return None
        if node.op_type == "Shape":
            known = graph.types.get(node.inputs[0])
            if known is None or known.shape is None:
                known = self._model.types.get(path, {}).get(node.inputs[0])
            return _sides_of(node, known)
        if node.op_type == "Gather":
            source, places = self.sides(path, node.inputs[0]), self.sides(path, node.inputs[1])
            if source is None or places is None or not all(_is_within(place, source) for place in places):
                return None
            return [source[place] for place in places if place is not None]
        if node.op_type == "Concat":
            parts = [self.sides(path, part) for part in node.inputs]
            return None if None in parts else [side for part in parts for side in part or ()]
        if node.op_type in ("Squeeze", "Unsqueeze", "Reshape", "Cast", "Identity"):
            return self.sides(path, node.inputs[0])
        declared = self._model.type_of(graph, value)
        return [None] if declared is not None and declared.shape in ((), (1,)) else None

    def _stored(self, graph: Graph, value: str, depth: int = 0) -> TensorProto | None:
        """The tensor behind a constant that is stored as its readers see it."""
        while True:
            tensor = graph.stored(value)
            scope: Graph | None = graph
            while scope is not None and value not in scope.producers:
                scope = scope.parent
            node = None if scope is None else scope.producers[value]
            if tensor is None and node is not None and node.op_type == "Constant" and node.is_standard:
                return _literal(node)
            if tensor is not None or node is None or scope is None or not node.is_standard:
                return tensor
            if node.op_type in OPERATORS and value == node.outputs[0]:
                return self._folded(scope, node, value, depth) if depth < _DEEPEST else None
            if node.op_type != "Identity":
                return None
            graph, value = scope, node.inputs[0]

    def _folded(self, graph: Graph, node: Node, value: str, depth: int) -> TensorProto | None:
        """What a node makes of small stored tensors, None where it takes more than numpy to tell."""
        key = graph.path, value
        if key not in self._by_numpy:
            self._by_numpy[key] = None
            parts = [self._stored(graph, name, depth + 1) if name else None for name in node.inputs]
            known = all(part is not None or not name for part, name in zip(parts, node.inputs, strict=True))
            if known and all(part is None or math.prod(part.dims) <= LARGEST for part in parts):
                folded = fold(node, [None if part is None else self._model.array(part) for part in parts])
                self._by_numpy[key] = None if folded is None else numpy_helper.from_array(folded)
        return self._by_numpy[key]

    def _once(self, graph: Graph, value: str) -> str | None:
        scope = graph.scope_of(value)
        if (scope.path, value) not in self._computed:
            self._compute(scope, [value])
        return self._computed[scope.path, value]

    def _is_cheap(self, graph: Graph, value: str) -> bool:
        """Whether no node in front of a constant could take more than the stored values themselves."""
        waiting = [value]
        visited: dict[_Key, None] = {}
        while waiting:
            name = waiting.pop()
            scope = graph.scope_of(name)
            node, key = scope.producers.get(name), (scope.path, name)
            if key in visited or node is None:
                continue
            visited[key] = None
            if key in self._cheap:
                if not self._cheap[key]:
                    break
                continue
            if not self._is_modest(scope, node):
                self._cheap[key] = False
                break
            waiting += filter(None, node.inputs)
        else:
            self._cheap |= dict.fromkeys(visited, True)
            return True
        self._cheap[graph.scope_of(value).path, value] = False
        return False

    def _is_modest(self, graph: Graph, node: Node) -> bool:
        if not node.is_standard or node.operator.is_random:
            return False
        if node.op_type == "ConstantOfShape":
            is_known = self.is_constant(graph.path, node.inputs[0])
            shape = self.values(graph.path, node.inputs[0]) if is_known else None
            return shape is not None and math.prod(shape.tolist()) <= _LARGEST
        return node.op_type not in _GROWING

    def _compute(self, graph: Graph, values: list[str]) -> None:
        if not values:
            return
        try:
            answers = evaluate_constants(self._model, values, path=graph.path)
        except OnnxscopeError:
            if len(values) > 1:  # one of them spoils it for the others
                for value in values:
                    self._compute(graph, [value])
            else:
                self._computed[graph.path, values[0]] = None
            return
        for value, answer in answers.items():
            is_tensor = isinstance(answer, np.ndarray)  # of a sequence or an optional the node that makes it says more
            self._computed[graph.path, value] = array_text(answer) if is_tensor else None
            if is_tensor and answer.size <= 64:
                self._small[graph.path, value] = answer


_LITERALS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}


def _literal(node: Node) -> TensorProto | None:
    """The tensor of a Constant that holds plain numbers."""
    name = next((stored.name for stored in node.proto.attribute if stored.name in _LITERALS), None)
    if name is None:
        return None
    return numpy_helper.from_array(np.array(node.attribute(name), _LITERALS[name]))


def _sides_of(node: Node, known: ValueType | None) -> list[int | None] | None:
    """What a Shape node gives of a value of which that is known."""
    start, end = node.attribute("start") or 0, node.attribute("end")
    if known is not None and known.shape is not None:
        sides = [side if isinstance(side, int) else None for side in known.shape]
        return sides[start:end]
    return [None] if start == 0 and end == 1 else None


def _is_within(place: int | None, sides: list[int | None]) -> bool:
    return place is not None and -len(sides) <= place < len(sides)


def digest_of_text(text: str) -> str | None:
    """Return the first 16 digits of the SHA-256 of the numbers that `array_text` has told; None of no such text."""
    told = _TEXT.fullmatch(text)
    if told is None:
        return None
    kind, shape, numbers = told.groups()
    if math.prod(int(side) for side in (shape or "").split(",") if side.strip()) > _MOST_SHOWN:
        return str(numbers)
    try:
        values = np.array([float(number) for number in numbers.split()]).astype(np.dtype(kind))
    except (TypeError, ValueError):
        return None
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def array_text(values: Array) -> str:
    """Return the numbers of a small array, or a digest of a large one, behind its type and shape."""
    shape = "" if not values.ndim else f"[{', '.join(map(str, values.shape))}]"
    kind = "str" if values.dtype.kind in "OU" else values.dtype.name
    if values.size <= _MOST_SHOWN and kind != "str":
        return f"{kind}{shape} {' '.join(map(str, values.ravel()))}".rstrip()
    digest = hashlib.sha256()
    if kind == "str":
        for text in values.ravel():
            content = f"{text}".encode(errors="surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
    else:
        for block in np.array_split(values, max(1, values.nbytes // _BLOCK_BYTES)) if values.ndim else [values]:
            digest.update(np.ascontiguousarray(block).tobytes())
    return f"{kind}{shape} {digest.hexdigest()[:16]}"
