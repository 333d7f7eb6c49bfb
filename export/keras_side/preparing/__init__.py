"""Prepare a Keras model for the converter.

Why: TensorFlow's converter takes models of one backend, in float32, with code that it can trace.
In goes any model that users train; out comes one that means the same. `signature` reads its inputs as a file has
them, and `stripped_model` is its one copy. `half_precision` lends it weights of float32, and a model that was
trained quantization-aware becomes one of constant ranges and of weights on their grids (`trained_ranges`). Then it is
written for the process that converts: as a `saved_model`, its recurrent layers unrolled for integers, or from other
backends as a copy by Keras. There, `protect_scales` keeps the converter from folding what 8-bit weights need apart.
Start at `signature.signature`.
"""
