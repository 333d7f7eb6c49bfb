"""Build the smaller model: as a graph of plain layers, or as an instance of its own class.

`smaller_graph` builds a graph: it calls a smaller copy of each layer of a flat copy. A Functional subclass, such as a
model of KerasHub, keeps its class, and with it `generate`, presets and LoRA: by other arguments where all blocks keep
equally many heads and hidden units (`resized_by_arguments`), else with layers inside of its blocks exchanged
(`smaller_class`, `exchanged`). `class_arguments` is the shared technique: change numbers in the configuration of a
class, build the model anew, and raise `NoClass` where that fails.

All of them take a flat copy, its channels, and which of these are kept.
"""
