"""What every command shares: its options, the standard streams and the process that it runs in.

Imports `base`.
"""
