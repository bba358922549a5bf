"""A framework's model becomes a file: `convert`, its contract with `converters/`, and what the converters share.

Imports `base`, `model`, `inputs` and `runtime`.
"""
