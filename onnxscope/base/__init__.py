"""What every part may use and nothing about ONNX: text, tables, files that appear whole, results, plugins.

Imports `errors` only.
"""
