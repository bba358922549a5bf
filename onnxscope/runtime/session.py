"""The one onnxruntime path: every array that a model computes comes through here."""

from __future__ import annotations

import ctypes
import difflib
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from onnxscope.base.last_words import doing
from onnxscope.base.text import label, printable
from onnxscope.errors import InputError, RunError
from onnxscope.model.graphs import Step
from onnxscope.model.loading import Model
from onnxscope.providers.loading import add_provider, available, available_text, choose
from onnxscope.providers.provider import CPU, DEFAULT_RUNNING, Optimization, Provider, Running
from onnxscope.providers.refusals import provider_reason, reason_of
from onnxscope.runtime.custom_libraries import register_libraries
from onnxscope.runtime.custom_operators import cut_off, reason_cut_off, without_unknown
from onnxscope.runtime.nodes import declare_type, with_unique_names
from onnxscope.selection.large_values import refuse_large_values

__all__ = ["Assignment", "Session", "evaluate_constants", "open_session", "providers", "runtime_version"]

Array = np.ndarray[Any, Any]

_LEVELS: Mapping[Optimization, str] = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "none": "ORT_DISABLE_ALL",
}
_UNPACKED_BY_ONNX = {"int4", "uint4", "float4_e2m1fn", "int2", "uint2"}


def _import_onnxruntime() -> Any:
    """Import onnxruntime with everything off that it would do beyond running a model."""
    # Telemetry is on by default on Linux, and only this variable, set before the import, keeps it off.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # With it a model's own metadata could turn on profiling, which writes files.
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)
    import onnxruntime

    return onnxruntime


def runtime_version() -> str:
    """Return onnxruntime's version."""
    return str(_import_onnxruntime().__version__)


def providers() -> list[tuple[str, str]]:
    """Return the execution providers that there are, and where each is from, onnxruntime's own first."""
    _import_onnxruntime()
    return available()


@dataclass(frozen=True)
class Assignment:
    """A part of a graph that one provider runs: one node, or several that it has taken as a whole.

    Attributes:
        provider: onnxruntime's name of it.
        nodes: Name and operator of each.
    """

    provider: str
    nodes: tuple[tuple[str, str], ...]


