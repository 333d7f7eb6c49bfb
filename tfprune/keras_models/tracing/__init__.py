"""Trace layers with code of their own into graphs, or probe them with numbers.

A block of a transformer, or a layer of the user's, calls other layers. Called on symbolic tensors, its code turns
into calls of the layers inside and of `keras.ops`, which the rooms after this one follow as they follow any graph.
So there is no rule for a kind of block, only rules for layers and operations.

What has weights of its own, or nothing inside, stays one layer; on numbers it can be seen whether it treats each
channel by itself.
"""
