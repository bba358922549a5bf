"""Export a SavedModel: check that its graph computes and nothing else, then convert its serving signature."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from onnxscope.base.text import printable
from onnxscope.converting.contract import ConversionRequest
from onnxscope.errors import ConversionError
from onnxscope_tensorflow.export import Exported, Parameter, layer_feeds, run_tf2onnx
from onnxscope_tensorflow.inputs import InputSpec, override_shapes

__all__ = ["check_saved_model", "export_saved_model"]

_SAVER_OPS = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"})
# Operations that run Python or a plug-in, or that read, write or listen to something outside the graph.
_REFUSED = re.compile(
    r".*PyFunc.*|.*ReadFile|WriteFile|MatchingFiles|.*Dataset.*|.*Reader(V2)?|.*Summary.*|Print(V2)?|Debug.*|"
    r"Save.*|Restore.*|MergeV2Checkpoints|ShardedFilename|ShardedFilespec|LookupTableImport.*|"
    r"InitializeTableFromTextFile.*|RemoteCall|_?Send|_?Recv|_?HostSend|_?HostRecv|Collective.*|Rpc.*|"
    r"DecodeProto.*|EncodeProto|Iterator.*|.*Iterator(V2)?|TRTEngineOp|CreateTRTResourceHandle|Tpu.*|TPU.*|Xla.*|"
    r"Sdca.*|LoadLibrary.*|DumpTensor|AudioMicrofrontend|ExampleReader.*|.*Fingerprint.*File.*|TextLine.*"
)
_CALLS = re.compile(r"^(Stateful)?PartitionedCall(_\d+)?$")
_INLINED = "Func/"  # what inlining adds around a function's arguments and results
_SIGNATURES = ("serving_default", "serve")


def export_saved_model(path: Path, request: ConversionRequest, opset: int) -> Exported:
    """Convert the serving signature; in faithful mode with the variables as inputs, as for a Keras model.

    Raises:
        ConversionError: The graph does more than compute, has no usable signature, or cannot be converted.
    """
    check_saved_model(path)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:
        raise ConversionError(f"TensorFlow cannot load the SavedModel ({type(error).__name__}): {path}") from error
    signature = _signature(loaded, path)
    own = dict(signature.structured_input_signature[1])
    specs = tuple(InputSpec(name, tuple(spec.shape), spec.dtype.name) for name, spec in own.items())
    inputs = override_shapes(specs, request.input_shapes, static=request.static, source=request.source)
    outputs = tuple(signature.structured_outputs)

    def run(*tensors: Any) -> list[Any]:
        results = signature(**dict(zip(own, tensors, strict=True)))
        return [tf.identity(results[name]) for name in outputs]

    function = tf.function(run, autograph=False)
    concrete = function.get_concrete_function(
        *(tf.TensorSpec(spec.shape, spec.dtype, f"onnxscope_input_{i}") for i, spec in enumerate(inputs))
    )
    variables = _variables(loaded, signature)
    captures = {id(outer): inner.op.name for outer, inner in concrete.graph.captures if outer.dtype == tf.resource}
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
    graph = frozen.graph.as_graph_def(add_shapes=True)
    handles: tuple[str, ...] = ()
    if request.mode == "faithful":
        handles = tuple(captures.get(id(v.handle), f"unused_{i}") + ":0" for i, v in enumerate(variables))
        _open_constants(graph, {handle.removesuffix(":0") for handle in handles})
    present = {node.name for node in graph.node}
    model = run_tf2onnx(
        lambda: tf2onnx.convert.from_graph_def(
            graph,
            input_names=[t.name for t in frozen.inputs] + [h for h in handles if h.removesuffix(":0") in present],
            output_names=[tensor.name for tensor in frozen.outputs],
            opset=opset,
        )[0],
        keep_pads=request.mode == "faithful",
        source=request.source,
    )
    by_capture = {captures[id(v.handle)]: _path(v).rpartition("/")[0] for v in variables if id(v.handle) in captures}
    operations = _operation_layers(graph, by_capture)
    return Exported(
        model=model,
        inputs=inputs,
        outputs=outputs,
        parameters=tuple(_parameter(variable) for variable in variables),
        handles=handles,
        operations=operations,
        feeds=layer_feeds(frozen.graph, operations),
    )


def check_saved_model(path: Path) -> None:
    """Refuse a SavedModel with an operation that runs code or touches files, but for its own saver's.

    The saver's functions are found through `saver_def`, and nothing else may call them.

    Raises:
        ConversionError: Names the operation.
    """
    content = saved_model_pb2.SavedModel()
    try:
        content.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:
        raise ConversionError(f"its saved_model.pb cannot be read: {path}") from error
    if not content.meta_graphs:
        raise ConversionError(f"its saved_model.pb holds no graph: {path}")
    for meta in content.meta_graphs:
        if not meta.HasField("object_graph_def"):
            raise ConversionError(
                f"a SavedModel of TensorFlow 1: {path}", hint="load it in TensorFlow 2 and save it again"
            )
        saver = {meta.saver_def.save_tensor_name.partition(":")[0], meta.saver_def.restore_op_name}
        private = {n.attr["f"].func.name for n in meta.graph_def.node if n.name in saver and "f" in n.attr}
        _check_nodes((n for n in meta.graph_def.node if n.name not in saver), private, path)
        for function in meta.graph_def.library.function:
            known = _SAVER_OPS if function.signature.name in private else frozenset()
            _check_nodes((n for n in function.node_def if n.op not in known), private, path)
        reachable = {*meta.object_graph_def.concrete_functions}
        for node in meta.object_graph_def.nodes:
            reachable.update(node.function.concrete_functions)
            reachable.add(node.bare_concrete_function.concrete_function_name)
        if private & reachable:
            raise ConversionError(f"its saver can be called as {min(private & reachable)!r}: {path}")


def _check_nodes(nodes: Iterable[Any], private: set[str], path: Path) -> None:
    for node in nodes:
        if _REFUSED.fullmatch(node.op):
            raise ConversionError(
                f"the operation {printable(node.op)} ({printable(node.name)}) runs code or touches files, "
                f"so the model is not loaded: {path}",
                hint="export the model without it",
            )
        for attribute in node.attr.values():
            called = {attribute.func.name, *(function.name for function in attribute.list.func)}
            if called & private:
                raise ConversionError(f"its saver is called by '{printable(node.name)}': {path}")


def _signature(loaded: Any, path: Path) -> Any:
    names = list(loaded.signatures)
    wanted = next((name for name in _SIGNATURES if name in names), names[0] if len(names) == 1 else None)
    if wanted is None:
        raise ConversionError(
            f"no signature named 'serving_default': {path}",
            hint=f"it has {', '.join(sorted(names)) or 'none'}; `model.export(folder)` writes one",
        )
    return loaded.signatures[wanted]


def _variables(loaded: Any, signature: Any) -> list[Any]:
    listed = getattr(loaded, "variables", None) or signature.graph.variables
    return list({id(variable.handle): variable for variable in listed}.values())


def _path(variable: Any) -> str:
    return str(variable.name).removesuffix(":0")


def _parameter(variable: Any) -> Parameter:
    path = _path(variable)
    return Parameter(
        name=path,
        layer=path.rpartition("/")[0],
        shape=tuple(variable.shape),
        dtype=keras.backend.standardize_dtype(variable.dtype),
        value=lambda: np.array(variable.numpy()),
    )


def _open_constants(graph: Any, names: set[str]) -> None:
    """Turn the constants that freezing made of the variables into placeholders."""
    for node in graph.node:
        if node.name in names and node.op == "Const":
            dtype, shape = node.attr["dtype"].type, node.attr["value"].tensor.tensor_shape
            node.op = "Placeholder"
            for key in list(node.attr):
                del node.attr[key]
            node.attr["dtype"].type = dtype
            node.attr["shape"].shape.CopyFrom(shape)


def _operation_layers(graph: Any, layer_of_capture: Mapping[str, str]) -> dict[str, str]:
    """Return the layer of each operation: by the weight that its scope reads, else by the scope's own name."""
    inputs = {node.name: [name.partition(":")[0].lstrip("^") for name in node.input] for node in graph.node}
    identities = {node.name for node in graph.node if node.op == "Identity"}
    reads: dict[str, str] = {}
    for name, sources in inputs.items():
        for source in sources:
            while source in identities and inputs[source]:
                source = inputs[source][0]
            if source in layer_of_capture and not name.startswith(_INLINED):
                reads.setdefault(name, layer_of_capture[source])
    known = _Scopes(reads)
    return {name: known.layer(name) for name in inputs if "/" in name and not name.startswith(_INLINED)}


