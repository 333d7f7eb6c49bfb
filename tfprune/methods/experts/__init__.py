"""Mixtures of experts: add, drop or merge experts.

Each is one step: build the model anew with other numbers in its configuration, let each new expert be the mean of
some of the old ones, and compare both models on data. Masks and latent values follow. `experts` builds, `change`
offers.
"""
