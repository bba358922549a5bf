"""Libraries of custom operators that the user names: what onnxruntime is given, and which operators they hold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from onnxscope.base.text import printable
from onnxscope.errors import RunError
from onnxscope.providers.refusals import ends_process, library_reason

__all__ = ["holds_operator", "register_libraries"]

_LOADING = "import sys, onnxruntime; onnxruntime.SessionOptions().register_custom_ops_library(sys.argv[1])"
_HINT = "give the shared library that onnxruntime's `register_custom_ops_library` takes"


def register_libraries(options: Any, libraries: Sequence[Path]) -> None:
    """Let sessions made with these options know the operators of some libraries, which runs code of theirs.

    Raises:
        RunError: A file is no such library.
    """
    for path in dict.fromkeys(libraries):  # the same one twice would conflict with itself
        if ends_process(_LOADING, path):
            raise RunError(
                f"not a library of custom operators (it ends the process that loads it): {printable(str(path))}",
                hint=_HINT,
            )
        try:
            options.register_custom_ops_library(str(path))
        except Exception as error:  # onnxruntime raises many unrelated classes
            raise RunError(
                f"not a library of custom operators ({library_reason(error, path)}): {printable(str(path))}",
                hint=_HINT,
            ) from error


@cache
def holds_operator(libraries: tuple[Path, ...], domain: str, operator: str, version: int) -> bool:
    """Whether one of the libraries holds an operator: they list none, and onnxruntime says it of a model alone.

    Raises:
        RunError: A file is no such library.
    """
    import onnxruntime

    proto = ModelProto(ir_version=8)
    proto.opset_import.add(version=17)
    proto.opset_import.add(domain=domain, version=version)
    proto.graph.name = "asked"
    proto.graph.node.append(onnx.helper.make_node(operator, [], ["y"], domain=domain))
    proto.graph.output.add().name = "y"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    register_libraries(options, libraries)
    try:
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # see above; that it takes inputs, say, is told of operators that there are
        return "is not a registered function/op" not in str(error)
    return True
