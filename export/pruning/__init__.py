"""Prune or shrink a .tflite file on samples without labels, without training and without Keras.

Networks come as files, and every other pruner needs the framework and the training code. `layers` reads operators
as linear maps, `pieces` runs the file piece by piece, `prune` makes zeros, and `shrink` removes channels, which
`channels` follows from operator to operator. Start at `prune.prune_tflite`.
"""
