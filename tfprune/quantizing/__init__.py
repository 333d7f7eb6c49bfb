"""Quantization-aware training that keeps the zeros of pruning.

A file of 8-bit operators rounds its weights once, and its activations after each operator. Here a model is copied
so that it rounds in the same positions while it trains. `quantized` has the wrapper, a `Pruned` that rounds;
`quantize_aware` finds the layers that become one operator and wraps them. 0 is on every grid, so zeros stay zeros.
"""
