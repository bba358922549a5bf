"""One run of forward() before the export: what it returns, which parameters it reads, what BatchNorm follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from onnxscope.converting.factories import one_line
from onnxscope.errors import ConversionError
from onnxscope_torch.bits import state_tensors
from onnxscope_torch.examples import Example

__all__ = ["Observation", "observe"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FOLDING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Observation:
    """What one run showed.

    Attributes:
        output_names: `output`, or `output_0` … for a list, or a dictionary's keys; empty, for
            the exporter to choose, where a result is no tensor, an input, or the same one twice.
        used: Names of the parameters and buffers that an operator read.
        batch_norms: Each BatchNorm that reads a convolution's or linear layer's value directly, and that layer.
    """

    output_names: tuple[str, ...]
    used: frozenset[str]
    batch_norms: dict[str, str] = field(default_factory=dict)


def observe(module: nn.Module, example: Example, source: str) -> Observation:
    """Call forward() once on the example.

    Raises:
        ConversionError: forward() failed on these inputs.
    """
    batch_norms: dict[str, str] = {}
    hooks = _watch_batch_norms(module, batch_norms)
    state = state_tensors(module)
    values = (*example.positional, *example.keywords.values())
    recorder = _Recorder(frozenset(map(id, state.values())))
    try:
        with torch.no_grad(), recorder:
            result = module(*example.positional, **example.keywords)
    except Exception as error:
        shapes = (f"{n}={','.join(map(str, v.shape))}" for n, v in zip(example.names, values, strict=True))
        raise ConversionError(
            f"forward() failed on {' '.join(shapes)} ({one_line(error)}): {source}",
            hint="`--input-shape` gives the shapes, as in `name=1,16`, and `name:int64=1,16` an element type",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    used = frozenset(name for name, tensor in state.items() if id(tensor) in recorder.seen)
    return Observation(_output_names(result, set(map(id, values)), set(example.names) | set(state)), used, batch_norms)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Note which of the known tensors an operator reads, by their ids."""

    def __init__(self, known: frozenset[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.update(id(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if id(leaf) in self.known)
        return func(*args, **(kwargs or {}))


def _watch_batch_norms(module: nn.Module, batch_norms: dict[str, str]) -> list[Any]:
    values: dict[int, tuple[str, Tensor]] = {}
    names = {id(child): name for name, child in reversed(list(module.named_modules(remove_duplicate=False)))}

    def after(child: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        values[id(output)] = (names[id(child)], output)

    def before(child: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and id(inputs[0]) in values:
            batch_norms[names[id(child)]] = values[id(inputs[0])][0]

    hooks: list[Any] = []
    for child in module.modules():
        if isinstance(child, _FOLDING):
            hooks.append(child.register_forward_hook(after))
        elif isinstance(child, _BATCH_NORMS):
            hooks.append(child.register_forward_pre_hook(before))
    return hooks


def _output_names(result: Any, inputs: set[int], taken: set[str]) -> tuple[str, ...]:
    leaves, _ = pytree.tree_flatten_with_path(result)
    ids = {id(leaf) for _, leaf in leaves}
    if len(ids) < len(leaves) or ids & inputs or not all(isinstance(leaf, Tensor) for _, leaf in leaves):
        return ()
    names = []
    for path, _ in leaves:
        keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
        name = "_".join(keys) if keys and not keys[0].isdigit() else "_".join(["output", *keys])
        while name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    return tuple(names)
