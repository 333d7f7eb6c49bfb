"""Smaller dense models: plan which channels are removed, build the model without them, and fine-tune it.

Fewer channels make a model faster on every runtime, without sparse kernels. `plan` chooses channels, `shrink`
builds the model, as the class that the user wrote or as a graph of plain layers
(`smaller`), `reconstruct` solves for the remaining weights, and `prune_to` does all of it in rounds, with
training between them. Start at `plan.plan_shrink`.
"""
