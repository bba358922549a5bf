"""A `.safetensors` file as a model that has weights and nothing else; its bytes stay where they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from onnxscope.base.files import open_regular
from onnxscope.base.text import first_line, printable
from onnxscope.errors import InputError, ModelError
from onnxscope.model.loading import CustomOps, Model, load_model
from onnxscope.model.parameters import Parameter
from onnxscope.model.skeleton import MappedFile
from onnxscope.readers.tensor_files import TensorPlace, tensor_places

__all__ = ["Checkpoint", "is_checkpoint", "load_checkpoint", "load_weights"]

_SUFFIX = ".safetensors"
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
_KINDS = {
    "F64": TensorProto.DOUBLE,
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "F8_E4M3": TensorProto.FLOAT8E4M3FN,
    "F8_E4M3FNUZ": TensorProto.FLOAT8E4M3FNUZ,
    "F8_E5M2": TensorProto.FLOAT8E5M2,
    "F8_E5M2FNUZ": TensorProto.FLOAT8E5M2FNUZ,
    "F8_E8M0": TensorProto.FLOAT8E8M0,
    "F6_E2M3": TensorProto.FLOAT6E2M3,
    "F6_E3M2": TensorProto.FLOAT6E3M2,
    "F4": TensorProto.FLOAT4E2M1,
    "C64": TensorProto.COMPLEX64,
    "I64": TensorProto.INT64,
    "I32": TensorProto.INT32,
    "I16": TensorProto.INT16,
    "I8": TensorProto.INT8,
    "U64": TensorProto.UINT64,
    "U32": TensorProto.UINT32,
    "U16": TensorProto.UINT16,
    "U8": TensorProto.UINT8,
    "BOOL": TensorProto.BOOL,
}


class Checkpoint(Model):
    """The tensors of a `.safetensors` file: a model without nodes, inputs and outputs, which cannot be run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return load_checkpoint, (os.fspath(self.path or self.name),)

    def to_dict(self) -> dict[str, Any]:
        """The `model` record; there is no format of ONNX and no operator set to tell."""
        return {**super().to_dict(), "ir_version": 0, "opsets": {}}

    @cached_property
    def _parameters(self) -> tuple[Sequence[Parameter], Sequence[tuple[str, str]]]:
        """A parameter for every tensor of real numbers, in the order of names; complex ones are told as absent."""
        tensors = sorted(self.main.initializers.items(), key=lambda item: _natural(item[0]))
        rows = [self._parameter(name, tensor) for name, tensor in tensors if tensor.data_type != TensorProto.COMPLEX64]
        absent = [(name, "complex numbers") for name, tensor in tensors if tensor.data_type == TensorProto.COMPLEX64]
        return rows, absent

    def _parameter(self, name: str, tensor: TensorProto) -> Parameter:
        return Parameter(
            name=name,
            layer="",
            role=re.split(r"[./]", name)[-1],
            initializer=name,
            folded=False,
            shape=tuple(tensor.dims),
            dtype=np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name,
            channel_axis=None,
            groups=1,
            permutation=(),
            graph=self.main,
            operand=None,
            encoding=None,
        )


def is_checkpoint(source: Any) -> bool:
    """Whether a model that is given is a checkpoint: one that is loaded, or a path that ends in `.safetensors`."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source).lower().endswith(_SUFFIX)
    return isinstance(source, Checkpoint)


def load_weights(source: Any, *, custom_ops: CustomOps = (), dims: Mapping[str, int] | None = None) -> Model:
    """Load a model, or a checkpoint, of which the weights alone are looked at.

    Args:
        source: What `load_model` takes, or the path of a `.safetensors` file.
        custom_ops: As for `load_model`.
        dims: As for `load_model`.

    Raises:
        InputError: As `load_model`; a checkpoint has no dimensions to give a size.
        ModelError: As `load_model`; a pickle is refused.
    """
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).lower().endswith(_PICKLES):
        raise ModelError(
            f"a pickle, which is code and is not read: {printable(os.fspath(source))}",
            hint="torch.load(…, weights_only=True) reads it, and safetensors.torch.save_file writes a .safetensors",
        )
    if not is_checkpoint(source):
        return load_model(source, custom_ops=custom_ops, dims=dims)
    return load_model(source if isinstance(source, Model) else load_checkpoint(source), dims=dims)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a `.safetensors` file and check its header; no tensor is read.

    Args:
        path: What may stand there is not trusted.

    Raises:
        ModelError: It is missing, no such file, or contradicts itself.
    """
    file = MappedFile(path)
    name = printable(Path(path).name)
    try:
        with open_regular(os.fspath(file.path)) as stream:
            places = tensor_places(stream, name)
    except InputError as error:
        raise ModelError(str(error)) from error
    proto = ModelProto(ir_version=onnx.IR_VERSION, opset_import=[onnx.helper.make_opsetid("", 1)])
    proto.graph.SetInParent()
    for place in places:
        try:
            proto.graph.initializer.append(_tensor(place, file.path.name))
        except (ValueError, TypeError) as error:  # a name with half a surrogate pair, a side beyond 64 bits
            where = f"tensor '{printable(place.name)}': {name}"
            raise ModelError(f"not a .safetensors file, or a broken one ({first_line(error)}): {where}") from error
    return Checkpoint(proto, name=name, folder=file.path.parent, file=file)


def _tensor(place: TensorPlace, location: str) -> TensorProto:
    tensor = TensorProto(name=place.name, data_type=_KINDS[place.dtype], dims=place.shape)
    if not place.size_bytes:
        tensor.raw_data = b""
        return tensor
    tensor.data_location = TensorProto.EXTERNAL
    fields = {"location": location, "offset": place.offset, "length": place.size_bytes}
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `layers.2` before `layers.10`."""
    return [(int(part) if part.isdecimal() and len(part) < 10 else -1, part) for part in re.split(r"(\d+)", name)]
