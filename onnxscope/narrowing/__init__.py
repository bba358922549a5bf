"""Which layers lose most when they are narrowed: each in a format by itself, all at once, and which to keep in float.

A model is cut into segments between its layers, so that what lies before a layer is run once, whatever is done to it.
Imports everything below it up to `comparison`, which pairs the layers of a quantized model.
"""
