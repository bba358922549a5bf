"""Which whole-number inputs of a model index a stored table, such as the embedding of tokens."""

from __future__ import annotations

from onnxscope.model.stored_model import StoredModel

__all__ = ["index_bounds"]

_KEEPING = ("same", "cast", "permuted", "reshaped")  # the numbers


def index_bounds(model: StoredModel) -> dict[str, tuple[int, int]]:
    """Return, for integer inputs that index a stored table (an embedding), the range of valid numbers.

    Followed through operators that keep the numbers (Cast, Reshape, …) to the data operand of a Gather.
    """
    main = model.main
    bounds = {}
    for spec in model.inputs:
        limits: list[int] = []
        seen = {spec.name}
        waiting = [spec.name]
        while waiting:
            for node in main.readers.get(value := waiting.pop(), ()):
                if node.operator.looks_up and node.inputs[1:2] == (value,):
                    declared = main.types.get(node.inputs[0])
                    axis = int(node.attribute("axis") or 0)
                    if declared is not None and declared.shape and -len(declared.shape) <= axis < len(declared.shape):
                        size = declared.shape[axis]
                        limits += [size] if isinstance(size, int) else []
                elif node.operator.passes_on in _KEEPING and node.inputs[0] == value and node.outputs[0] not in seen:
                    seen.add(node.outputs[0])
                    waiting.append(node.outputs[0])
        if limits:
            bounds[spec.name] = (0, min(limits))
    return bounds