class Session:
    """One onnxruntime session over a (tapped) model.

    Attributes:
        outputs: onnxruntime's name of each output's type, `tensor(float)` or `seq(tensor(float))`, by output name.
        assignments: By onnxruntime's own record, which provider runs what; empty where nothing but its code for the
            processor was asked for.
    """

    def __init__(
        self,
        proto: ModelProto,
        *,
        folder: Path | None,
        where: str,
        threads: int = 0,
        provider: Provider = CPU,
        optimization: Optimization = "all",
        plan_memory: bool = True,
        custom_ops: Sequence[Path] = (),
        configure: Callable[[Any], None] | None = None,
    ) -> None:
        """Build the session.

        Args:
            proto: A model whose large weights may be references into files in `folder`.
            folder: Resolved folder of external data, None where there is none.
            where: The model's name, for messages.
            threads: Threads within an operator; 0 leaves it to onnxruntime.
            provider: What it runs on; what that does not take is left to onnxruntime's code for the processor.
            optimization: How much onnxruntime may fuse and fold.
            plan_memory: Whether the second run of the same shapes takes one block for all values, beside what the first
                one took; where nearly everything dies early, that is slower and half as much memory again.
            custom_ops: Libraries of custom operators.
            configure: Called with onnxruntime's `SessionOptions`, to ask for more.

        Raises:
            InputError: There is no such provider.
            RunError: onnxruntime, or the provider, refuses the model.
        """
        self._ort = _import_onnxruntime()
        self._where = where
        self._provider = provider
        chosen = choose(provider)
        options = self._ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = plan_memory
        options.graph_optimization_level = getattr(self._ort.GraphOptimizationLevel, _LEVELS[optimization])
        if folder is not None:
            # Without it onnxruntime would look for the data files in the working folder.
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        register_libraries(options, custom_ops)
        if configure is not None:
            configure(options)
        given = with_unique_names(proto)
        if not provider.is_cpu:
            given = self._prepared(given, folder, custom_ops)
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            with doing(f"loading {where}"):
                self._session = self._ort.InferenceSession(
                    given.SerializeToString(), options, providers=add_provider(options, chosen), enable_fallback=0
                )
        except Exception as error:  # onnxruntime raises many unrelated classes
            raise self._refused(error) from error
        if chosen.name not in self._session.get_providers():  # it has warned, and gone on without
            raise RunError(f"onnxruntime cannot start {provider.text}: {where}", hint=available_text())
        self.assignments = () if provider.is_cpu else self._assignments()
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self.outputs: Mapping[str, str] = {value.name: value.type for value in self._session.get_outputs()}
        self._op_types = {
            name: node.op_type for node in proto.graph.node for name in node.output if name in self.outputs
        }

    def expected_shapes(self, feeds: Mapping[str, Array]) -> dict[str, tuple[int, ...] | None]:
        """Return the outputs' shapes before anything is run; None where onnxruntime cannot tell."""
        sides: dict[Any, int] = {}
        for name, array in feeds.items():
            if isinstance(array, np.ndarray) and name in self._inputs:
                sides.update(zip(self._inputs[name].shape, array.shape, strict=False))
        shapes: dict[str, tuple[int, ...] | None] = {}
        for value in self._session.get_outputs():
            shape = [side if isinstance(side, int) else sides.get(side) for side in value.shape or ()]
            known = tuple(side for side in shape if side is not None)
            # It gives an empty list for a scalar, and for a value of unknown rank.
            shapes[value.name] = known if known and len(known) == len(shape) else None
        return shapes

    def run(self, feeds: Mapping[str, Array], outputs: Iterable[str] | None = None) -> dict[str, Any]:
        """Run the model once.

        Args:
            feeds: For every input an array of its element type (a list for a sequence, None for an absent optional);
                they are read, never kept.
            outputs: Which outputs to return, None for all.

        Returns:
            By output name: an array that the caller owns, of the value's element type (those that numpy lacks come
            from ml_dtypes; strings are an object array), or a list for a sequence, None for an absent optional.

        Raises:
            InputError: An input is missing or unknown.
            RunError: onnxruntime fails.
        """
        for name in feeds:
            if name not in self._inputs:
                closest = difflib.get_close_matches(name, self._inputs, n=3, cutoff=0) or ["none"]
                raise InputError(
                    f"the model has no input '{printable(name)}': {self._where}",
                    hint=f"its inputs: {', '.join(map(printable, closest))}",
                )
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise InputError(
                f"no array for the input '{printable(missing[0])}': {self._where}",
                hint=f"the model's inputs: {', '.join(map(printable, self._inputs))}",
            )
        wanted = list(self.outputs if outputs is None else outputs)
        tensors = [name for name in wanted if self.outputs[name].startswith("tensor(")]
        others = [name for name in wanted if not self.outputs[name].startswith("tensor(")]
        arrays = {name: fed for name, fed in feeds.items() if isinstance(fed, (np.ndarray, np.generic))}
        if len(arrays) < len(feeds) or (others and not any(map(self._is_extension_output, tensors))):
            # Sequences and optionals go in and come out through another door; with them all of one run, which matters
            # where something is random.
            tensors, others = [], wanted
        answers: dict[str, Any] = {}
        try:
            with doing(f"running {self._where} for {self._listed(wanted)}"):
                values = {name: self._ort_value(array) for name, array in arrays.items()}
                if tensors:
                    computed = self._session.run_with_ort_values(tensors, values)
                    lent = {value.data_ptr() for value in values.values() if value.data_type() != "tensor(string)"}
                    answers.update((name, _own(answer, lent)) for name, answer in zip(tensors, computed, strict=True))
                if others:
                    answers.update(zip(others, self._session.run(others, {**feeds, **values}), strict=True))
        except Exception as error:  # see above
            raise RunError(f"onnxruntime cannot run the model ({reason_of(error)}): {self._where}") from error
        return {name: answers[name] for name in wanted}

    def timed_runs(
        self, feeds: Mapping[str, Any], count: int, *, fewest: int = 1, budget_s: float = 0.0
    ) -> list[float]:
        """Run the model several times and drop its outputs: nothing is converted, copied or checked meanwhile.

        Args:
            feeds: As for `run`.
            count: How often.
            fewest: How often where it takes longer than the budget.
            budget_s: Seconds after which no further run begins; 0 for any.

        Returns:
            The seconds of each.

        Raises:
            RunError: onnxruntime fails.
        """
        values = {
            name: self._ort_value(fed) if isinstance(fed, (np.ndarray, np.generic)) else fed
            for name, fed in feeds.items()
        }
        wanted = list(self.outputs)
        plain = all(kind.startswith("tensor(") for kind in self.outputs.values())
        plain = plain and all(isinstance(fed, (np.ndarray, np.generic)) for fed in feeds.values())
        call = self._session.run_with_ort_values if plain else self._session.run
        seconds: list[float] = []
        total_s = 0.0
        try:
            with doing(f"running {self._where} for {self._listed(wanted)}"):
                while len(seconds) < count and (not budget_s or len(seconds) < fewest or total_s < budget_s):
                    start = time.perf_counter()
                    call(wanted, values)
                    seconds.append(time.perf_counter() - start)
                    total_s += seconds[-1]
        except Exception as error:  # see above
            raise RunError(f"onnxruntime cannot run the model ({reason_of(error)}): {self._where}") from error
        return seconds

    def end_profiling(self) -> Path:
        """End the profile that `configure` has asked for, and return its file, which is the caller's."""
        return Path(self._session.end_profiling())

    def _prepared(self, proto: ModelProto, folder: Path | None, custom_ops: Sequence[Path]) -> ModelProto:
        """A model for a plug-in, which needs the types of outputs declared; its nodes have names for the record."""
        copy = ModelProto()
        copy.CopyFrom(proto)
        for node in copy.graph.node:
            node.name = node.name or next((f"node of {name}" for name in node.output if name), "")
        untyped = [output for output in copy.graph.output if not output.type.WhichOneof("value")]
        if untyped:
            plain = Session(proto, folder=folder, where=self._where, optimization="none", custom_ops=custom_ops)
            for output in untyped:
                declare_type(output, plain.outputs[output.name], plain.side_names(output.name))
        return copy

    def side_names(self, output: str) -> list[int | str | None]:
        """The sides of an output as onnxruntime infers them; empty for a scalar, and where it knows nothing."""
        return next(list(value.shape or ()) for value in self._session.get_outputs() if value.name == output)

    def _assignments(self) -> tuple[Assignment, ...]:
        return tuple(
            Assignment(part.ep_name, tuple((node.name, node.op_type) for node in part.get_nodes()))
            for part in self._session.get_provider_graph_assignment_info()
        )

    def _refused(self, error: Exception) -> RunError:
        """What is said of a model that cannot be loaded; of a provider that was asked for, which there are too."""
        if isinstance(error, RunError):
            return error
        if self._provider.is_default:
            return RunError(f"onnxruntime cannot load the model ({reason_of(error)}): {self._where}")
        reason = provider_reason(error)
        return RunError(f"{self._provider.text} cannot load the model ({reason}): {self._where}", hint=available_text())

    def _listed(self, values: Sequence[str]) -> str:
        """The first value that is computed, with its operator, and how many more there are."""
        if not values:
            return "nothing"
        first = next(filter(self._op_types.get, values), values[0])  # an input is no trouble
        op_type = self._op_types.get(first)
        named = f"'{label(first)}'" + (f" of {label(op_type)}" if op_type else "")
        return named + (f" and {len(values) - 1:,} more" if len(values) > 1 else "")

    def _is_extension_output(self, name: str) -> bool:
        """Whether a tensor has an element type that numpy lacks."""
        kind = self.outputs[name].removeprefix("tensor(").removesuffix(")")
        return kind.startswith(("bfloat16", "float8", "float4", "int4", "uint4", "int2", "uint2"))

    def _ort_value(self, array: Any) -> Any:
        array = np.asarray(array)
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
        if array.dtype.kind in "OU" or array.dtype.name in _UNPACKED_BY_ONNX:
            return self._stored_value(array)
        make = self._ort.OrtValue
        if not _is_extension(array.dtype):
            return make.ortvalue_from_numpy(array)
        elem_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return make.ortvalue_from_numpy_with_onnx_type(array.view(f"u{array.dtype.itemsize}"), elem_type)

    def _stored_value(self, array: Array) -> Any:
        """Strings and packed numbers, which onnxruntime takes from no array, by way of a model that stores them."""
        stored = onnx.numpy_helper.from_array(array.astype(object) if array.dtype.kind == "U" else array, "stored")
        proto = ModelProto(ir_version=11)
        proto.opset_import.add(version=23)
        proto.graph.name = "stored"
        proto.graph.initializer.append(stored)
        proto.graph.output.append(onnx.helper.make_tensor_value_info("stored", stored.data_type, array.shape))
        session = Session(proto, folder=None, where=self._where)
        return session._session.run_with_ort_values(["stored"], {})[0]


