"""Convert a Keras model to a file: strip, convert, rewrite, run, compare, and only then write.

Why: a file that was never run is a guess.
In goes a Keras model; out comes a file and an `ExportReport`. `to_tflite` asks `convert` for a dense file, which
TensorFlow makes in a process of its own (`convert_job`) of what `preparing` gives it, with `calibration_data`.
Then inputs and outputs get Keras' order (`signature_order`), float operators leave int8 files (`float_islands`), and
weights that share values get integers that do (`shared_values`). `check_converted` looks for
all zeros in the file. Each form of it that `rewriting.forms` makes is run against Keras, and the best one is measured
on labels, if there are some (`accuracy_drop`).
`sparse_inference`, `latency`, `micro_support` and `vela` ask, before training, how such a file will run.
Start at `to_tflite.to_tflite`.
"""
