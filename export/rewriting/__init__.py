"""Rewrite a .tflite file so that it is smaller or faster (sparse, shared or 4-bit weights), and check it.

Why: what a converter writes is not the best that the runtime can read.
In goes a plain file, out comes another that gives the same outputs. `sparsify` stores weights sparse where kernels
take them (`sparse_eligible`, `sparse_encoding`, `sparse_graph`). For that, 8-bit fully connected layers become 1x1
convolutions (`pointwise`, on images of `one_pixel`), and copies of a
weight become one (`merge_constants`). `share_weights` leaves few values in each weight, `four_bit_weights` narrows
them, and `explicit_padding` writes padding as an operator of its own.
`forms` makes every form of a file, runs each and takes the best, with an `export_report` of all that was tried;
`rewrite` does so for a .tflite from anywhere.
Start at `rewrite.rewrite`; a weight becomes sparse in `sparsify.sparsify`.
"""
