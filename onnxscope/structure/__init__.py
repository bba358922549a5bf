"""What a graph says, node by node, whatever it is called and in whatever spelling: records, and how two of them differ.

Imports `base`, `model` and `runtime`.
"""
