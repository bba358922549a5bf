"""Record what a module's layers return, as the reference for the model that was exported from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from onnxscope.comparison.result import Comparison
from onnxscope.comparison.with_framework import FrameworkValue, compare_with_framework, name_inputs
from onnxscope.model.loading import CustomOps, Model, load_model

__all__ = ["verify", "verify_calls"]


def verify(module: nn.Module, model: Any, inputs: Any, *, custom_ops: CustomOps) -> Comparison:
    """Compare an exported model with the module; see `onnxscope_torch.verify`."""
    positional, keywords = _arguments(inputs)
    return verify_calls(module, load_model(model, custom_ops=custom_ops), positional, keywords)


def verify_calls(
    module: nn.Module, model: Model, positional: Sequence[Tensor], keywords: Mapping[str, Tensor]
) -> Comparison:
    """The same, for the arguments of one call; the model takes them in this order."""
    feeds = name_inputs(model, [tensor.detach().cpu().numpy() for tensor in (*positional, *keywords.values())])
    calls, result = _run(module, positional, keywords)
    outputs = [leaf.detach().cpu().numpy() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return compare_with_framework(
        model,
        feeds,
        calls,
        outputs,
        framework=f"{type(module).__name__} in torch {str(torch.__version__).partition('+')[0]}",
        channels_last=False,
    )


def _arguments(inputs: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
    if isinstance(inputs, Mapping):
        return [], {name: torch.as_tensor(value) for name, value in inputs.items()}
    if isinstance(inputs, Sequence):
        return [torch.as_tensor(value) for value in inputs], {}
    return [torch.as_tensor(inputs)], {}


def _run(
    module: nn.Module, positional: Sequence[Tensor], keywords: Mapping[str, Tensor]
) -> tuple[list[FrameworkValue], Any]:
    """Call the module once in inference mode, and put it back as it was."""
    calls: list[FrameworkValue] = []
    returned: dict[int, tuple[str, Tensor]] = {}  # with the tensor, so that no other gets its id
    hooks = []
    for name, child in module.named_modules():
        if name and next(child.parameters(recurse=False), None) is not None:

            def record(child: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):  # what works in place behind it must not reach the copy
                    values = output.detach().cpu().clone().numpy()
                    source, _ = returned.get(id(inputs[0]), (None, None)) if inputs else (None, None)
                    calls.append(FrameworkValue(layer=name, kind=type(child).__name__, array=values, source=source))
                    returned[id(output)] = name, output

            hooks.append(child.register_forward_hook(record))
    training = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            result = module(*positional, **keywords)
    finally:
        for hook in hooks:
            hook.remove()
        for child, mode in training.items():
            child.training = mode
    return calls, result
