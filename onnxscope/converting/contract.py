"""The contract between the core and the converters: a request, a child process, a file.

A converter is a package found through the entry point group `onnxscope.converters`. It is light to import and has a
function `convert(request)` that calls `run_child`; the child module loads the framework, writes the model to
`request.output` and answers with a `ConversionReport`; its side is in `child`. The analyzer's own process never loads a
framework.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from onnxscope.base.files import MODEL, refuse_foreign, refuse_inputs, require_folders
from onnxscope.base.results import Record, paragraph, remarks
from onnxscope.base.tables import Table
from onnxscope.base.text import first_line
from onnxscope.converting.input_shapes import InputShapes
from onnxscope.errors import ConversionError, MissingDependencyError, OnnxscopeError
from onnxscope.model.provenance import Mode

__all__ = ["ConversionReport", "ConversionRequest", "Converter", "require_packages", "run_child"]

_MAX_ANSWER_BYTES = 64 << 20
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # same input, same bytes: no order may depend on the hashes of strings
    "PYTHONWARNINGS": "ignore",
}
_SAVED_MODEL = "saved_model.pb"  # beside it, the folder of a SavedModel has its variables and assets


@dataclass(frozen=True)
class ConversionRequest:
    """One conversion, as plain data that can travel to the child process.

    Attributes:
        source: `file.py:factory`, `package.module:factory`, a saved model's path, or a shipped network's name.
        output: Where the model goes; written whole or not at all.
        weights: A checkpoint to load into the built model, or None.
        arguments: Keyword arguments of the factory.
        input_shapes: By name or position.
        mode: `faithful` or `deployed`.
        preprocess: Name of the preset to record in the model, or a recipe as JSON; None for the source's own.
        opset: ONNX opset, or None for the converter's default.
        exporter: `dynamo` or `legacy` (PyTorch only), or None for the default.
        static: Keep axis 0 of every input as given instead of making it the symbolic `batch`.
        seed: Seed of the framework's initial weights.
        verify: Compare the exported model with the framework's own layers.
        custom_ops: Paths of the libraries of custom operators that it is run with.
        force: Replace a file at `output` that is no ONNX model.
    """

    source: str
    output: str
    weights: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_shapes: InputShapes = ()
    mode: Mode = "faithful"
    preprocess: str | None = None
    opset: int | None = None
    exporter: str | None = None
    static: bool = False
    seed: int = 0
    verify: bool = False
    custom_ops: tuple[str, ...] = ()
    force: bool = False

    @property
    def outputs(self) -> tuple[str, str]:
        """The files that a conversion may write: the model, and its weights where one file cannot hold them."""
        return self.output, f"{self.output}.data"


@dataclass(frozen=True, repr=False)
class ConversionReport(Record):
    """What became of an export.

    Attributes:
        output: The model's path, as it was asked for.
        framework: `torch 2.13.0`.
        opset: The opset of the default domain.
        parameters: How many parameters and buffers the framework's model has.
        absent: How many of them the graph does not hold.
        notes: Remarks for the user, one line each.
        verification: The verdict on the comparison with the framework, None where none was asked for.
        verified: Whether both are equal.
    """

    output: str
    framework: str
    opset: int
    parameters: int
    absent: int
    notes: tuple[str, ...] = ()
    verification: str | None = None
    verified: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """`onnxscope.convert/1`, ready for JSON; the output's name without its folder."""
        return {
            "schema": "onnxscope.convert/1",
            **asdict(self),
            "output": Path(self.output).name,
            "notes": list(self.notes),
        }

    def table(self) -> Table:
        """One row."""
        columns = ("model", "framework", "opset", "parameters", "not in the file", "verified")
        row = (self.output, self.framework, self.opset, self.parameters, self.absent, self.verified)
        return Table("", columns, (row,))

    def __repr__(self) -> str:
        verdict = "" if self.verification is None else f"against {self.framework}: {self.verification}\n"
        return self.table().text() + verdict

    def html_parts(self) -> list[str]:
        """The row, the verdict of a verification, and remarks."""
        parts = [self.table().html()]
        if self.verification is not None:
            parts.append(paragraph(self.verification, "good" if self.verified else "bad"))
        return parts + remarks(self.notes)


