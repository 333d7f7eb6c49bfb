"""Mixtures of experts: more experts, fewer, or several made one.

`grow_experts` repeats the experts of a model, `merge_experts` makes one of several, and `drop_experts` leaves some
out. All three are one step: each new expert is the mean of some of the old ones (`regrouped`), in its weights and in
its row of the router; masks and latent values follow, and noise never fills a zero. A model is built anew with other
numbers in its configuration (`resized`), and compared with the old one on data (`compared`).

Which weights of a layer belong to its experts is known for KerasHub's layers; `register_experts` says it for others.
"""
