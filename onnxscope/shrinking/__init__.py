"""A model and its data become the smallest that still show a fault: every trial runs in a process of its own.

Imports `base`, `model` and `runtime`.
"""
