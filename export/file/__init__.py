"""Read, check, pack and inspect a model file without running it.

Why: this half runs on the device, where there is NumPy and nothing else.
`tflite` reads and edits the format, and keeps the labels that `trailing_archive` finds behind it. `files` opens and
writes model files, plain and packed, `xnnpack` tells which operators have sparse kernels, and `inspecting` reports
what a file holds. `readers` has readers of packed files for programs in C and JavaScript.
"""
