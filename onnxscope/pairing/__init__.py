"""Which layer, input and value of one model is which of another; nothing is run.

Imports `base`, `numerics`, `model`, `selection`, `inputs`, `runtime` and `structure`.
"""
