"""Update masks on a schedule while a model trains.

Why: a network that loses its weights gradually, and trains on in between, keeps its accuracy.
In goes a wrapped model; at each update every pruned weight is ranked, all masks are computed, and only then set
(`update_masks`). `pruning_callback` does so during `fit`, after `preflight` has refused what an update would refuse
in the middle of it; `coupled` decides for kernels that share channels together.
`sensitivity` measures what pruning each weight alone costs, `pruning_summaries` writes TensorBoard's curves.
Start at `update_masks.update_masks`, then `pruning_callback.PruningCallback`.
"""
