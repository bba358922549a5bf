"""What an INPUT names, opened once for a model: a `Dataset`, its batches, and the steps of a model with states.

Imports `base`, `numerics`, `readers`, `model`, `selection`, `stepping` and `inputs`.
"""
