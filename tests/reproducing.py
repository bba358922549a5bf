"""The script of a part's folder, run where nothing but onnxruntime and numpy can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnxscope", "ml_dtypes"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import runpy
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def reproduce(folder: Path, elsewhere: str | Path = "/", *libraries: str) -> tuple[int, str, str]:
    """Run the script from another place; returns its exit code and what it writes to stdout and stderr."""
    command = [sys.executable, "-I", "-c", _ALONE, str(folder / "reproduce.py"), *libraries]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr
