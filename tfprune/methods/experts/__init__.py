"""Mixtures of experts: add, drop or merge experts.

`experts.grow` repeats the experts of a model, `experts.merge` makes one of several, and `experts.drop` drops some.
All three are one step, `rebuild_experts`: build the model anew with other numbers in its configuration
(`set_expert_count`), let each new expert be the mean of some of the old ones, in its weights and in its row of the
router (`average_experts`), and compare both models on data. Masks and latent values follow.

Which weights of a layer belong to its experts is known for KerasHub's layers; `experts.register` says it for others.
"""
