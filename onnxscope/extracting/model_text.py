"""A small model as a text that a person can read, and onnx too."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx.printer
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper

__all__ = ["model_text"]

_MOST_NUMBERS = 1000


def model_text(proto: ModelProto) -> str | None:
    """Return a model as `onnx.parser` reads it; None where it is too large, or does not come back as it was."""
    tensors = list(proto.graph.initializer)
    numbers = sum(_count(tensor) for tensor in tensors)
    if numbers > _MOST_NUMBERS or any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
        return None
    try:
        text = str(onnx.printer.to_text(proto))
        read = onnx.parser.parse_model(text)
    except Exception:  # whatever the printer or the parser does not know
        return None
    return text.rstrip("\n") + "\n" if _plain(read) == _plain(proto) else None


def _plain(proto: ModelProto) -> bytes:
    """A model in one spelling."""
    plain = ModelProto()
    plain.CopyFrom(proto)
    _spell(plain.graph)
    return bytes(plain.SerializeToString(deterministic=True))


def _spell(graph: GraphProto) -> None:
    graph.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    for node in graph.node:
        for field in ("domain", "doc_string", "name"):
            if not getattr(node, field):
                node.ClearField(field)
        copies = [AttributeProto.FromString(attribute.SerializeToString()) for attribute in node.attribute]
        del node.attribute[:]
        node.attribute.extend(sorted(copies, key=lambda attribute: attribute.name))
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.type == AttributeProto.TENSOR:
                name = attribute.t.name
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t), name or None))
            elif attribute.type == AttributeProto.GRAPH:
                _spell(attribute.g)


def _count(tensor: TensorProto) -> int:
    count = 1
    for side in tensor.dims:
        count *= side
    return count
