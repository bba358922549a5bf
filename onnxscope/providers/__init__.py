"""What onnxruntime runs a model on: execution providers, its own and those of plug-ins, their options and devices.

Imports base. What a user asks for is read without onnxruntime, which alone knows what there is.
"""
