"""Why a layer differs: single edits of the second model's nodes are tried on the first one's values; the edit mends it.

Which layers carry what the outputs are off by is told by exchanging what they compute.

Imports `base`, `numerics`, `model`, `selection`, `runtime`, `inputs`, `structure`, `pairing`, `patching`, `comparison`
and `extracting`.
"""
