"""Rewrite a .tflite file so that it is smaller or faster (sparse, shared or 4-bit weights), and check it.

Why: what a converter writes is not the best that the runtime can read.
In goes a plain file, out comes another that gives the same outputs. `sparsify` stores weights sparse where kernels
take them (`weights`). For that, 8-bit fully connected layers become 1x1 convolutions, and padding an operator of its
own (`shapes`, which also fixes the batch). `share_weights` leaves few values in each weight. `add_metadata` names
classes for apps, and changes nothing else.
`forms` makes every form of a file, runs each and takes the best, with an `export_report` of all that was tried;
`rewrite` does so for a .tflite from anywhere. `target` says which forms a runtime is fast with.
Start at `rewrite.rewrite`; a weight becomes sparse in `sparsify.sparsify`.
"""
