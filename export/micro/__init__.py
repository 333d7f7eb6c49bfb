"""Files for microcontrollers: pruned weights are stored without zeros, and unpacked while the model runs.

Why: TensorFlow Lite for Microcontrollers refuses sparse files, but its interpreter has an operator, DECODE, that
unpacks a weight right before a layer reads it, and nothing writes files for it.
In goes a dense .tflite. `layers` finds the weights that can be unpacked and what lives in RAM beside them,
`unpacking` puts DECODE in front of layers and cuts large ones into parts, `drop_unused` removes unread parts of a
file, and `candidates` writes a file for each amount of RAM. `fit_budgets` runs them in the `interpreter`, in another
process, takes one within the budgets (`micro`),
and proves that its outputs equal the dense file's bit for bit (`micro_report`).
`operators` lists those of the interpreter, `boards` the memory of common boards. `vela_report` asks the compiler of
Arm's NPUs for the cost of a file.
Start at `fit_budgets.fit_budgets`; the format is in `tflite.decode_format`.
"""
