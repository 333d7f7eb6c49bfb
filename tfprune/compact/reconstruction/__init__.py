"""Reconstruct layers after pruning: solve for the remaining weights by least squares.

Why: after weights are removed, the others can take over part of their work, by least squares and without training.
In go the pruned model, the model before, and calibration data; out comes a model with new weights and a report of
each layer's error. A layer is seen as linear maps with rows of inputs (`linear_map`); a walk over the
graph (`graph_walk`, its tensors in a `spool`) adds up their products (`layer_moments`), `improve_layer` solves for
the entries that are not zero (by `solving`), and `in_order` goes on from there (`restored`: what was removed).
Neighbors: `fine_tuning.prune_to` calls it between removing and training; the least squares are in the wing `solving`.
Start at `reconstruct.reconstruct`.
"""
