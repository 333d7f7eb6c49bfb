"""Few-shot models: prune, meta-train, and prune again, in one call.

Why: a few-shot model is judged on classes that it has never seen, so what is removed, and what brings the accuracy
back, has to be found on episodes instead of batches.
In go a model, `Episodes` and stages (`few_shot_stage`); `prune_few_shot` carries them out one by one (`stages`), each
of them kept in a folder: score and remove channels (`plan_stage`), meta-train by `prototypes` or `maml`
(`meta_training`, both derive from `learner`), and measure. `channel_taxonomy` says which channels go last; the report
prints what each stage cost and brought back.
Neighbors: `criteria.DACIS` scores channels, `allocation.LayerThreshold` says how many go, `evidence` has `Episodes`
and `MetaGradients`, and `shrinking` plans and removes.
"""
