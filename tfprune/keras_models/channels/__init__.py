"""The dependency graph: which channels of which layers belong together, in groups.

Why: a channel can only be removed where every kernel that makes it and every kernel that reads it loses it, too.
In goes a flat model; out comes a `Network` of plain data, which prints as a table. Every channel has a number; rules
(`rules_kernels`, `rules_shapes`, `rules_moves` ...) carry these numbers from layer to layer. What a Keras model and
a file have in common is in `solving/dependency_graph`: ties, bundles, groups, and the `Network` itself. `graph` adds
what a rule notes of a layer, and `groups` finds the groups and says which may lose channels.
For a residual block, conv_a -> BN -> add <- conv_b, the channels of conv_a, BN, conv_b and of all that reads the sum
are one group, and its bundles are their positions 0, 1, 2 ...
Start at `groups.analyze`; a layer of your own is added by `groups.register_shrinkable`.
"""
