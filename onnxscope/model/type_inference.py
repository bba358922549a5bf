"""Shape and type inference, in a child process: on hostile models it may abort, hang or eat memory.

`python -m onnxscope.model.type_inference` reads a skeleton from standard input and writes the annotated one to standard
output.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from onnx import AttributeProto, GraphProto, ModelProto, TypeProto, ValueInfoProto

from onnxscope.model.graphs import Step, ValueType, declared_types
from onnxscope.model.loading import Model

__all__ = ["infer_ranks", "infer_types"]

# -P: what lies in the working folder must not be imported in place of onnx.
_COMMAND = (sys.executable, "-P", "-m", __name__)
_TIMEOUT_S = 60
_MAX_MEMORY_BYTES = 4 << 30


def infer_types(model: Model) -> Mapping[tuple[Step, ...], Mapping[str, ValueType]]:
    """Infer the types of a model's values, as far as that is possible.

    Returns:
        For the path of each graph, the types of its values by name, declared ones included. Empty where inference
        fails, crashes or takes more than a minute: it is a help, never a need.
    """
    try:
        done = subprocess.run(
            _COMMAND,
            input=model.proto.SerializeToString(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=True,
        )
        annotated = ModelProto()
        annotated.ParseFromString(done.stdout)
        return {path: declared_types(_graph_at(annotated.graph, path)) for path in model.graphs}
    except Exception:  # no answer, or none that is such a model: protobuf's class for that depends on its back end
        return {}


def infer_ranks(inferred: Mapping[tuple[Step, ...], Mapping[str, ValueType]]) -> dict[str, int]:
    """Return the ranks of the main graph's values, as far as `infer_types` found them."""
    return {name: len(known.shape) for name, known in inferred.get((), {}).items() if known.shape is not None}


def _graph_at(graph: GraphProto, path: tuple[Step, ...]) -> GraphProto:
    for step in path:
        node = graph.node[step.node_index]
        graph = next(attribute.g for attribute in node.attribute if attribute.name == step.attribute)
    return graph


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_TIMEOUT_S, _TIMEOUT_S))
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))


def _annotate(graph: GraphProto, outer: dict[str, TypeProto], model: ModelProto) -> None:
    """Write the inferred types into a graph and, one level at a time, into its bodies, where onnx leaves them out."""
    import onnx.shape_inference

    alone = ModelProto(ir_version=model.ir_version)
    alone.opset_import.extend(model.opset_import)
    alone.graph.CopyFrom(graph)
    alone.graph.name = graph.name or "graph"
    own = {value.name for value in graph.input}
    alone.graph.input.extend(ValueInfoProto(name=name, type=outer[name]) for name in outer if name not in own)
    inferred = onnx.shape_inference.infer_shapes(alone).graph
    types = dict(outer)
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        types[value.name] = value.type
    declared = {value.name for value in (*graph.input, *graph.output, *graph.value_info)}
    graph.value_info.extend(value for value in inferred.value_info if value.name not in declared)
    for output in graph.output:  # a body's outputs need not declare any type
        if output.name in types:
            output.type.CopyFrom(types[output.name])
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _annotate(attribute.g, types, model)


def _main() -> None:
    _limit()
    model = ModelProto()
    model.ParseFromString(sys.stdin.buffer.read())
    _annotate(model.graph, {}, model)
    sys.stdout.buffer.write(model.SerializeToString())


if __name__ == "__main__":
    _main()
