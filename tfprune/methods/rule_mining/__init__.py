"""Rules that tell a concept from numbers: trees that find them, and the statistics that certify them.

Why: a tree finds rules in everything, coin flips included. So the samples are drawn into three `parts`: a tree is
mined from the first (`mine_rules`, split by split in `best_split`), sets of its rules are chosen by confidence bounds
on the second (`choose_rules`, `counts`), and precision and recall that are shown come from the third. Nothing here
knows Keras: `concepts` has the activations of a model.
Start at `mine_rules.mine_rules` and `choose_rules.Limits`.
"""
