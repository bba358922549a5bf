"""The commands: options in, text or JSON out, exit codes. One file a command.

Imports everything.
"""
