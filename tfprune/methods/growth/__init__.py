"""Depth as a size: blocks that a model loses, and blocks that it gets.

`rank_blocks` says which blocks a model would miss least, `drop_blocks` leaves some out, and `grow_depth` repeats
them, with their masks and latent values. The last two return a new model, of the same class where it can be, and a
report that says whether the model computes the same, on data that it is given.

The copies of a block can be made to hand on what they read: `zero_outputs` finds by trial which of their weights
have to be zero for this, and leaves the others alone, so that the zeros get gradients.
"""
