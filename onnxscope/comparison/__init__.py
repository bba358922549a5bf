"""Two models layer by layer: which layer is which, how far apart they are, and who is to blame.

Imports `base`, `numerics`, `model`, `selection`, `inputs`, `runtime`, `structure`, `pairing` and `checkpoints`.
"""
