"""Prune a transformer block by block on calibration text, without training.

The inputs of each layer are recorded while its block runs on the outputs of the blocks before it, which are pruned
already. `prune_weights` makes single weights zero, `prune_units` removes hidden units and heads, and
`plan_transformer` chooses among units, heads, blocks, experts and tokens. Start at `prune_units.prune_units`.
"""
