"""The smaller model, as a graph of plain layers or as a model of the same class.

A graph is built by calling each layer of a flat copy again, in the size that is kept (`smaller_graph`). A class
around a graph, as KerasHub's models are, comes back as itself (`smaller_class`), so that `generate`, presets and LoRA
go on: by other arguments where all blocks keep as many heads and hidden units (`resized_by_arguments`), else with
the layers inside of its blocks exchanged (`exchanged`).

Both take the channels of the flat copy, and which of them are kept.
"""
