"""A layer, a module or a span of a model as a model of its own, with its data: `extract()`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np

from onnxscope.base import option_types
from onnxscope.base.results import Record, remarks
from onnxscope.base.run_options import FeedingOptions, RunOptions
from onnxscope.base.tables import Cell, Table
from onnxscope.base.text import counted, printable
from onnxscope.datasets.dataset import open_dataset
from onnxscope.extracting.chosen_part import Part, choose_part
from onnxscope.extracting.part_folder import save_part
from onnxscope.extracting.recorded_values import Recorded, difference, known_types, record_values, types_of
from onnxscope.extracting.shrunk_part import Shrinking, layers_of, reaching_values, shrink_part, whole_model
from onnxscope.extracting.standalone import standalone
from onnxscope.model.loading import CustomOps, Model
from onnxscope.runtime.session import open_session
from onnxscope.runtime.unstable_nodes import unstable_values
from onnxscope.selection.feeding_recipes import load_to_run
from onnxscope.shrinking.shrink import Shrunk

__all__ = ["Extraction", "describe_part", "extract"]

_NAMED = 3
_VERDICTS: Mapping[str, str] = {"nan": "NaN", "infinity": "infinite", **dict.fromkeys(("crash", "hang", "error"), "")}


@dataclass(frozen=True, eq=False)
class PartValue:
    """What reached a part, or left it.

    Attributes:
        name: The value's name, in the model as in the part.
        value: An array, a list for a sequence, None for an absent optional; the caller's to keep.
        max_abs: How far the part by itself is from it, of outputs that are numbers.
        same: Whether the part by itself gives it, whenever it is run, within the tolerance of its element type, and it
            shows no fault; None of an input.
    """

    name: str
    value: Recorded
    max_abs: float | None = None
    same: bool | None = None

    @property
    def dtype(self) -> str:
        """The element type as numpy calls it, `str`, `sequence` or `absent`."""
        if isinstance(self.value, list):
            return "sequence"
        if self.value is None:
            return "absent"
        dtype = np.asarray(self.value).dtype
        return "str" if dtype.kind in "OUS" else dtype.name

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The sides, None of what is no tensor."""
        return None if self.value is None or isinstance(self.value, list) else np.shape(self.value)


