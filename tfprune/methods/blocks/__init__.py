"""The repeated blocks of a model: found in its graph, and put together in another order.

A block has one tensor that it takes from the block before it, its entry, and one that it hands on, its end, both of
one shape. What else it reads (masks, positions) comes from outside of all blocks, so any order of blocks is a model.

Everything happens on a copy: the graph of the copy is traced once (`graph_of`), its blocks are found by the names of
their layers (`named_blocks`) or because they repeat (`repeated_blocks`), and `run` calls them in any order, on
symbolic tensors for a Functional model (`arranged_graph`), or on arrays. A Functional subclass comes back
as its class where its arguments can say so (`arranged_class`).
"""
