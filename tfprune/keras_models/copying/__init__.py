"""Copies of whole models with some of their layers replaced.

Why: wrappers are put in and taken out of copies, so that the model of the user's stays what it is.
In goes a model and a function from the path of a layer, and the layer, to what takes its place; out comes a model
without the weights (`copy_model`). There are three kinds of models: a graph is built anew from its configuration
(`models.rebuild`); one whose code creates its layers is an empty instance of its class that is given the attributes
of a fresh one, other layers in them (`subclassed`, `held_layers`, `class_config`); and a Functional subclass is built
anew, after which its graph is called once more over the layers that there are (`functional_subclass`,
`layer_states`).
Neighbors: `models` copies single layers, `wrapping` moves the weights into the copy.
Start at `copy_model.copy_model`.
"""
