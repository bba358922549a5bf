"""What gives reason to look in a model, its weights and its inputs.

Imports all folders below except `converting`.
"""
