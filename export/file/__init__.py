"""Read, check, edit, pack and inspect a model file without running it.

This half runs on the device, where there is NumPy and nothing else. `container` opens and writes model files, plain
and packed; `reader` checks and describes a plain file, `document` edits one, `pack` has the packed format,
`xnnpack` predicts which operators have sparse kernels, and `inspect` reports what a file holds. The folder
`readers` has readers of packed files for programs in C and JavaScript. Start at `container.read_model`.
"""
