"""What a file says: graphs, tensors, layers, parameters. Nothing here runs a model.

Imports `base`.
"""
