"""Checkpoints: weights without a graph, and how those of one file became those of another.

Imports `base`, `numerics`, `readers`, `model` and `runtime`.
"""
