"""The search: changes are tried, and kept while the fault is there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxscope.errors import ModelError
from onnxscope.model.loading import Model
from onnxscope.shrinking.case import Case, copied, stored_bytes, with_outputs
from onnxscope.shrinking.faults import Bench, Fault, is_finite

__all__ = ["Search"]

_MOST_BYTES = 1 << 30  # of weights that a trial carries with it; those in files are none of them


@dataclass(eq=False)
class Search:
    """The smallest case so far, and what it costs to find a smaller one.

    Attributes:
        bench: Where trials are made.
        fault: What has to stay.
        case: The smallest so far that shows it.
        model: The one that is made smaller, which reads initializers wherever their bytes are.
        most_trials: After so many it ends.
        end_s: Of the monotonic clock: when it ends in any case.
        timeout_s: Seconds of a trial, in place of the usual ones.
        fixed: Inputs and initializers whose numbers are left as they are.
    """

    bench: Bench
    fault: Fault
    case: Case
    model: Model
    most_trials: int
    end_s: float
    timeout_s: float | None = None
    fixed: frozenset[str] = frozenset()
    _failed: set[bytes] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Whether no more trials may be made."""
        return self.bench.trials.count >= self.most_trials or self.is_late

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.end_s

    def keeps(self, case: Case) -> bool:
        """Try a case and take it where it shows the fault."""
        if self.is_over:
            return False
        if stored_bytes(case) > _MOST_BYTES:
            return False  # protobuf has no room for it
        digest = case.digest
        if digest in self._failed or not self._is_fair(case):
            return False
        if self.fault.is_in(self.bench.verdict(case, self.fault.compared, self.timeout_s)) and self._is_model(case):
            self.case = case
            return True
        self._failed.add(digest)
        return False

    def array(self, tensor: TensorProto) -> np.ndarray[Any, Any]:
        """Read an initializer."""
        return self.model.array(tensor)

    def first(self, cases: Iterable[Case]) -> bool:
        """Take the first of some cases that shows the fault."""
        return any(self.keeps(case) for case in cases)

    def values(self, names: Iterable[str]) -> dict[str, Any] | None:
        """What values of the smallest case hold; None where they cannot be had."""
        wanted = list(dict.fromkeys(names))
        known = {name: self.case.feeds[name] for name in wanted if name in self.case.feeds}
        missing = [name for name in wanted if name not in known]
        if not missing:
            return known
        if self.is_over:
            return None
        answers = self.bench.values(with_outputs(self.case, missing))
        if answers is None or any(value is None for value in answers.values()):
            return None
        return {**known, **answers}

    def _is_model(self, case: Case) -> bool:
        """Whether whatever reads models takes it; engines may take more."""
        try:
            self.model.rewritten(copied(case.proto))
        except ModelError:
            return False
        return True

    def _is_fair(self, case: Case) -> bool:
        """Whether what is to come out of it has not been put in."""
        if self.fault.kind not in ("nan", "infinity"):
            return True
        return all(map(is_finite, case.feeds.values()))
