"""Solve for the weights that pruning has left, so that each layer returns what it returned before.

Why: after weights are removed, the others can take over part of their work, by least squares and without training.
In go the pruned model, the model before, and calibration data; out comes a model with new weights and a report of
each layer's error. A layer is seen as a linear map with rows of inputs (`linear_map`); a pass over the data adds up
their products (`layer_moments`), and `least_squares` solves for the entries that are not zero.
Neighbors: `shrinking.prune_to` calls it between removing and training; `least_squares` is NumPy alone.
Start at `reconstruct.reconstruct`.
"""
