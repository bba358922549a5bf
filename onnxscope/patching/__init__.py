"""Other values in place of a layer's, and how far that moves the outputs.

Imports `base`, `numerics`, `model`, `selection`, `runtime`, `inputs`, `readers`, `datasets`, `structure` and `pairing`.
"""