class _Scopes:
    """What the scopes of operations that read a weight say about the names of all scopes.

    `m_1/features_1/conv_1/convolution` reads a weight of `features/conv`: so `m_1/features_1` is `features`, what is
    inside `m_1/features_1/conv_1` belongs to `features/conv`, and names here end with a call counter, `_1`.
    """

    def __init__(self, reads: Mapping[str, str]) -> None:
        """Learn from operations and the layers whose weights they read."""
        self._leaves: dict[str, str] = {}
        self._containers: dict[str, str] = {}
        endings: set[str] = set()
        for operation, layer in reads.items():
            scopes = operation.split("/")[:-1]
            path, position = layer.split("/"), 0
            matched: list[int] = []
            for index, scope in enumerate(scopes):
                if position < len(path) and scope.startswith(path[position]):
                    endings.add(scope.removeprefix(path[position]))
                    matched.append(index)
                    position += 1
            if not layer or position < len(path):
                continue
            self._leaves["/".join(scopes[: matched[-1] + 1])] = layer
            self._containers["/".join(scopes[: matched[0]])] = ""
            for depth, index in enumerate(matched[:-1], start=1):
                self._containers["/".join(scopes[: index + 1])] = "/".join(path[:depth])
        self._counter = "_1" if endings == {"_1"} else ""

    def layer(self, operation: str) -> str:
        """Return the layer of an operation, by the innermost scope around it that is known."""
        scope, rest = operation.rpartition("/")[0], list[str]()
        while scope:
            if scope in self._leaves:
                return self._leaves[scope]
            if scope in self._containers:
                break
            scope, _, last = scope.rpartition("/")
            if not _CALLS.match(last):
                rest.insert(0, last.removesuffix(self._counter))
        return "/".join(part for part in (self._containers.get(scope, ""), *rest) if part)
