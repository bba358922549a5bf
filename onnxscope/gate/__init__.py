"""Baselines, and the check that holds a model to one, for people and for the machines of CI.

Imports all folders below except `converting`.
"""
