"""Samples that are made of other samples: what those are of, they are of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxscope.inputs.samples import Samples

__all__ = ["DerivedSamples"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DerivedSamples(Samples):
    """Samples made of other samples, called as those are.

    Attributes:
        data: The others.
    """

    data: Samples

    @property
    def files(self) -> list[str]:
        """Those of the data."""
        return self.data.files

    @property
    def names(self) -> list[str]:
        """Those of the data."""
        return self.data.names

    @property
    def record(self) -> dict[str, Any]:
        """That of the data, and what is said beside it."""
        return {**self.data.record, **self.beside_record}

    @property
    def notes(self) -> list[str]:
        """Those of the data, and those beside them."""
        return [*self.data.notes, *self.beside_notes]

    def name(self, position: int) -> str:
        """That of the data."""
        return self.data.name(position)

    @property
    @abstractmethod
    def beside_record(self) -> Mapping[str, Any]:
        """What was made of the data, as the `input` of results says it."""

    @property
    @abstractmethod
    def beside_notes(self) -> Sequence[str]:
        """Remarks for people on what was made of the data."""
