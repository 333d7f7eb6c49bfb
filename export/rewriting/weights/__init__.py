"""Store the weights of a file in fewer bytes.

`sparse_eligible` says which weights may be sparse, `sparse_encoding` encodes them, and `sparse_graph` adds the
operators that unpack them. `merge_constants` stores copies once, `four_bit_weights` and `narrow_weights` take 4 bits.
"""
