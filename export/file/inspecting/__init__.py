"""Report what a file holds, and how many bytes its zeros save.

Why: before and after pruning one asks where the bytes are, and how few would do.
In goes a file; `inspect` returns a `model_report` with a row for each weight: its zeros, its values, and its bytes
under each of the ways to store it (`codings`). `page` draws the same as one self-contained HTML file, with a picture
of the zeros of each weight (`heatmap`), the graph and the operators.
Neighbors: files are read through `tflite` and `files`; `tfprune.base.html` escapes and lays out; nothing is run.
Start at `inspect.inspect`.
"""
