"""Gather evidence: one pass over data for what criteria need of each weight.

Why: some criteria look at more than the weight: at what a layer takes and returns, or at gradients of the loss.
All of this is gathered in a single pass, reduced batch by batch, so that memory does not grow with the data, and the
model does not change.
In go a model, data, and the weights with their criteria (`subject`); out comes a dict of facts for each weight. This
room knows no fact by name: `criteria.facts` describes each one, and this room does what the description says.
`activations` records through hooks by units (`unit_axes`), `loss_gradients` records in a training step that moves
nothing, and `surroundings` reads facts from the model alone (`batch_norms`). For few-shot models, `episodes` draws
tasks to take as data, and `meta_gradients` keeps the gradients of meta-training beside the weights.
Start at `gatherer.Gatherer`.
"""
