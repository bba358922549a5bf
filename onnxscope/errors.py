"""Every exception that onnxscope raises.

    OnnxscopeError
    ├── ModelError                the file is no model, or one that we refuse to trust
    ├── SelectorError             a selector is malformed, or matches nothing
    ├── InputError                an image, array or preset cannot become the model's input
    ├── RunError                  onnxruntime could not load or run the model
    ├── ConversionError           a framework could not build, load or export its model
    ├── ProfileError              a profile's file cannot be read as one
    ├── BaselineError             a baseline's file cannot be read as one, or belongs to another version
    ├── MergeError                two profiles do not belong together
    ├── OutputError               a result could not be written
    └── MissingDependencyError    an extra is not installed (also an ImportError)

A message states the fault with the offending value, then where it was: `no value named 'conv9': model.onnx`.
The next step, where there is one, is `hint`. Names in a message may be a stranger's, and of any length: the middle of
what is longer than a thousand characters is cut out.
"""

from __future__ import annotations

from typing import Any

from onnxscope.base.text import shortened

__all__ = [
    "BaselineError",
    "ConversionError",
    "InputError",
    "MergeError",
    "MissingDependencyError",
    "ModelError",
    "OnnxscopeError",
    "OutputError",
    "ProfileError",
    "RunError",
    "SelectorError",
]


_LONGEST = 1000


class OnnxscopeError(Exception):
    """Work that could not be done.

    Attributes:
        hint: What to do next, in one sentence, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(shortened(message, _LONGEST))
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Exceptions cross from worker to caller with their hint, which the built-in way would drop."""
        return _restore, (type(self), str(self), self.hint)


class ModelError(OnnxscopeError):
    """The file is not a model, is broken, or reaches outside its folder."""


class SelectorError(OnnxscopeError):
    """A selector that cannot be read or that matches nothing."""


class InputError(OnnxscopeError):
    """An image, an array, a preset or a layout that does not fit the model's inputs."""


class RunError(OnnxscopeError):
    """onnxruntime refused the model or failed while running it."""


class ConversionError(OnnxscopeError):
    """The source of a conversion could not be built, loaded or exported."""


class ProfileError(OnnxscopeError):
    """A file is no profile, is broken, or was written by a newer version."""


class BaselineError(OnnxscopeError):
    """A file is no baseline, is broken, or was written by another version."""


class MergeError(OnnxscopeError):
    """Two profiles that do not belong together, or one shard given twice."""


class OutputError(OnnxscopeError):
    """A file or a folder could not be written."""


class MissingDependencyError(OnnxscopeError, ImportError):
    """A package that only an extra brings is not installed; the hint names the extra."""


def _restore(kind: type[OnnxscopeError], message: str, hint: str | None) -> OnnxscopeError:
    return kind(message, hint=hint)
