"""`bisect`: between which two releases of onnxruntime, or in which of two environments, a model's answers change.

Imports `comparison` and the folders below it. Models are run in processes of other environments.
"""
