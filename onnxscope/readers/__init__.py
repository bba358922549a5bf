"""Files of pictures, arrays, sounds and text become arrays and tokens, whatever model they are for.

Imports `base`.
"""
