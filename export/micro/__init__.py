"""Files for microcontrollers: pruned weights are stored without zeros, and unpacked while the model runs.

TensorFlow Lite for Microcontrollers refuses sparse files, but its interpreter has an operator, DECODE, that unpacks
a weight right before a layer reads it. `micro` writes files for it within the budgets of a board, `interpreter`
runs them, and `reports` describes them, as C arrays and for Arm's NPUs, too. Start at `micro.Micro`.
"""
