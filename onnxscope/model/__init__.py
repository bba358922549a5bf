"""What a file says: graphs, tensors, layers, parameters, selectors. Nothing here runs a model.

Imports `base`.
"""
