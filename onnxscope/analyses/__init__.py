"""What is computed of one model: its description, weights, feature maps, class activation maps.

Imports all folders below except `converting`.
"""
