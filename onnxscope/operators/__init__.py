"""What is known of operators: one row for each, in two tables by whose they are.

Imports `base`.
"""
