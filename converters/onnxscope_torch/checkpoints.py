"""Load a checkpoint into a module: read without running anything, checked whole, then loaded whole."""

from __future__ import annotations

import pickle  # noqa: TID251 - only for the name of the error that torch.load raises
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onnxscope.converting.checkpoints import Shapes, check_fit, find_checkpoint, read_safetensors
from onnxscope.converting.factories import one_line
from onnxscope.errors import ConversionError
from onnxscope_torch.bits import state_tensors

__all__ = ["load_checkpoint", "read_checkpoint"]

_TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}
_HOW_TO_SAVE = "save the weights alone, with torch.save(model.state_dict(), path)"
_COUNTER = "num_batches_tracked"
# torch.save writes a zip archive, and before torch 1.6 wrote pickles of protocol 2.
_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def load_checkpoint(module: nn.Module, path: str) -> list[str]:
    """Load the weights in `path` into `module`, all of them or none.

    Returns:
        Remarks for the user: what was unwrapped, renamed or converted.

    Raises:
        ConversionError: The file cannot be read safely, holds no weights, or does not fit the module.
    """
    state, notes = read_checkpoint(path)
    own = state_tensors(module)
    for prefix, origin in _PREFIXES.items():
        if state and all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
            notes.append(f"the checkpoint's names had {origin}'s prefix {prefix!r}, which was dropped")
    _check_fit(own, state, path)
    widened = [key for key, tensor in state.items() if key in own and tensor.dtype != own[key].dtype]
    if widened:
        first = widened[0]
        names = (str(dtype).removeprefix("torch.") for dtype in (state[first].dtype, own[first].dtype))
        notes.append(f"{len(widened)} checkpoint tensors were converted from {' to '.join(names)}, first {first!r}")
    module.load_state_dict(state, strict=False)
    return notes


def read_checkpoint(path: str) -> tuple[dict[str, Tensor], list[str]]:
    """Read the tensors of a `.pth`, `.pt` or `.safetensors` file; no code in it is run.

    Returns:
        The tensors by name, and remarks for the user.

    Raises:
        ConversionError: No such file, another format, or a pickle that wants more than tensors.
    """
    file = find_checkpoint(path)
    if file.suffix == ".safetensors":
        return read_safetensors(path, "torch", extra="torch"), []
    if file.suffix not in _TORCH_SUFFIXES:
        raise ConversionError(
            f"cannot tell the format of a checkpoint by {file.suffix or 'no suffix'!r}: {path}",
            hint=f"one of {', '.join(_TORCH_SUFFIXES)}, .safetensors",
        )
    return _find_state(_read_torch(path), path)


def _read_torch(path: str) -> Any:
    with open(path, "rb") as stream:
        start = stream.read(4)
    if not start.startswith(_MAGIC):
        raise ConversionError(f"not a PyTorch checkpoint: {path}", hint=_HOW_TO_SAVE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols that torch.save does not write
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({wanted.group(1)})" if wanted else ""
        raise ConversionError(
            f"the checkpoint holds more than tensors{what} and was not loaded: {path}",
            hint=_HOW_TO_SAVE,
        ) from error
    except Exception as error:
        raise ConversionError(f"cannot read the checkpoint ({one_line(error)}): {path}") from error


def _find_state(content: Any, path: str) -> tuple[dict[str, Tensor], list[str]]:
    if not isinstance(content, Mapping):
        raise ConversionError(f"the checkpoint holds a {type(content).__name__}, not a state_dict: {path}")
    if _is_state(content):
        return dict(content), []
    for key in _WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and _is_state(inner):
            return dict(inner), [f"the weights are those under {key!r} in the checkpoint"]
    keys = ", ".join(repr(key) for key in list(content)[:5]) or "nothing"
    raise ConversionError(f"the checkpoint holds no state_dict (but {keys}): {path}")


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str) -> None:
    # Checkpoints older than torch 0.4.1 have no counters; safetensors keeps one name of tied parameters.
    present = {id(own[key]) for key in state if key in own}
    optional = {key for key, tensor in own.items() if _COUNTER in key or id(tensor) in present}
    check_fit(_shapes(own), _shapes(state), path, optional=optional)


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
