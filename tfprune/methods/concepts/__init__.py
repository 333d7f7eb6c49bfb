"""Concept-based pruning: rules that recognize concepts from activations, plans made of them, and a trace of why.

A concept is anything that is true or false of a sample, such as a class, a color or a feature. Units that the rules
of the required concepts use are kept, the others removed, and the trace says for each kept unit which requirement
asked for it. Start at `rules.concept_rules` and `plan.plan_concepts`.
"""
