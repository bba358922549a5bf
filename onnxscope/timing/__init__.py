"""What takes the time, layer by layer: onnxruntime's own profile of the model as it is, without taps.

Imports `base`, `model`, `selection`, `runtime` and `datasets`.
"""
