"""Read, copy and trace Keras models: what pruning, quantizing and shrinking share.

`anatomy` reads a model once: its kind, and its layers by path. `kernels` finds prunable weights, with a letter for
each axis. `twin` copies a model, and `in_place` replaces layers in one. `tracing` turns layers with code of their
own into a graph, and `tasks` runs calls of a function of a model on any executor. Nothing here knows masks.
Start at `anatomy.Anatomy`.
"""
