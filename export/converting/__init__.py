"""A Keras model into a file: stripped, converted, rewritten, run, compared, and only then written.

Why: a file that was never run is a guess.
In goes a Keras model; out comes a file and an `ExportReport`. `to_tflite` asks `convert` for a dense file, which
TensorFlow makes in a process of its own, with the names of `signature` and the samples of `calibration`; puts inputs
and outputs into Keras' order (`output_order`), the parts into one that is always the same (`canonical_order`), and
float operators out of int8 files (`float_islands`); makes sure that all zeros are still there (`kept_zeros`); and
hands the file to `rewriting.forms`, which runs each form against Keras.
`sparse_inference` and `latency` ask, before training, how such a file will run.
Start at `to_tflite.to_tflite`.
"""
