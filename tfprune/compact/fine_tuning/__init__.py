"""Fine-tune smaller models in rounds, with a dense model as the teacher if wanted.

Why: most of what a removal costs comes back in training, and more of it with a teacher at hand.
In go a trained model, a budget and data; `prune_to` goes to the budget in `rounds`, each of them kept in a folder
once it is done: remove, reconstruct, train (`trainer`), measure (`metric_guard`). `run_data` checks their data, and
the report prints and draws what each step cost and won back.
`distilled` puts a teacher into the loss of a model that `fit` trains, as a `Distillation` says: `distillation_loss`
compares outputs (`class_outputs`) and features.
Neighbors: `shrinking` plans and removes, `reconstruction` solves for what is left, `training` prunes gradually.
Start at `prune_to.prune_to`, then `distilled.distilled`.
"""
