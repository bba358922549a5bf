"""`drift`: how far the values of one dataset are from those of another, beyond what chance does.

Imports `profiling` and the folders below it.
"""
