"""Concept-based pruning: rules that recognize concepts from activations, plans made of them, and a trace of why.

Why: a product rarely needs all that a model was trained for. A concept is anything that is true or false of a sample,
such as a class, a color or a feature. The units that rules of the required concepts look at stay, the others go, and
for every unit that stays the trace says which requirement asked for it.
In go a model, samples, and 0 or 1 for each concept and sample. `observe` runs the model, `concept_rules` mines rules
of the recorded activations, and `plan_concepts` makes of those that are certified a `ShrinkPlan` and a
`ConceptTrace`, which `trace_page` shows in a browser. The room `rule_mining` has the rules and their statistics.
Start at `concept_rules.concept_rules` and `plan_concepts.plan_concepts`.
"""
