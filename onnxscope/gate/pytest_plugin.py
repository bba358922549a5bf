"""pytest: the fixture `onnx_snapshot` holds a model to a baseline beside the test; `--onnxscope-update` writes it.

    def test_export(onnx_snapshot):
        onnx_snapshot.check("model.onnx", "photo.jpg", preprocess="imagenet")

It is loaded in every run of pytest, so nothing heavier than pytest is imported before the fixture is used.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

__all__ = ["OnnxSnapshot", "onnx_snapshot", "pytest_addoption"]

_FOLDER = "__onnxscope__"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of this plugin."""
    group = parser.getgroup("onnxscope", "ONNX models held to baselines")
    group.addoption("--onnxscope-update", action="store_true", help="write the baselines of onnx_snapshot anew")


class OnnxSnapshot:
    """Holds models to the baselines of one test."""

    def __init__(self, test: Path, name: str, *, update: bool) -> None:
        """Prepare for the test `name` in the file `test`."""
        self._test = test
        self._name = name
        self._update = update

    def path(self, name: str = "") -> Path:
        """Where a baseline of this test is: beside the test file, in a folder of its own."""
        whole = f"{self._test.stem}.{self._name}{'.' if name else ''}{name}"
        safe = _UNSAFE.sub("_", whole)
        if safe != whole or len(safe) > 100:  # two names must not end in one file
            safe = f"{safe[:80]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
        return self._test.parent / _FOLDER / f"{safe}.json"

    def check(self, model: Any, inputs: Any = None, *, name: str = "", settings: Any = None, **options: Any) -> Any:
        """Compare a model with this test's baseline, and fail the test where something is not within its tolerance.

        Args:
            model: A path, a `ModelProto` or a loaded `Model`.
            inputs: What it is fed, as for `onnxscope.check`.
            name: Tells several models of one test apart.
            settings: Tolerances; by default those of the nearest pyproject.toml.
            options: Those of `onnxscope.FeedingOptions`, `batch_size`, `limit`, `threads`, `custom_ops`, `dims`, as
                for `onnxscope.check`.

        Returns:
            The `Check`, or None where the baseline was written because there was none that can be read.
        """
        import onnxscope
        from onnxscope.base.files import refuse_inputs
        from onnxscope.gate.baseline import Baseline
        from onnxscope.gate.settings import read_settings

        path = self.path(name)
        if self._update:
            model = onnxscope.load_model(model)
            refuse_inputs([path], model.files)
        try:
            expected = Baseline.load(path)
        except onnxscope.BaselineError as error:
            if not self._update:
                pytest.fail(f"no baseline ({error}); `pytest --onnxscope-update` writes it", pytrace=False)
            path.parent.mkdir(parents=True, exist_ok=True)
            onnxscope.snapshot(model, inputs, **options).save(path)
            return None
        chosen = read_settings() if settings is None else settings
        result = onnxscope.check(model, expected, inputs, settings=chosen, renew=self._update, **options)
        for remark in () if self._update else result.notes:
            warnings.warn(f"{path.name}: {remark}", stacklevel=2)
        if self._update:
            result.merged().save(path)
        elif not result.ok:
            advice = "if this is intended, `pytest --onnxscope-update` accepts it"
            pytest.fail(f"{result!r}{advice}: {path}", pytrace=False)
        return result


@pytest.fixture
def onnx_snapshot(request: pytest.FixtureRequest) -> OnnxSnapshot:
    """Hold ONNX models to baselines beside the test."""
    classes = [node.name for node in request.node.listchain() if isinstance(node, pytest.Class)]
    name = ".".join([*classes, request.node.name])
    return OnnxSnapshot(request.path, name, update=bool(request.config.getoption("--onnxscope-update")))
