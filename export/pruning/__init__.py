"""Prune a .tflite file on samples without labels, without training and without Keras.

Why: networks come as files, and every other pruner needs the framework and the training code.
In go a file and samples; out comes a file with zeros and a report. The room `sampling` checks the samples, then
`pruning_job` runs in a process of its own: the room `layers` reads the operators, `split_by_error` says how many
zeros each gets, and `prune_in_order` walks through the file.
Neighbors: the algebra is that of the wing `solving`; `rewriting` writes the file sparse and checks it.
Start at `prune_tflite.prune_tflite`.
"""
