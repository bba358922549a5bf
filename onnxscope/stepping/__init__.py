"""A model whose outputs feed its inputs is run step after step: which feed which, and what each step is fed.

Imports `base`, `model` and `runtime`.
"""
