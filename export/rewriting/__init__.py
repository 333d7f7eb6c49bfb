"""Rewrite a .tflite file so that it is smaller or faster (sparse, shared or 4-bit weights), and check it.

What a converter writes is not the best that the runtime can read. `rewrite` makes every form of a file, runs each
and takes the best; `sparsify` stores weights sparse where kernels take them, `weights` in fewer bits, and `shapes`
changes shapes for that. Start at `rewrite.rewrite`; a weight becomes sparse in `sparsify.sparsify`.
"""
