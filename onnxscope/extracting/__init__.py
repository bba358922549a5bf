"""A part of a model becomes a model of its own, with the values that reached it and those that it gave.

Imports `base`, `model`, `selection`, `runtime`, `inputs`, `readers` and `comparison`.
"""
