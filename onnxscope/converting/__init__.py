"""The contract between the core and the converters of `converters/`, and what those share.

Imports `base` and `model`.
"""
