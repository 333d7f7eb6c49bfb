"""Layers under masks, and masks that follow a schedule while a model trains.

Why: a mask holds zeros in place without a change to the model's code, and can be taken off again.
`wrapping` puts layers under masks, strips them and counts zeros; `training` raises the sparsity during `fit`.
Start at `wrapping.wrap.wrap` and `training.pruning_callback.PruningCallback`.
"""
