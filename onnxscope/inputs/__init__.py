"""What an INPUT names becomes checked batches for a model.

Imports `base`, `numerics` and `model`.
"""
