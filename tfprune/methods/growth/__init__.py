"""Depth: rank, drop or repeat the repeated blocks of a model.

A block is a part of the graph with one input and one output of the same shape. `blocks` finds them, `rank` runs
them in other orders, and `change` builds a model with fewer or more of them, with masks and latent values.
"""
