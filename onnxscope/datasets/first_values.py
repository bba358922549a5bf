"""What states are before the first step, where somebody says so: `NAME=FILE`, a member of an archive, a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxscope.base.text import printable
from onnxscope.datasets.given import Given
from onnxscope.errors import InputError

if TYPE_CHECKING:
    from onnxscope.model.stored_model import InputSpec
    from onnxscope.stepping.states import State

__all__ = ["FirstValues"]

Array = NDArray[Any]
_FEW_FILES = 3


@dataclass(frozen=True, eq=False)
class FirstValues:
    """First values of states, for the sequences of each source.

    Attributes:
        arrays: By source and by input, as the model takes them; along the axis of samples one for all sequences of the
            source, or one for each.
        states: Whose they are, by input.
        files: The names of the files that they are from, by input; none where they were in memory.
    """

    arrays: tuple[Mapping[str, Array], ...]
    states: Mapping[str, State]
    files: Mapping[str, tuple[str, ...]]

    @classmethod
    def named(cls, given: Given, specs: Sequence[InputSpec], states: Sequence[State]) -> FirstValues:
        """Read what the sources say of states.

        Raises:
            InputError: It cannot be read or is not what the input takes, or rows of text hold it.
        """
        names = frozenset() if given.kind == "random" else given.names(specs)
        by_name = {state.input.name: state for state in states if state.input.name in names}
        if by_name and given.kind == "text":
            raise InputError(
                f"the first value of the state {printable(next(iter(by_name)))!r} stands in rows of text",
                hint="give arrays: a .npz of all inputs, or NAME=FILE for each",
            )
        arrays: list[dict[str, Array]] = [{} for _ in given.entries]
        files: dict[str, tuple[str, ...]] = {}
        for name, state in by_name.items():
            found = given.arrays(state.input)
            for of_source, (value, _) in zip(arrays, found, strict=True):
                of_source[name] = _full(value, state) if isinstance(value, float) else value
            files[name] = tuple(dict.fromkeys(file for _, file in found if file is not None))
        return cls(tuple(arrays), by_name, files)

    def of_sequence(self, source: int, place: int, count: int) -> dict[str, Array]:
        """The first values of one sequence.

        Args:
            source: Which source it is of.
            place: Which of the source's it is, or the step that it begins with.
            count: How many the source has: of as many values each sequence, or the first step, has its own.
        """
        first = {}
        for name, array in self.arrays[min(source, len(self.arrays) - 1)].items():
            axis = self.states[name].batch_axis
            is_own = array.ndim > axis and 1 < array.shape[axis] == count
            first[name] = array.take([place], axis) if is_own else array
        return first

    @property
    def record(self) -> dict[str, Any]:
        """What results say of it, by input: the names of some files, and the shape of what the first source gives."""
        return {
            name: {"files": list(self.files[name][:_FEW_FILES]), "shape": list(self.arrays[0][name].shape)}
            for name in self.states
        }

    @property
    def remarks(self) -> list[str]:
        """For people."""
        shown = [
            f"{printable(name)} as {', '.join(self.files[name][:_FEW_FILES]) or 'it was given'}" for name in self.states
        ]
        more = f" and {len(shown) - _FEW_FILES} more" if len(shown) > _FEW_FILES else ""
        return [f"states begin with {', '.join(shown[:_FEW_FILES])}{more}"] if shown else []


def _full(number: float, state: State) -> Array:
    """One number throughout."""
    from onnxscope.stepping.states import first_states

    zeros = first_states([state])[state.input.name]
    filled = np.full(zeros.shape, number).astype(zeros.dtype)
    if filled.size and filled.flat[0] != number and zeros.dtype.kind in "iub":
        raise InputError(f"input {state.input.name!r} takes {state.input.dtype}, not {number:g}")
    return filled
