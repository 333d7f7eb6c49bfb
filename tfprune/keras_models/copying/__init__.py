"""Copy whole models and single layers, with some of their layers replaced.

Why: wrappers are put in and taken out of copies, so that the model of the user's stays what it is.
In goes the anatomy of a model or layer. A fresh plain one of the same class comes out of `twin`, without the values
of weights; it is built from configurations, by its class, by its code, or by attributes (`by_attributes`). Layers are
replaced in place (`in_place.replace_layers`), in the user's model or in a twin. A copy with wrappers is both, one
after the other (`in_place.copy_layers`). Models whose class does not make the wrappers become instances of derived
classes, which are saved with them.
Neighbors: `models` says what a model is, `wrapping` moves the weights into the copy.
Start at `twin.twin`.
"""
