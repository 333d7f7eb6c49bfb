"""Rewrite a Keras model so that XNNPACK can run its 1x1 convolutions sparse.

Why: XNNPACK runs a group of convolutions sparse only if strided ones have the same padding on both sides.
In goes a Keras model; `make_sparse_ready` returns one that gives the same outputs, in which maps are mirrored along
height and width where that makes the padding symmetric. `mirror_plan` says which calls work on
mirrored maps, `mirrorable` which layers may, `window` what padding a convolution then needs, and `pooled_vectors`
what follows a global pool.
Neighbors: `xnnpack` says what the runtime takes; `converting` calls this room.
Start at `make_sparse_ready.make_sparse_ready`.
"""
