"""Files of pictures, arrays and sounds become arrays, whatever model they are for.

Imports `base`.
"""
