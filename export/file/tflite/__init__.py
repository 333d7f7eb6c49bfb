"""Read, check and edit the TFLite format.

Why: files come from anywhere, and reading one must neither crash nor fill the memory.
In go the bytes of a plain file. `check_structure`, `check_operators` and `check_sparse` refuse what would lead an
interpreter astray; `reader` describes graphs, operators and tensors as a `Model` (`model`), with the values of
constant tensors (`tensor_values`, `sparse_positions`); `editor` takes a file apart into objects and packs it again,
equal parts once (`shared_parts`), and in an order that is always the same if asked (`canonical_order`).
The classes of the format come from `schema` alone, which loads them when they are first used.
Neighbors: every other room reads files through this one, and it knows none of them.
Start at `reader.read` to look, at `editor.load` to change.
"""
