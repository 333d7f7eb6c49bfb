"""The dependency graph: which channels of which layers belong together, in groups.

Why: a channel can only be removed where every kernel that makes it and every kernel that reads it loses it, too.
In goes a flat model; out comes a `Network` of plain data, which prints as a table. Every channel has a number; rules
(`rules`, `rules_kernels`, `rules_shapes`, `rules_moves` ...) carry these numbers from layer to layer (`flow`) and tie
those that meet in an addition (`ties`). Tied channels are one bundle, which goes or stays as a whole; bundles that
are ranked with each other are a group. `choose_groups` says which may lose channels, `ranking` which.
For a residual block, conv_a -> BN -> add <- conv_b, the channels of conv_a, BN, conv_b and of all that reads the sum
are one group, and its bundles are their positions 0, 1, 2 ...
Start at `analyze.analyze`; a layer of your own is added by `register_shrinkable`.
"""
