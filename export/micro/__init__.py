"""Files for microcontrollers: pruned weights without their zeros, unpacked while the model runs.

Why: TensorFlow Lite for Microcontrollers refuses sparse files, but its interpreter has an operator, DECODE, that
unpacks a weight right before a layer reads it, and nothing writes files for it.
In goes a dense .tflite. `layers` finds the weights that can be unpacked and what lives in RAM beside them,
`unpacking` puts DECODE in front of layers and cuts large ones into parts, `slim` leaves out what is never read, and
`candidates` writes a file for each amount of RAM. `fit` measures them in the `interpreter`, in a process of its own,
takes what keeps to the `budgets`, and proves that its outputs are the dense file's, bit for bit (`micro_report`).
`operators` are those that the interpreter has, `boards` what common boards have room for. `vela_report` asks the
compiler for Arm's NPUs what a file costs on one.
Start at `fit.fit`; the format is in `tflite.decode_format`.
"""
