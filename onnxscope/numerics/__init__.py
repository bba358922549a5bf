"""Statistics, histograms and distances of arrays, mergeable where data comes in pieces.

Imports nothing but `errors`.
"""
