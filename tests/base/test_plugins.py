"""Converters are found by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from onnxscope.base.plugins import converter_names, load_converter
from onnxscope.errors import MissingDependencyError


def test_both_converters_are_registered():
    assert converter_names() == ["tensorflow", "torch"]


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_loading_a_converter_loads_no_framework(framework):
    code = (
        "import sys; from onnxscope.base.plugins import load_converter; "
        f"assert callable(load_converter({framework!r}).convert); "
        "print(sorted({'torch', 'tensorflow', 'keras', 'tf2onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_framework_lists_the_known():
    with pytest.raises(MissingDependencyError, match="no converter for 'jax'") as caught:
        load_converter("jax")
    assert caught.value.hint == "installed converters: tensorflow, torch"
    assert isinstance(caught.value, ImportError)
