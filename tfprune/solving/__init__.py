"""Linear algebra of pruning: which weights of a linear map to remove, and new values for the others.

Why: Keras layers and the operators of a .tflite file are the same linear maps, so one solver serves both halves.
In go second moments of the inputs (`least_squares.GramMoments`) and the weights as a matrix of outputs by inputs.
`weight_masks` removes single weights and updates the others (SparseGPT, Wanda, RIA), as does `alps`, `least_squares`
solves for the weights that remain, `zero_solver` does both for the matrices of one weight, `rounding` has the grids
of weights that a file rounds, `column_order` puts columns into the groups of N:M masks, `split_by_error` and
`split_by_block` say how many zeros each weight gets, and `brain_surgery` removes whole inputs (its matrices are
updated in a `lazy_symmetric`).
`dependency_graph` follows channels through a network, and forms groups of those that can only be removed together.
All of it is NumPy: it knows neither Keras nor files.
Start at `least_squares.GramMoments`.
"""
