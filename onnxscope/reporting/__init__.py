"""The page about a model, and overlays for viewers of graphs.

Imports all folders below except `converting` and `gate`.
"""
