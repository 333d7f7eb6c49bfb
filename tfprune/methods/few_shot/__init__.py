"""Few-shot models: prune, meta-train, and prune again, in one call.

A few-shot model is judged on classes that it has never seen, so scores and training use episodes instead of
batches. Start at `prune.prune_few_shot`; `learners` has prototypes and MAML.
"""
