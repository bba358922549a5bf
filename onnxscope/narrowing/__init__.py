"""Which layers lose most when they are narrowed: one measurement of each layer's gain serves every format.

A model is cut into segments between its layers, so that what lies before a layer is run once, whatever is done to it.
"""
