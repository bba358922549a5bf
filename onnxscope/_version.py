"""The version, read by the build and by `onnxscope --version`."""

__version__ = "0.1.0"
