"""What two models are fed: one dataset, read once, and what the second model is fed of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from onnxscope.base.run_options import RunOptions
from onnxscope.base.text import counted, printable
from onnxscope.datasets.batches import Batch, Fed, few_samples, read_batches
from onnxscope.datasets.dataset import Dataset, open_inputs
from onnxscope.model.loading import Model
from onnxscope.pairing.match_values import FedInput, match_inputs, with_batch_of
from onnxscope.runtime.pilot import Pilot
from onnxscope.runtime.sample_axes import start_on_samples

__all__ = ["CommonFeed", "open_common_feed"]

Array = NDArray[Any]


class CommonFeed:
    """What both models are fed. It is read once: the first batch is kept for the pilot run.

    Attributes:
        dataset: Opened for the first model, with a batch that is fixed in the second alone.
        inputs: What each input of the second model is made of.
        record: The `input` record.
        notes: Remarks for people.
        seen: What was learned about the samples that were read.
    """

    _reading: Generator[Batch]
    _first: Batch | None
    dataset: Dataset

    def __init__(
        self, dataset: Dataset, inputs: Sequence[FedInput], options: RunOptions, *, notes: Sequence[str] = ()
    ) -> None:
        """Read nothing yet.

        Args:
            dataset: See above.
            inputs: What each input of the second model is made of.
            options: How many samples a batch has, where no model fixes it.
            notes: Remarks on both models' inputs.
        """
        self.inputs = inputs
        self._options = options
        self._remarks = notes
        self._read(dataset)

    def first(self) -> Mapping[str, Array]:
        """Return what the first model is fed in the first batch.

        Raises:
            InputError: A sample cannot be read.
        """
        if self._first is None:
            self._first = next(self._reading)
        return self._first.feeds

    def batches(self) -> Generator[Batch]:
        """Yield all batches once, as the first model takes them."""
        self.first()
        assert self._first is not None
        first, self._first = self._first, None
        yield first
        del first
        yield from self._reading

    def start(self, pilot: Pilot) -> None:
        """Make the first run of the first model, which decides what a sample is.

        Raises:
            InputError: A sample cannot be read.
            RunError: onnxruntime fails.
        """
        self.cut_as(start_on_samples(pilot, self.dataset, self.first(), self.few()))

    def cut_as(self, dataset: Dataset) -> None:
        """Go on with the same data cut in another way, from its beginning; with the same dataset nothing changes."""
        if dataset.batch_axes != self.dataset.batch_axes:
            self.close()
            self._read(dataset)
        elif dataset is not self.dataset:
            self.notes = [*self._remarks, *dataset.notes]

    def few(self, count: int = 2) -> Mapping[str, Array]:
        """Return only the first so many samples of the first batch, where no model fixes how many there are.

        Raises:
            InputError: A sample cannot be read.
        """
        return few_samples(self.dataset, self.first(), count)

    def of_second(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """What the second model is fed where the first is fed `feeds`."""
        return {fed.b: fed.apply(feeds[fed.a]) for fed in self.inputs}

    def _read(self, dataset: Dataset) -> None:
        self.notes = [*self._remarks, *dataset.notes]
        self.record = dataset.record
        self.seen = Fed()
        self.dataset = dataset
        self._reading = read_batches(dataset, 0, dataset.count, self.seen, self._options)
        self._first = None

    def close(self) -> None:
        """Stop reading ahead."""
        self._reading.close()


def open_common_feed(models: tuple[Model, Model], inputs: Any, options: RunOptions) -> CommonFeed:
    """Match the inputs of both models, and open the dataset.

    Args:
        models: The first takes the dataset as it is, the second what is made of that.
        inputs: As for `diff`.
        options: The preset, the layout of the first model's image input, and how many samples.

    Raises:
        InputError: The inputs do not fit, or the models take different things.
    """
    a, b = models
    fed, notes = match_inputs(a.inputs, b.inputs)
    recorded = [model.provenance.preprocess if model.provenance else None for model in models]
    if None not in recorded and recorded[0] != recorded[1]:
        notes.append(f"the models record two presets, {recorded[0]} and {recorded[1]}: the first is used")
    if options.generate is not None and isinstance(inputs, Iterator):
        inputs = list(inputs)  # both models read it
    partners = {one.a: next(spec for spec in b.inputs if spec.name == one.b) for one in fed}
    dataset = open_inputs(
        inputs,
        tuple(with_batch_of(spec, partners[spec.name]) for spec in a.inputs),
        options,
        recorded_preset=recorded[0] or recorded[1],
        bounds=a.index_bounds,
    )
    if options.generate is not None and not isinstance(inputs, Dataset):
        dataset = dataset.parted(*_where_they_part(dataset, inputs, b, options))
    return CommonFeed(dataset, fed, options, notes=notes)


def _where_they_part(
    dataset: Dataset, inputs: Any, second: Model, options: RunOptions
) -> tuple[dict[str, Any] | None, str]:
    """Let the second model generate by itself, and find the first step at which it says another token.

    Raises:
        InputError: It does not take the inputs by itself.
        RunError: It cannot be run.
    """
    own = open_inputs(inputs, second.inputs, replace(options, step=None), bounds=second.index_bounds)
    first_tokens, second_tokens = (one.record["state"]["tokens"] for one in (dataset, own))
    generated = dataset.record["state"]["generated"]
    found = [
        (step, sequence, pair)
        for sequence, (a, b) in enumerate(zip(first_tokens, second_tokens, strict=True))
        for step, pair in enumerate(zip(a[len(a) - generated :], b[len(b) - generated :], strict=True))
        if pair[0] != pair[1]
    ]
    if not found:
        return None, f"both models generate the same {counted(generated, 'token')}"
    step, sequence, (a, b) = min(found)
    of = f" of sequence {sequence}" if len(first_tokens) > 1 else ""
    place = step - generated
    said_a, said_b = (_called(one.record["state"], sequence, place, token) for one, token in ((dataset, a), (own, b)))
    note = (
        f"the models part at step {step}{of}: the first says token {said_a}, the second {said_b}; all steps are "
        f"compared on the first one's tokens, `--step {step}` compares that one alone"
    )
    return {"sequence": sequence, "step": step, "a": a, "b": b}, note


def _called(state: Mapping[str, Any], sequence: int, place: int, token: int) -> str:
    """A token by its number, with what the tokenizer calls it."""
    names = state.get("names")
    return str(token) if names is None or not names[sequence] else f"{token} {printable(names[sequence][place])!r}"
