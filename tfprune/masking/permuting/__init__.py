"""Reorder the channels of a model so that N:M masks keep more of its weights.

Why: N:M masks compare neighboring inputs, and a network computes the same with its channels in another order.
`cells` finds the channels that may change places, and `permute_channels` orders them for the kernels that read them.
Start at `permute_channels.permute_channels`.
"""
