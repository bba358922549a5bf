"""What of a model is looked at: selectors, what they choose, and what it costs to run. Nothing here runs a model.

Imports `base` and `model`.
"""
