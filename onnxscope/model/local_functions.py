"""Functions: the nodes of each stand in the place of its calls, as far as that stays within bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.helper import make_tensor_value_info

from onnxscope.base.text import first_line, printable
from onnxscope.errors import ModelError
from onnxscope.model.graph_checks import max_nodes
from onnxscope.model.graphs import graphs_of
from onnxscope.operators.table import OPERATORS

__all__ = ["inline_functions", "inline_standard_functions"]

# Past these we do not inline local functions. Real exports stay far below; onnx's inliner takes 5 s for the nodes.
_MAX_INLINED_BYTES = 1 << 30
_MAX_INLINED_DEPTH = 100  # it recurses, and so do we

_Measure = tuple[int, int, int]


def inline_functions(proto: ModelProto, *, where: str) -> ModelProto:
    """Replace calls of a model's local functions by their nodes; a model without any is returned as it is.

    Raises:
        ModelError: They call themselves, take graphs, or would make more than a model can be.
    """
    if not proto.functions:
        return proto
    expansion = _Expansion(proto, where)
    expansion.check()
    try:
        import onnx.inliner

        inlined: ModelProto = onnx.inliner.inline_local_functions(expansion.with_defaults())
    except Exception as error:  # the inliner's own errors, and protobuf's where its answer cannot be parsed
        raise ModelError(f"local functions cannot be inlined ({first_line(error)}): {where}") from error
    expansion.keep_callers(inlined)
    return inlined


def inline_standard_functions(proto: ModelProto) -> ModelProto | None:
    """Replace ONNX's own operators that onnxruntime computes by their functions by the nodes of these.

    Returns:
        A copy, or None where there is nothing to replace, or where onnx does not know the types that decide how.
    """
    opset = max((entry.version for entry in proto.opset_import if not _domain(entry.domain)), default=1)
    functions = {row.name for row in OPERATORS.values() if 0 < row.by_function <= opset}
    if not any(node.op_type in functions for graph in graphs_of(proto) for node in graph.node):
        return None
    import onnx.inliner

    copy = ModelProto()
    copy.CopyFrom(proto)
    for graph in graphs_of(copy):  # the inliner asks for the types of operands, and does not look at what is stored
        declared = {value.name for value in (*graph.input, *graph.value_info, *graph.output)}
        stored = [tensor for tensor in graph.initializer if tensor.name not in declared]
        graph.value_info.extend(make_tensor_value_info(each.name, each.data_type, each.dims) for each in stored)
        graph.value_info.append(
            make_tensor_value_info("", TensorProto.FLOAT, None)
        )  # of operands that are left out too
    try:
        inlined: ModelProto = onnx.inliner.inline_selected_functions(
            copy, [("", name) for name in sorted(functions)], inline_schema_functions=True
        )
    except Exception:  # the inliner's own errors, and protobuf's where its answer cannot be parsed
        return None
    for graph in graphs_of(inlined):
        for place in reversed([place for place, value in enumerate(graph.value_info) if not value.name]):
            del graph.value_info[place]
    return inlined


class _OtherOrderError(Exception):
    pass


class _Expansion:
    """Bounds what inlining would make: functions that call each other double the model at every level."""

    def __init__(self, proto: ModelProto, where: str) -> None:
        self._where = where
        self._proto = proto
        self._nodes = proto.graph.node
        self._functions = {
            (_domain(function.domain), function.name, function.overload): function for function in proto.functions
        }
        self._measured: dict[tuple[str, str, str], _Measure] = {}
        self._largest_argument = 0

    def check(self) -> None:
        for function in self._functions.values():
            self._check_arguments(function.attribute_proto, function.name)
            self._find_arguments(function.node)
        self._find_arguments(self._nodes)
        self._measure(self._nodes, ())

    def with_defaults(self) -> ModelProto:
        """The model with the defaults of functions' attributes in the calls: onnx's inliner leaves them out.

        It is the model itself where no function has one.
        """
        if not any(function.attribute_proto for function in self._functions.values()):
            return self._proto
        copy = ModelProto()
        copy.CopyFrom(self._proto)
        waiting = [copy.graph.node, *(function.node for function in copy.functions)]
        while waiting:
            for node in waiting.pop():
                waiting += [body.node for body in _bodies(node)]
                key = self._called(node)
                if key is not None:
                    given = {attribute.name for attribute in node.attribute}
                    defaults = self._functions[key].attribute_proto
                    node.attribute.extend(default for default in defaults if default.name not in given)
        return copy

    def keep_callers(self, inlined: ModelProto) -> None:
        """Name each node that stands in the place of a call after the call and its own name: `encoder.0/proj`.

        onnx's inliner puts a function's nodes where the call was, one for one and in order, under their own names
        with a number behind; nodes of a call without a name stay so.
        """
        with contextlib.suppress(_OtherOrderError):
            self._name_nodes(self._nodes, inlined.graph.node, "")

    def _name_nodes(self, nodes: Iterable[NodeProto], inlined: Iterable[NodeProto], caller: str) -> None:
        rest = iter(inlined)
        self._name_rest(nodes, rest, caller)
        if next(rest, None) is not None:
            raise _OtherOrderError

    def _name_rest(self, nodes: Iterable[NodeProto], rest: Iterator[NodeProto], caller: str) -> None:
        counts: dict[str, int] = {}
        for node in nodes:
            name = node.name or node.op_type
            count = counts[name] = counts.get(name, 0) + 1
            name = f"{name}_{count}" if count > 1 and not node.name else name
            key = self._called(node)
            if key is not None:
                inner = f"{caller}/{name}" if caller else node.name
                self._name_rest(self._functions[key].node, rest, inner)
                continue
            copy = next(rest, None)
            if copy is None or (copy.op_type, copy.domain) != (node.op_type, node.domain):
                raise _OtherOrderError
            if caller:
                copy.name = f"{caller}/{name}"
            for body, copied in zip(_bodies(node), _bodies(copy), strict=False):
                self._name_nodes(body.node, copied.node, caller)

    def _find_arguments(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            if self._called(node):
                self._check_arguments(node.attribute, node.op_type)
            for body in _bodies(node):
                self._find_arguments(body.node)

    def _check_arguments(self, arguments: Iterable[AttributeProto], function: str) -> None:
        for argument in arguments:
            if argument.HasField("g") or argument.graphs:
                # A graph that is handed on can contain itself: its size after inlining cannot be told from here.
                raise ModelError(f"function '{printable(function)}' takes a graph as an attribute: {self._where}")
            self._largest_argument = max(self._largest_argument, argument.ByteSize())

    def _called(self, node: NodeProto) -> tuple[str, str, str] | None:
        key = (_domain(node.domain), node.op_type, node.overload)
        return key if key in self._functions else None

    def _measure(self, nodes: Iterable[NodeProto], active: tuple[tuple[str, str, str] | None, ...]) -> _Measure:
        """Nodes, bytes of attributes and depth after inlining; `active` are the calls and bodies around `nodes`."""
        self._check_depth(len(active))
        count = size = depth = 0
        for node in nodes:
            count += 1
            for attribute in node.attribute:
                size += self._largest_argument if attribute.ref_attr_name else 0
                size += 0 if attribute.HasField("g") or attribute.graphs else attribute.ByteSize()
            inner = [self._measure(body.node, (*active, None)) for body in _bodies(node)]
            key = self._called(node)
            if key is not None:
                if key in active:
                    raise ModelError(f"function '{printable(node.op_type)}' calls itself: {self._where}")
                if key not in self._measured:
                    self._measured[key] = self._measure(self._functions[key].node, (*active, key))
                inner.append(self._measured[key])
            for more, bytes_more, below in inner:
                count, size, depth = count + more, size + bytes_more, max(depth, below + 1)
            self._check_depth(len(active) + depth)
            if count > max_nodes():
                raise ModelError(
                    f"local functions expand to more than {max_nodes():,} nodes: {self._where}",
                    hint="`--max-nodes` allows more",
                )
            if size > _MAX_INLINED_BYTES:
                raise ModelError(f"local functions expand to more than {_MAX_INLINED_BYTES:,} bytes: {self._where}")
        return count, size, depth

    def _check_depth(self, depth: int) -> None:
        if depth > _MAX_INLINED_DEPTH:
            raise ModelError(f"local functions call each other more than {_MAX_INLINED_DEPTH} deep: {self._where}")


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
