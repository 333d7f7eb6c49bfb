"""The dependency graph: which channels of which layers belong together, in groups.

A channel can only be removed where every kernel that makes it and every kernel that reads it loses it, too. Rules
carry numbers of channels from layer to layer, and tie those that meet in an addition. Tied channels are a bundle,
which is kept or removed as a whole; bundles that are ranked with each other are a group. For a residual block,
conv_a -> BN -> add <- conv_b, the channels of conv_a, BN, conv_b and of all that reads the sum are one group, and
its bundles are their positions 0, 1, 2 ... Start at `groups.analyze`; `groups.register_shrinkable` adds a layer.
"""
