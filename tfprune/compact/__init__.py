"""Smaller dense models: plan which channels are removed, build the model without them, and fine-tune it.

Why: fewer channels make a model faster on every runtime, without sparse kernels.
`shrinking` plans and removes, `same_class` builds the result as the class that the user wrote, `reconstruction`
solves for the remaining weights, and `fine_tuning` does all of it in rounds with training between them.
Start at `shrinking.plan_shrink.plan_shrink`.
"""
