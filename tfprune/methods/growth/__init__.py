"""Depth: rank, drop or repeat the repeated blocks of a model.

A block is a part of the graph with one input (its entry) and one output (its end) of the same shape. Its other inputs
(masks, positions) come from outside of all blocks, so that a model can be made of the blocks in any order.

`find_blocks` copies the model, traces the copy, and finds its blocks by the names of their layers (`named_blocks`) or
because they repeat (`repeated_blocks`). `rank_blocks` runs them in other orders. `drop_blocks` and `grow_depth` build
a model in a new order (`reorder`), of the same class where its arguments allow it, with masks and latent values, and
report whether it computes the same.
"""
