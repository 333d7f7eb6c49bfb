"""Wrap layers with masks, set the masks, strip them again, and report the sparsity.

Why: a mask has to be seen by the forward pass and by the gradient, and by nothing else. `pruned.Pruned` is the one
class that touches Keras' forward pass; all other modules of this room put it into models and take it out again.
In goes a model; out comes a copy with wrappers (`wrap`) or without (`strip`), in three steps: choose the weights
(`choose_weights`, or `choose_channels` where whole channels go), copy with replacements (`copying`), transfer the
weights (`transfer_weights`). `flat_copy` strips and flattens a graph for the rooms that follow channels.
Neighbors: `training` sets the masks, `shrinking` and `reconstruction` work on what `strip` returns.
Start at `wrap.wrap`; a mask is set in `masked_weights.MaskedWeights.set_mask`.
"""
