"""Open and write model files: plain or packed, whole or not at all.

Why: a device gets the smallest file, and never a half-written one.
In goes a path or bytes, plain, gzip, xz or packed; `model_file.read_model` returns the plain file, checked.
`codec` names the ways to compress. The packed format is ours: `pack` splits the arrays of a file into streams
(`base/streams.py`), which `base/coders.py` compresses, `scaled_vectors` keeps numbers that are multiples of one
scale as integers, and `unpack` puts all of it together again, bit for bit. `destination` checks where a file is to be
written, and writes it.
Start at `model_file.read_model`; the packed format is described at the head of `unpack`.
"""
