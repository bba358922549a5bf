"""Arrays and counts become pictures: mosaics with a palette, charts in SVG, figures of matplotlib.

Imports `base`.
"""
