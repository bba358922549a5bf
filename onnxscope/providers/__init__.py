"""What onnxruntime runs a model on: execution providers, its own and those of plug-ins, their options and devices.

What a user asks for is read without onnxruntime; it alone knows what there is, and is asked once a model is to be run.
"""
