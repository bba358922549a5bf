"""Why a layer differs: single edits of the second model's nodes are tried on the first one's values; the edit mends it.

Imports `base`, `model`, `selection`, `runtime`, `numerics`, `structure`, `comparison` and `extracting`.
"""
