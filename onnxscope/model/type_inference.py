"""Shape and type inference, in a child process: on hostile models onnx may abort, hang or eat memory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper

from onnxscope.model.graphs import Step, ValueType, declared_types
from onnxscope.model.stored_model import StoredModel

__all__ = ["infer_ranks", "infer_types"]

# -I: what lies in the working folder must not be imported in place of the standard library.
_COMMAND = (
    sys.executable,
    "-I",
    "-S",
    str(Path(__file__).with_name("inference_child.py")),
    str(onnx.onnx_cpp2py_export.__file__),
)
_TIMEOUT_S = 60


def infer_types(
    model: StoredModel, stated: ModelProto | None = None
) -> Mapping[tuple[Step, ...], Mapping[str, ValueType]]:
    """Infer the types of a model's values, as far as that is possible.

    Args:
        model: Whose values they are.
        stated: The same graphs with more stated of their sizes, the stored ones by default.

    Returns:
        For the path of each graph, the types of its values by name, declared ones included. Empty where inference
        fails, crashes or takes more than a minute: it is a help, never a need.
    """
    annotated = ModelProto()
    annotated.CopyFrom(model.proto if stated is None else stated)
    try:
        with _started_child() as child:
            _annotate(annotated.graph, {}, annotated, child)
        return {path: declared_types(_graph_at(annotated.graph, path)) for path in model.graphs}
    except Exception:  # no answer, or none that is such a model: protobuf's class for that depends on its back end
        return {}


def infer_ranks(inferred: Mapping[tuple[Step, ...], Mapping[str, ValueType]]) -> dict[str, int]:
    """Return the ranks of the main graph's values, as far as `infer_types` found them."""
    return {name: len(known.shape) for name, known in inferred.get((), {}).items() if known.shape is not None}


class _Child:
    """Asks the child process, until its time is over."""

    def __init__(self, questions: IO[bytes], answers: IO[bytes]) -> None:
        self._questions = questions
        self._answers = answers
        self._end_s = time.monotonic() + _TIMEOUT_S

    def infer(self, model: ModelProto) -> ModelProto:
        """Return the model with the types of its values, but for those inside bodies."""
        if time.monotonic() > self._end_s:  # asking again and again takes its time here too
            raise TimeoutError
        question = model.SerializeToString()
        self._questions.write(len(question).to_bytes(8, "big"))
        self._questions.write(question)
        self._questions.flush()
        size_bytes = int.from_bytes(self._exactly(8), "big")
        if not size_bytes:
            raise ValueError("the graph contradicts itself")
        inferred = ModelProto()
        inferred.ParseFromString(self._exactly(size_bytes))
        return inferred

    def _exactly(self, size_bytes: int) -> bytes:
        content = self._answers.read(size_bytes)
        if len(content) < size_bytes:
            raise EOFError
        return content


@contextlib.contextmanager
def _started_child() -> Iterator[_Child]:
    process = subprocess.Popen(
        _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=-1
    )
    end = threading.Timer(_TIMEOUT_S, process.kill)
    end.daemon = True
    end.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        yield _Child(process.stdin, process.stdout)
    finally:
        end.cancel()
        process.kill()
        with contextlib.suppress(OSError):  # what was not written yet, to a child that is gone
            process.communicate()


def _graph_at(graph: GraphProto, path: tuple[Step, ...]) -> GraphProto:
    for step in path:
        node = graph.node[step.node_index]
        graph = next(attribute.g for attribute in node.attribute if attribute.name == step.attribute)
    return graph


def _annotate(graph: GraphProto, outer: dict[str, TypeProto], model: ModelProto, child: _Child) -> None:
    """Write the inferred types into a graph and, one level at a time, into its bodies, where onnx leaves them out."""
    alone = ModelProto(ir_version=model.ir_version)
    alone.opset_import.extend(model.opset_import)
    alone.graph.CopyFrom(graph)
    alone.graph.name = graph.name or "graph"
    own = {value.name for value in graph.input}
    alone.graph.input.extend(ValueInfoProto(name=name, type=outer[name]) for name in outer if name not in own)
    inferred = child.infer(alone).graph
    types = dict(outer)
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        types[value.name] = value.type
    outside = {value.name for value in (*graph.input, *graph.output)}
    del graph.value_info[:]  # the inferred ones have what was declared, and what was found beside it
    graph.value_info.extend(value for value in inferred.value_info if value.name not in outside)
    for output in graph.output:  # a body's outputs need not declare any type
        if output.name in types:
            output.type.CopyFrom(types[output.name])
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _declare_inputs(node, attribute.g, types)
                _annotate(attribute.g, types, model, child)


def _declare_inputs(node: NodeProto, body: GraphProto, types: Mapping[str, TypeProto]) -> None:
    """Write down what the body of a Scan is fed, where it does not say so itself: a state, or a slice of an operand."""
    if node.op_type != "Scan" or len(body.input) != len(node.input):
        return
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    states = len(node.input) - given.get("num_scan_inputs", 0)
    axes = given.get("scan_input_axes") or [0] * len(node.input)
    for place, value in enumerate(body.input):
        fed = types.get(node.input[place])
        if value.HasField("type") or fed is None or not fed.tensor_type.HasField("shape"):
            continue
        value.type.CopyFrom(fed)
        sides = value.type.tensor_type.shape.dim
        axis = axes[place - states] if place >= states else None
        if axis is not None and -len(sides) <= axis < len(sides):
            del sides[axis]
