"""Read the operators of a file as linear maps, and run the file piece by piece.

Why: zeros and channels are chosen, and weights solved for, on what each operator takes from samples.
In go the objects of a file; out come weights as matrices with the rows of numbers that they multiply.
`pieces` cuts operators out as files, between which all samples stay as `live_tensors`, and `loops` follows them into
the turns of loops; `linear_operators` reads operators as matrices, `unpack_sparse` makes sparse weights
dense, a `stored_weight` is read and written on its scales, a `file_layer` is solved for, and `find_layers` makes them
all.
Neighbors: the wing's other modules put zeros into these layers.
Start at `file_layer.FileLayer`.
"""
