"""Quantization-aware training that keeps the zeros of pruning.

A file of 8-bit operators rounds: its weights once, its activations after each operator. Here a model is copied so
that it rounds in the same places while it trains, and so learns weights that do not mind. `fake_quantize` rounds
to the grid that integers have; `rules` says where the operators of each layer round, and `plan` follows a graph to
find out which layers become one operator: a convolution, the normalization after it and its activation, for
example; some layers are `two_operators`. `Quantized` is the wrapper that does it, a `Pruned` whose weights are read
through masks first, if they have some, and through the grid afterwards: 0 is on every grid, so zeros stay zeros. It
holds the ranges that activations were seen in. For those who do not train, `equalize` gives channels one size.
"""
