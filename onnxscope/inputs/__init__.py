"""What an INPUT names becomes checked batches for a model: a `Dataset`, opened once and handed on.

Imports `base`, `numerics`, `readers`, `model` and, to try random input, `runtime`.
"""
