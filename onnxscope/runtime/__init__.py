"""The one onnxruntime path: sessions, taps as graph outputs, values as stored.

Imports `base`, `model` and `selection`.
"""
