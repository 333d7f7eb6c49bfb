"""Plan which channels to remove, meet budgets, and shrink the model.

Why: zeros make a model smaller on disk; fewer channels and heads make it faster everywhere.
In goes a model; `plan_shrink` returns a plan, which is data: print it, then act. `shrink` builds the smaller model,
`zero_channels` one of the same size, with zeros in place of the removed channels. A plan keeps the flat copy that it
was made of (`planned_copy`), so that neither needs another one. A `budget` counts parameters, bytes, FLOPs
or a measured latency; `rank_channels` and `rank_heads` rank by what a removal costs on data.
Neighbors: which channels go together is the question of `channels`; masks that `training` set become a plan here;
`fine_tuning.prune_to` repeats plan, act and train until a budget is met.
Start at `plan_shrink.plan_shrink`.
"""