def open_session(
    model: Model,
    proto: ModelProto | None = None,
    *,
    threads: int = 0,
    optimize: bool = True,
    running: Running | None = None,
    configure: Callable[[Any], None] | None = None,
) -> Session:
    """Open a session over a model, or over a copy of it that was changed.

    Where onnxruntime does not know an operator, the session lacks what depends on it.

    Args:
        model: Where its weights lie, how it is run, and what messages call it.
        proto: The changed copy; None for the model as it is.
        threads: Threads within an operator, where the model does not say how many; 0 leaves it to onnxruntime.
        optimize: Whether onnxruntime may fuse and fold, as far as the model allows it.
        running: How it is run, in place of what the model says.
        configure: As for `Session`.

    Raises:
        InputError: There is no such provider.
        RunError: onnxruntime refuses the model, or a value of it would not fit into memory.
    """
    refuse_large_values(model)
    _import_onnxruntime()  # before anything asks it for its operators
    running = model.running if running is None else running
    return Session(
        without_unknown(model, model.proto if proto is None else proto),
        folder=model.folder,
        where=model.name,
        threads=threads if running.threads is None else running.threads,
        provider=running.provider,
        optimization=running.optimization if optimize else "none",
        custom_ops=model.custom_ops,
        configure=configure,
    )


