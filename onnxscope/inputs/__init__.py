"""What an INPUT names becomes checked samples for a model, whatever kind of file it is.

Imports `base`, `numerics`, `readers`, `model` and, to try random input, `runtime`.
"""
