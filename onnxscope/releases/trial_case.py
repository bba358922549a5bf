"""What every release is asked: the model as it is, and with its layers as outputs, on the same prepared input."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxscope.base.last_words import doing
from onnxscope.datasets.prepared_input import PreparedInput
from onnxscope.errors import InputError
from onnxscope.model.layers import Layer
from onnxscope.model.loading import Model
from onnxscope.releases.environment import Environment, JobEnd, TaskEnd, run_task
from onnxscope.releases.stored_values import Answers, store_feeds
from onnxscope.runtime.nodes import with_unique_names
from onnxscope.runtime.tap_outputs import expose
from onnxscope.selection.selectors import Tap, tap_values

__all__ = ["PLAIN", "TAPPED", "Trial", "TrialCase"]

PLAIN, TAPPED = "plain", "tapped"
_MODELS, _OURS = "models", "onnxscope-"
_AGAIN, _UNFUSED = "again", "unfused"
_ALL, _NONE = "ORT_ENABLE_ALL", "ORT_DISABLE_ALL"
_NOT_BEGUN = JobEnd("failed", "it was not begun")


@dataclass(frozen=True, eq=False)
class Trial:
    """What became of the model in one environment.

    Attributes:
        environment: Where.
        end: How the model as it is has ended.
        tapped: How the one with its layers as outputs has.
        versions: Of `onnxruntime`, `numpy` and `python`, as far as they are known.
        answers: By job, of those that were done.
    """

    environment: Environment
    end: JobEnd
    tapped: JobEnd
    versions: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Answers] = field(default_factory=dict)

    @property
    def noise_jobs(self) -> tuple[tuple[str, str, bool], ...]:
        """Jobs that show how far the first release is from itself: of which, against which, and whether unfused."""
        return (
            (PLAIN, f"{PLAIN}_{_AGAIN}", False),
            (PLAIN, f"{TAPPED}_{_UNFUSED}", True),
            (PLAIN, f"{PLAIN}_{_UNFUSED}", True),
            (TAPPED, f"{TAPPED}_{_AGAIN}", False),
            (TAPPED, f"{TAPPED}_{_UNFUSED}", True),
        )


class TrialCase:
    """A model and its input, written for other environments.

    Attributes:
        model: The model.
        taps: For every layer that can be observed its tap.
        outputs: For every such layer the output of the tapped model that carries it.
        unreachable: Why others cannot be.
    """

    def __init__(self, model: Model, prepared: PreparedInput, folder: Path, *, threads: int, timeout_s: float) -> None:
        """Write everything.

        Args:
            model: It is run with the optimizations and the provider that it says.
            prepared: What it is fed.
            folder: Where all files go.
            threads: onnxruntime's threads within an operator; 0 leaves it to onnxruntime.
            timeout_s: Seconds that a release may take for all its runs.

        Raises:
            InputError: A value that is fed cannot be stored, or the model runs on a plug-in.
        """
        self.model, self._folder, self._timeout_s = model, folder, timeout_s
        running = model.running
        if running.provider.library is not None:
            raise InputError(
                f"a plug-in belongs to one release of onnxruntime: {running.provider.text}",
                hint="run on what the releases bring themselves, such as `--provider CPU`",
            )
        self._threads = threads if running.threads is None else running.threads
        own = [] if running.provider.is_cpu else [[running.provider.name, dict(running.provider.options)]]
        self._common = {
            "runs": [store_feeds(feeds, folder, run) for run, feeds in enumerate(prepared.runs())],
            "weights": None if model.folder is None else str(model.folder),
            "custom_ops": [str(path.resolve()) for path in model.custom_ops],
            "providers": [*own, ["CPUExecutionProvider", {}]],
        }
        (folder / _MODELS).mkdir()
        self._link_weights()
        self._write(PLAIN, model.proto)
        self.unreachable: list[tuple[str, str]] = []
        self._tap(with_bodies=True)
        self._trials = 0

    def first_trial(self, environment: Environment) -> Trial:
        """Run the model where it is the reference: once, and in another process again and without optimizations.

        Layers inside bodies are left out where the model does not run with them.

        Raises:
            RunError: No process can be started.
        """
        trial = self.trial(environment)
        if trial.end.ending != "ran":
            return trial
        if trial.tapped.ending != "ran" and any(tap.path for tap in self.taps.values()):
            self.forget(trial)
            self._tap(with_bodies=False)
            trial = self.trial(environment)
        # Random numbers of one process may be the same in all its sessions.
        jobs = [(f"{PLAIN}_{_AGAIN}", PLAIN, _ALL)]
        if trial.tapped.ending == "ran":
            jobs += [(f"{TAPPED}_{_AGAIN}", TAPPED, _ALL), (f"{TAPPED}_{_UNFUSED}", TAPPED, _NONE)]
        else:
            jobs += [(f"{PLAIN}_{_UNFUSED}", PLAIN, _NONE)]
        again = self._trial(environment, jobs)
        return replace(trial, answers={**trial.answers, **again.answers})

    def trial(self, environment: Environment) -> Trial:
        """Run the model once as it is and once with its layers as outputs.

        Raises:
            RunError: No process can be started.
        """
        return self._trial(environment, [(PLAIN, PLAIN, _ALL), (TAPPED, TAPPED, _ALL)])

    def ends(self, environment: Environment, proto: ModelProto | None = None) -> JobEnd:
        """How a part of the model, or all of it, ends in an environment.

        Raises:
            RunError: No process can be started.
        """
        if proto is not None:
            self._write("part", proto)
        end = self._run(environment, [("part", PLAIN if proto is None else "part", _ALL)])
        shutil.rmtree(self._folder / "part", ignore_errors=True)
        return end.failure or end.jobs.get("part", _NOT_BEGUN)

    def forget(self, trial: Trial) -> None:
        """Remove the answers of a trial, which must not be read again."""
        for place in {answers.folder.parent for answers in trial.answers.values()}:
            shutil.rmtree(place, ignore_errors=True)

    def _trial(self, environment: Environment, jobs: Sequence[tuple[str, str, str]]) -> Trial:
        self._trials += 1
        place = f"trial_{self._trials}"
        named = [(f"{place}/{name}", model, level) for name, model, level in jobs]
        end = self._run(environment, named)
        ends = {name: end.jobs[f"{place}/{name}"] for name, _, _ in jobs if f"{place}/{name}" in end.jobs}
        plain = end.failure or ends.get(PLAIN, _NOT_BEGUN)
        answers = {
            name: Answers(self._folder / place / name) for name, job_end in ends.items() if job_end.ending == "ran"
        }
        return Trial(environment, plain, ends.get(TAPPED, _NOT_BEGUN), end.versions, answers)

    def _run(self, environment: Environment, jobs: Sequence[tuple[str, str, str]]) -> TaskEnd:
        rows: list[dict[str, Any]] = [
            {
                "name": name,
                "model": f"{_MODELS}/{_OURS}{model}.onnx",
                "level": level if level == _NONE else self._level,
                "threads": 1 if level == _NONE else self._threads,
            }
            for name, model, level in jobs
        ]
        with doing(f"running {self.model.name} in {environment.name}"):
            return run_task(
                environment,
                {**self._common, "jobs": rows},
                self._folder,
                working_folder=self.model.folder,
                timeout_s=self._timeout_s,
            )

    @property
    def _level(self) -> str:
        return {
            "all": _ALL, "extended": "ORT_ENABLE_EXTENDED", "basic": "ORT_ENABLE_BASIC", "none": _NONE,
        }[self.model.running.optimization]  # fmt: skip

    def _tap(self, *, with_bodies: bool) -> None:
        layers = [layer for layer in self.model.layers if with_bodies or not layer.path]
        taps = tap_values(self.model, [(layer.path, layer.value) for layer in layers])
        tapped = expose(self.model, taps.values())
        of_layers: dict[Layer, Tap] = {layer: taps[layer.path, layer.value] for layer in layers}
        self.taps = {layer: tap for layer, tap in of_layers.items() if tap.name in tapped.outputs}
        self.outputs = {layer: tapped.outputs[tap.name] for layer, tap in self.taps.items()}
        reasons = {missed.name: missed.reason for missed in tapped.unreachable}
        self.unreachable = [(layer.name, reasons[tap.name]) for layer, tap in of_layers.items() if tap.name in reasons]
        if not with_bodies:
            inside = [layer.name for layer in self.model.layers if layer.path]
            self.unreachable += [(name, "the model does not run with it as an output") for name in inside]
        self._write(TAPPED, tapped.proto)

    def _write(self, name: str, proto: ModelProto) -> None:
        content = with_unique_names(proto).SerializeToString()
        (self._folder / _MODELS / f"{_OURS}{name}.onnx").write_bytes(content)

    def _link_weights(self) -> None:
        """Make what the model keeps outside of itself appear beside its copies, for releases that look nowhere else."""
        tensors = [tensor for graph in self.model.graphs.values() for tensor in graph.initializers.values()]
        places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
        for place in places if self.model.folder is not None else ():
            link = self._folder / _MODELS / place
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # a system without links, on which those releases then fail
                link.symlink_to(self.model.folder / place)
