"""A child process that infers types, one graph after the other: on hostile models it may abort, hang or eat memory.

It is run as a file, `python -I -S inference_child.py LIBRARY`, with the path of onnx's compiled library, and imports
neither onnx nor anything else of ours: that would take ten times as long as the inference. On either side of the pipe a
message is its length, eight bytes with the most significant first, and as many bytes. An answer of no bytes says that a
graph contradicts itself.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from typing import Any

_LIMIT_S = 60
_MAX_MEMORY_BYTES = 4 << 30


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_LIMIT_S, _LIMIT_S))
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))


def _load(library: str) -> Any:
    name = "onnx.onnx_cpp2py_export"
    loader = importlib.machinery.ExtensionFileLoader(name, library)
    spec = importlib.util.spec_from_file_location(name, library, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _main() -> None:
    _limit()
    infer = _load(sys.argv[1]).shape_inference.infer_shapes
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := questions.read(8):
        question = questions.read(int.from_bytes(head, "big"))
        try:
            answer = infer(question)
        except Exception:  # onnx's own classes, which stand in the package that is not imported
            answer = b""
        answers.write(len(answer).to_bytes(8, "big"))
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    _main()