class Converter(Protocol):
    """What a module registered under `onnxscope.converters` offers."""

    def convert(self, request: ConversionRequest) -> ConversionReport:
        """Run one conversion in a child process.

        Raises:
            ConversionError: The source, the checkpoint or the export failed; nothing was written.
            MissingDependencyError: The framework is not installed.
        """
        ...


def require_packages(names: Sequence[str], *, converter: str, extra: str) -> None:
    """Refuse to start without what a converter needs; nothing is imported.

    Raises:
        MissingDependencyError: Some are not installed.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"the {converter} converter needs {' and '.join(missing)}: not installed",
            hint=f"pip install 'onnxscope[{extra}]'",
        )


def run_child(module: str, request: ConversionRequest, *, environment: Mapping[str, str]) -> ConversionReport:
    """Run `python -m module` on one request and return its answer.

    Whatever the framework or the user's code prints is kept out of this process's output and shown only as the end
    of an error. The child never inherits standard input, and starts without the current folder on its import path
    (`-P`): a file there called json.py is no factory that the user named.

    Args:
        module: A module whose `__main__` block calls `child.serve_child`.
        request: Relative paths in it refer to the current folder, which is the child's too.
        environment: Variables that silence or configure the framework, added to this process's own.

    Raises:
        ConversionError: What the child reported, that it died, or that an argument cannot travel to it.
        OnnxscopeError: Another that the child reported.
        OutputError: The output is the source or another file that is read, or there is one that is no model; nothing
            was started.
    """
    refuse_inputs(request.outputs, _files_read(request))
    refuse_foreign([(request.output, MODEL)], force=request.force)
    require_folders(request.output)
    try:
        question_text = json.dumps(asdict(request))
    except (TypeError, ValueError) as error:
        raise ConversionError(
            f"the factory's arguments cannot be passed on to its process ({first_line(error)}): {request.source}",
            hint="numbers, texts, True, False, None, and lists and dictionaries of them can",
        ) from error
    with tempfile.TemporaryDirectory(prefix="onnxscope-") as folder:
        question, answer, log = (Path(folder, name) for name in ("request.json", "answer.json", "log.txt"))
        question.write_text(question_text, encoding="utf-8")
        with log.open("wb") as sink:
            done = subprocess.run(
                [sys.executable, "-P", "-m", module, str(question), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT, **environment},
                check=False,
            )
        if not answer.exists() or answer.stat().st_size > _MAX_ANSWER_BYTES:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
            raise ConversionError(f"the converter died with code {done.returncode} ({last[0][:300]}): {request.source}")
        record = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in record:
        kinds = {kind.__name__: kind for kind in OnnxscopeError.__subclasses__()}
        raise kinds.get(record.get("kind"), ConversionError)(record["error"], hint=record.get("hint"))
    return ConversionReport(**{**record, "notes": tuple(record["notes"])})


def _files_read(request: ConversionRequest) -> Iterator[str]:
    """The files that a request names and that are there: checkpoint, saved model, libraries, the factory's module."""
    source = Path(request.source)
    folder = source.parent if source.name == _SAVED_MODEL else source
    place, colon, _ = request.source.rpartition(":")
    named = [request.weights, place, request.source if source.suffix else None, *request.custom_ops]
    if (folder / _SAVED_MODEL).is_file():
        named += [str(path) for path in folder.rglob("*")]
    if colon and not place.endswith(".py"):
        module = place.replace(".", os.sep)
        named += [os.path.join(entry, module + end) for entry in ("", *sys.path) for end in (".py", "/__init__.py")]
    yield from (name for name in named if name and os.path.isfile(name))
