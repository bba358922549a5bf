"""Releases of onnxruntime that are planted: the installed one, which calls itself otherwise and does something else.

As a program it is the Python of such an environment: `python shimmed_release.py PLAN [OPTION]... SCRIPT [ARGUMENT]...`.
"""

from __future__ import annotations

import json
import math
import os
import runpy
import shlex
import signal
import sys
import time
from pathlib import Path

from onnxscope.releases.environment import Environment
from onnxscope.releases.pip_environments import NotInstalledError


class Planted:
    """Environments of which some do something else.

    A plan may hold `off`, a factor by output; `short`, outputs that lose samples; `dies`, a signal; `fails`, `refuses`
    and `lacks`, messages of a run, of loading and of importing; `hangs`; `at`, outputs without which none of that
    happens; `alone`, that nothing does where more than one output is asked for; `missing`, what pip says; `path`, that
    weights outside of a model are found beside its file alone.
    """

    def __init__(self, plans: dict[str, dict]) -> None:
        self.plans = plans
        self.installs = 0
        self.asked: list[str] = []

    def environment(self, release: str) -> Environment:
        self.installs += 1
        self.asked.append(release)
        plan = self.plans.get(release, {})
        if "missing" in plan:
            raise NotInstalledError(plan["missing"])
        return Environment(release, (sys.executable, __file__, json.dumps({**plan, "release": release})))


def from_on(releases: list[str], first: str, plan: dict) -> dict[str, dict]:
    """The same plan for a release and all that follow."""
    return dict.fromkeys(releases[releases.index(first) :], plan)


def most_installs(count: int) -> int:
    """Both ends, and the halves of what lies between."""
    return 2 + math.ceil(math.log2(count - 1))


def write_python(path: Path, plan: dict) -> Path:
    """Write an interpreter of a planted release."""
    words = shlex.join([sys.executable, __file__, json.dumps(plan)])
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return path


def plant(plan: dict) -> None:
    """Change the onnxruntime of this process."""
    if "lacks" in plan:
        raise ImportError(plan["lacks"])
    import onnxruntime

    onnxruntime.__version__ = plan.get("release", onnxruntime.__version__)

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *arguments, **options):
            if "refuses" in plan:
                raise RuntimeError(plan["refuses"])
            if "path" in plan and not isinstance(arguments[0], str):
                raise RuntimeError("!model_path.empty() was false. model_path must not be empty.")
            super().__init__(*arguments, **options)

        def run(self, names, feeds, *arguments):
            names = names or [value.name for value in self.get_outputs()]
            answers = super().run(names, feeds, *arguments)
            if plan.get("at") is not None and not set(plan["at"]) & set(names):
                return answers
            if "alone" in plan and len(names) > 1:
                return answers
            if "dies" in plan:
                os.kill(os.getpid(), getattr(signal, plan["dies"]))
            if "fails" in plan:
                raise RuntimeError(plan["fails"])
            if "hangs" in plan:
                time.sleep(600)
            off = plan.get("off", {})
            answers = [
                answer * answer.dtype.type(off[name]) if name in off else answer
                for name, answer in zip(names, answers, strict=True)
            ]
            cut = [name in plan.get("short", ()) for name in names]
            return [answer[:1] if short else answer for short, answer in zip(cut, answers, strict=True)]

    onnxruntime.InferenceSession = Session


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    script, *rest = [one for one in sys.argv[2:] if not one.startswith("-")]
    if "lacks" in given:
        sys.modules["onnxruntime"] = None  # type: ignore[assignment]
    else:
        plant(given)
    sys.argv = [script, *rest]
    runpy.run_path(script, run_name="__main__")
