"""Prune a transformer block by block on calibration text, without training.

Why: most users of a language model cannot train it again. They have a few hundred texts, one pass over the blocks,
and least squares. The inputs of each layer are recorded while its block runs on the outputs of the blocks before it,
which are pruned already.
A model and texts go in. The result is the model with zeros, a plan for `shrink`, and a report of each layer.
`prune_units` removes hidden units (`unit_scores`) and heads (`head_choice`) to meet a sparsity (`split_sparsity`), in
one walk (`remove_in_order`). `prune_weights` splits a sparsity over the kernels (`split_zeros`, by `error_curves`
for one) and masks single weights (`mask_kernel`, by the masks of `solving`). `plan_transformer` chooses among units,
heads, blocks, experts and tokens, and measures each model (`mixed_cuts`, `judges`).
Start at `prune_units.prune_units`.
"""
