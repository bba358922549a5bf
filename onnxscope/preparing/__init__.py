"""How pictures must become a model's numbers, as the model itself says: by its running statistics, or what it answers.

Imports `inputs` and the folders below it.
"""
