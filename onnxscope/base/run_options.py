"""What is asked of a run: made once from a function's keywords, checked once, handed on as one record."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from onnxscope.errors import InputError

__all__ = ["Layout", "OnError", "RunOptions"]

Layout = Literal["auto", "nchw", "nhwc"]
OnError = Literal["fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is asked of a run.

    Attributes:
        preprocess: Preset for images, a recipe's path or JSON, or None for the one recorded in the model.
        layout: Of the model's image input.
        batch_size: Samples of a run, where the model does not fix it.
        limit: Only the first so many samples; None for all of them.
        on_error: `skip` leaves out samples that cannot be read, `fail` ends at them.
        exact: Count zeros and quantiles from every element, not from a sample of them.
        memory_budget_bytes: What values may take that leave onnxruntime.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Raises:
        InputError: A batch or a limit of no sample.
    """

    preprocess: str | os.PathLike[str] | None = None
    layout: Layout = "auto"
    batch_size: int = 8
    limit: int | None = None
    on_error: OnError = "fail"
    exact: bool = False
    memory_budget_bytes: int = 512 << 20
    threads: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"a batch of {self.batch_size} samples is none", hint="give at least 1")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"a limit of {self.limit} leaves no sample", hint="give a limit of at least 1")

    def to_dict(self) -> dict[str, Any]:
        """What provenance records: whatever may change a profile and is not said of its input."""
        return {
            "batch_size": self.batch_size,
            "exact": self.exact,
            "memory_budget_bytes": self.memory_budget_bytes,
            "on_error": self.on_error,
        }
