"""Copy whole models with some of their layers replaced.

Why: wrappers are put in and taken out of copies, so that the model of the user's stays what it is.
In goes the anatomy of a model, and a function from the path of a layer, and the layer, to its replacement; out comes
a model without the weights (`copy_model`). A graph is built anew from its configuration (`rebuild`,
`custom_objects`), and a layer that has none gets the attributes of the other one (`copy_by_attributes`). A model
whose code creates its layers is an empty instance of its class that gets the attributes of a fresh one, other layers
in them (`subclassed`, `held_layers`). A Functional subclass is built anew, and its graph is called once more over the
layers that there are (`functional_subclass`). Both are instances of derived classes (`change_class`), which are saved
with the configuration that their own code gives (`class_config`).
Layers are replaced in the model itself by `in_place`.
Neighbors: `models` says what a model is, `wrapping` moves the weights into the copy.
Start at `copy_model.copy_model`.
"""
