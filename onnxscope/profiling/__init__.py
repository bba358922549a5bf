"""Statistics of activations over a whole dataset: a plan, shards, probes, and a profile that merges.

Imports all folders below except `converting` and `comparison`.
"""
