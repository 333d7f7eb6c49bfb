"""Layers under masks, and masks that follow a schedule while a model trains.

A mask holds zeros in place without a change to the model's code, and can be taken off again. `pruned` has the one
class in Keras' forward pass, `wrap` and `strip` put it into copies of models and take it out, `update_masks` scores
all weights and sets the masks, and `callback` does so during `fit`. Start at `wrap.wrap`.
"""