@dataclass(frozen=True, eq=False)
class Extraction(Record):
    """A part of a model as a model of its own.

    Attributes:
        source: The `model` record of the whole model.
        input: The `input` record of what was fed.
        fed: `model` where the whole model was run on the input, `part` where the part alone was, `other` where another
            model was, whose values the part's inputs and outputs should hold.
        part: Which nodes, inputs and outputs.
        model: The part by itself; its weights stay in the files of the whole model.
        layers: The layers that it holds, in execution order; where none of its nodes owns weights, those of all nodes.
        inputs: What reached it, in the order of its inputs.
        outputs: What left it, in the order of its outputs. Of a part that was shrunk: what should leave it, or where
            nothing tells that, what does; none where neither is known.
        notes: Remarks for people.
        shrunk: What was made smaller, and the fault that it shows; None where nothing was.
    """

    source: Mapping[str, Any]
    input: Mapping[str, Any]
    fed: Literal["model", "part", "other"]
    part: Part
    model: Model
    layers: tuple[str, ...]
    inputs: tuple[PartValue, ...]
    outputs: tuple[PartValue, ...]
    notes: tuple[str, ...]
    shrunk: Shrinking | None = None

    frame_keys = ("inputs", "outputs")

    @property
    def reproduces(self) -> bool:
        """Whether the part by itself gives what the model gave."""
        if self.shrunk is not None and self.shrunk.fault.kind != "models":
            return False
        return all(output.same for output in self.outputs)

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> list[str]:
        """Write the part into a folder, in the layout of onnx's backend tests, with a script that runs it.

        `model.onnx` (and `model.onnx.data` where it would not fit into one file), `test_data_set_0/input_0.pb`,
        `output_0.pb`, …, the same arrays in `data.npz`, `reproduce.py`, and `extract.json`, which is `to_dict()`. They
        appear together, or none does; files of an earlier part are replaced or removed, nothing else is touched. Of a
        part that was shrunk the script shows the fault, and `model.onnxtxt` is the model as text where it is small.

        Args:
            folder: It is made where it is missing.
            force: Whether files of other kinds that have these names may be replaced.

        Returns:
            The names of the files, below the folder.

        Raises:
            OutputError: The folder cannot be written to, a file of the model or one of another kind would be replaced.
        """
        return save_part(
            self.model,
            [value.value for value in self.inputs],
            [value.value for value in self.outputs],
            self.to_dict(),
            Path(folder),
            force=force,
            fault=None if self.shrunk is None else self.shrunk.fault,
        )

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.extract/1`, ready for JSON."""
        operators = Counter(node.op_type for node in self.part.nodes)
        return {
            "schema": "onnxscope.extract/1",
            "model": dict(self.source),
            "input": dict(self.input),
            "fed": self.fed,
            "layers": list(self.layers),
            "nodes": len(self.part.nodes),
            "operators": dict(sorted(operators.items())),
            "weight_bytes": self.model.stored_bytes,
            "inputs": [
                {"name": each.name, "dtype": each.dtype, "shape": _sides(each), "file": f"input_{place}.pb"}
                for place, each in enumerate(self.inputs)
            ],
            "outputs": [
                {
                    "name": each.name,
                    "dtype": each.dtype,
                    "shape": _sides(each),
                    "file": f"output_{place}.pb",
                    "max_abs": each.max_abs,
                    "same": bool(each.same),
                }
                for place, each in enumerate(self.outputs)
            ],
            "reproduces": self.reproduces,
            **({} if self.shrunk is None else {"shrunk": self.shrunk.to_dict()}),
        }

    def table(self) -> Table:
        """A row for each input and output."""
        rows: list[tuple[Cell, ...]] = [
            (f"input {place}", each.name, each.dtype, each.shape, None, "") for place, each in enumerate(self.inputs)
        ]
        verdict = "differs" if self.shrunk is None else _VERDICTS.get(self.shrunk.fault.kind, "differs")
        rows += [
            (f"output {place}", each.name, each.dtype, each.shape, each.max_abs, "" if each.same else verdict)
            for place, each in enumerate(self.outputs)
        ]
        layers = ", ".join(map(printable, self.layers[:_NAMED]))
        more = f" and {len(self.layers) - _NAMED} more" if len(self.layers) > _NAMED else ""
        about = f"{counted(len(self.part.nodes), 'node')}, {self.model.stored_bytes:,} bytes of weights"
        title = f"{layers}{more} of {self.source['name']}: {about if self.shrunk is None else self.shrunk}"
        return Table(title, ("", "value", "type", "shape", "off by", "verdict"), tuple(rows))

    def html_parts(self) -> list[str]:
        """The table and the remarks."""
        return [self.table().html(), *remarks(self.notes)]

    def __repr__(self) -> str:
        return self.table().text()


@option_types.checked
def extract(
    model: Any,
    inputs: Any = None,
    *,
    select: str | Sequence[str] = (),
    start: str | Sequence[str] = (),
    end: str | Sequence[str] = (),
    shrink: bool = False,
    custom_ops: CustomOps = (),
    dims: Mapping[str, int] | None = None,
    threads: int = 0,
    **feeding: Unpack[FeedingOptions],
) -> Extraction:
    """Cut a part out of a model, record what reached it and what it gave, and run it by itself.

    Args:
        model: A path, a `ModelProto` or a `Model`.
        inputs: What the whole model is fed; see `open_dataset`. None feeds the part alone, with seeded random numbers.
        select: Layers, modules, nodes or values by selectors; of several, with everything between them.
        start: Values, or layers for what leaves them, behind which the part begins, in place of what is selected.
        end: Values, or layers for what leaves them, with which the part ends.
        shrink: Make the part, or the whole model where none is named, as small as it can be while its fault is there:
            onnxruntime crashes, hangs or fails on it, gives NaN or infinite numbers, or other ones than without its
            optimizations or than onnx's ReferenceEvaluator. Each trial runs in a process of its own.
        custom_ops: Libraries of custom operators that onnxruntime loads: their code runs.
        dims: Sizes for open dimensions of the model's inputs.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
        feeding: As in `FeedingOptions`.

    Returns:
        The part; `save` writes it.

    Raises:
        SelectorError: A selector matches nothing, or no part is between what was named.
        InputError: The inputs do not fit, the part was not reached on them, or nothing is wrong that can be shrunk.
        ModelError: The model cannot be read.
        RunError: onnxruntime fails.
    """
    loaded, options = load_to_run(
        model, RunOptions(**feeding, threads=threads), inputs, custom_ops=custom_ops, dims=dims
    )
    named = [_listed(each) for each in (select, start, end)]
    part = choose_part(loaded, *named) if any(named) or not shrink else whole_model(loaded)
    if inputs is None:
        alone = loaded.rewritten(standalone(loaded, part, known_types(loaded, part)))
        prepared = open_dataset("random", alone, options).whole()
        values: Mapping[str, Recorded] = next(prepared.runs())
        if not shrink:
            values = {**values, **open_session(alone, threads=threads).run(values)}
        notes = [*prepared.notes, "the part alone was run: `-i` names what the whole model is fed"]
    else:
        prepared = open_dataset(inputs, loaded, options).whole()
        runs = prepared.runs()
        recorded = reaching_values if shrink else record_values
        values = recorded(loaded, part, next(runs), threads=threads)
        notes = [*prepared.notes]
        if next(runs, None) is not None:
            notes.append("the model takes the samples in several runs, of which the first is recorded")
    if part.path and inputs is not None:
        notes.append("the part lies in a body, of which the first round is recorded")
    fed: Literal["model", "part"] = "part" if inputs is None else "model"
    if shrink:
        return describe_shrunk(loaded, *shrink_part(loaded, part, values), prepared.record, fed=fed, notes=notes)
    return describe_part(loaded, part, values, prepared.record, fed=fed, notes=notes, threads=threads)


def describe_shrunk(
    model: Model,
    shrunk: Shrunk,
    shrinking: Shrinking,
    record: Mapping[str, Any],
    *,
    fed: Literal["model", "part", "other"],
    notes: Sequence[str] = (),
) -> Extraction:
    """Return what became of a part of a model, which is not run again.

    Args:
        model: Whose part it was.
        shrunk: What it became.
        shrinking: How.
        record: The `input` record of what was fed.
        fed: Who was fed it.
        notes: Remarks for people.
    """
    graph = shrunk.model.proto.graph
    fed_names, given_names = ([value.name for value in values] for values in (graph.input, graph.output))
    part = Part((), tuple(shrunk.model.main.nodes), tuple(fed_names), tuple(given_names))
    found = []
    for name in given_names if shrunk.expected else ():
        value, answer = shrunk.expected[name], shrunk.given.get(name)
        _, distance = (True, None) if answer is None else difference(answer, value)
        found.append(PartValue(name, value, distance if shrunk.fault.compared != "nothing" else None, False))
    return Extraction(
        source=model.to_dict(),
        input=record,
        fed=fed,
        part=part,
        model=shrunk.model,
        layers=layers_of(model, shrunk.model) or _layers(shrunk.model, part),
        inputs=tuple(PartValue(name, shrunk.feeds[name]) for name in fed_names),
        outputs=tuple(found),
        notes=(*notes, *shrinking.notes),
        shrunk=shrinking,
    )


def describe_part(
    model: Model,
    part: Part,
    values: Mapping[str, Recorded],
    record: Mapping[str, Any],
    *,
    fed: Literal["model", "part", "other"],
    notes: Sequence[str] = (),
    threads: int = 0,
) -> Extraction:
    """Make a model of a part whose values are known, and run it.

    Args:
        model: Whose part.
        part: Which nodes.
        values: Of its inputs, and what its outputs should be.
        record: The `input` record of what was fed.
        fed: Who was fed it: the model, the part alone, or another model.
        notes: Remarks for people.
        threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.

    Raises:
        InputError: A value is of a kind that no file of onnx's test data holds.
        RunError: onnxruntime fails.
    """
    alone = model.rewritten(standalone(model, part, types_of(model, part, values)))
    answers = open_session(alone, threads=threads).run({name: values[name] for name in part.inputs})
    remarks_on_part, found = [*notes], []
    unstable = unstable_values(alone)
    giver = "the other model" if fed == "other" else "the model"
    for name in part.outputs:
        same, distance = difference(answers[name], values[name])
        found.append(PartValue(name, values[name], distance, same and name not in unstable))
        if name in unstable:
            remarks_on_part.append(f"{printable(name)!r} does not reproduce: it {unstable[name]}")
        elif not same:
            reason = "" if fed == "other" else ": onnxruntime computes it in another way there"
            remarks_on_part.append(f"{printable(name)!r} is not what {giver} gave{reason}")
    return Extraction(
        source=model.to_dict(),
        input=record,
        fed=fed,
        part=part,
        model=alone,
        layers=_layers(model, part),
        inputs=tuple(PartValue(name, values[name]) for name in part.inputs),
        outputs=tuple(found),
        notes=tuple(remarks_on_part),
    )


def _layers(model: Model, part: Part) -> tuple[str, ...]:
    names = model.names
    nodes = [node for node in part.nodes if names.owns_weights(node)] or part.nodes
    return tuple(dict.fromkeys(names.layers[node] for node in nodes))


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _sides(value: PartValue) -> list[int] | None:
    return None if value.shape is None else list(value.shape)
