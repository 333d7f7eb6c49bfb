"""Run, verify, evaluate and time a file with NumPy and an interpreter.

Why: a device has no Keras, and a crash of native code must be an answer and not the end of the program.
In go a file and arrays; out come the outputs, in Keras' order. `runner.Runner` quantizes what goes in and what comes
out (`io_tensor`) and fills up batches. `verify` compares a file with expected outputs, `evaluate` with labels (by the
`metrics` that Keras has), and `benchmark` times it, each in a process of its own. `quantization_error` runs an int8
file beside the float one, layer by layer, and `correct_biases` makes the means of its channels equal.
Their answers are frozen reports, which print as tables and turn into JSON.
Start at `runner.Runner`.
"""
