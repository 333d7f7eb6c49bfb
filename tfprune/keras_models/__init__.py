"""Read, copy and trace Keras models: what pruning, quantizing and shrinking share.

Why: wrapping, quantizing and shrinking ask the same questions of a model, and each is answered once.
`models` looks at layers and copies single ones, `copying` copies whole models with some layers replaced, `tracing`
turns layers with code of their own into a graph, `evidence` passes data through a model, and `channels` is the
dependency graph: which channels belong together.
"""
