"""What of a model is looked at: selectors, and what they choose. Nothing here runs a model.

Imports `base` and `model`.
"""
