"""Narrow the residual stream of a language model: remove the same dimensions from all layers that use it.

`stream` builds the model of the same class with a smaller `hidden_dim` and finds the axes that follow it. `norms`
reads the norms on the stream and observes them on data. `same_sums` checks that the narrow class computes the sums of
the whole one, and finds by how much its code scales embeddings differently. `narrow` puts these together.
"""
