"""Concept-based pruning: rules that recognize concepts from activations, plans made of them, and a trace of why.

Why: a product rarely needs all that a model was trained for. A concept is anything that is true or false of a sample,
such as a class, a color or a feature. The units that rules of the required concepts look at stay, the others go, and
for every unit that stays the trace says which requirement asked for it.
In go a model, samples, and 0 or 1 for each concept and sample (`check_concepts`). `unit_activations` runs the model,
`mine_rules` reads rules (`rule`) off decision trees, `choose_rules` takes those that are precise on held-out samples,
and `plan_concepts` makes of them a `ShrinkPlan` and a `ConceptTrace`, which `trace_page` shows in a browser. Only
`mine_rules` uses scikit-learn.
Start at `concept_rules.concept_rules` and `plan_concepts.plan_concepts`.
"""
