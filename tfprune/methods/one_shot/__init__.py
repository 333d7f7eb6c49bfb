"""Prune a whole transformer on calibration text, without training: block by block.

Why: a language model is too large to be trained again by most of those who use it. What can be had is a few hundred
texts, one pass over the blocks, and least squares. The layers of a block are listened to while the block runs on the
outputs of the blocks before it, which are pruned already.
In go a model and texts; out come the model with zeros, a plan that `shrink` carries out, and a report of each layer.
`putri` removes hidden units (`unit_scores`) and heads (`head_choice`) as a budget says (`split`), in one walk
(`remove_in_order`). `prune_weights` masks single weights.
Start at `putri.putri`.
"""
