"""Read a model once (`anatomy`: its kind, its layers by path), and look at layers, kernels, calls and data.

Why: everything that is pruned is found in a model that somebody else wrote. Here stands what the library knows of
Keras and nothing that it knows of pruning: no module of this room has heard of a mask.
In goes a model or a layer; out come its kind and its layers by path (`anatomy`), kernels with one letter for each
axis (`kernels`), the calls of a graph in order (`graph`), batches of data (`batches`), and the variables of an
optimizer (`optimizers`).
Neighbors: `evidence` and `channels` read models through this room, `copying` copies them with it.
Start at `anatomy.Anatomy`, then `kernels.kernels`.
"""