def evaluate_constants(model: Model, values: Sequence[str], path: tuple[Step, ...] = ()) -> dict[str, Array]:
    """Compute values that depend on no input, through onnxruntime.

    Args:
        model: Its weights are read where they lie.
        values: Initializers, or values computed from them alone.
        path: The steps that lead to the graph whose values they are: its own, or those that it sees around it.

    Returns:
        An array per value, owned by the caller.

    Raises:
        RunError: onnxruntime refuses one of the nodes.
    """
    graph = model.graphs[path]
    needed = graph.behind(values)
    _import_onnxruntime()
    lost = next((operator for value, operator in cut_off(model).items() if needed.get(value) is model.main), None)
    if lost is not None:
        raise RunError(f"{printable(values[0])} cannot be computed ({reason_cut_off(lost)}): {model.name}")
    proto = ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    proto.graph.name = "constants"
    stored = (scope.initializers.get(name) for name, scope in needed.items())
    proto.graph.initializer.extend(tensor for tensor in stored if tensor is not None)
    nodes = {scope.producers[name]: scope for name, scope in needed.items() if name in scope.producers}
    in_order = sorted(nodes.items(), key=lambda item: (len(item[1].path), item[1].position(item[0])))
    proto.graph.node.extend(node.proto for node, _ in in_order)
    for value in values:
        proto.graph.output.add().name = value
    # What is stored is the same wherever the model runs.
    return open_session(model, proto, optimize=False, running=DEFAULT_RUNNING).run({})


def _own(answer: Any, lent: Collection[int]) -> Array:
    """A tensor's values as an array that owns them; `lent` are the addresses of the arrays that were fed."""
    elem_type = answer.element_type()
    if elem_type == TensorProto.STRING:
        return np.asarray(answer.numpy())
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    if not _is_extension(dtype):
        values = np.asarray(answer.numpy())
        # An input that is an output too comes back uncopied, as memory of the caller's that may soon be gone.
        return values.copy() if answer.data_ptr() in lent else values
    shape = tuple(answer.shape())
    if 0 in shape:
        return np.zeros(shape, dtype)
    content = ctypes.string_at(answer.data_ptr(), answer.tensor_size_in_bytes())
    if dtype.name in _UNPACKED_BY_ONNX:
        packed = TensorProto(data_type=elem_type, dims=shape, raw_data=content)
        return np.asarray(onnx.numpy_helper.to_array(packed))
    return np.frombuffer(bytearray(content), dtype).reshape(shape)


def _is_extension(dtype: np.dtype[Any]) -> bool:
    """Whether a type comes from ml_dtypes, not from numpy."""
    return dtype.type.__module__ != "numpy"
