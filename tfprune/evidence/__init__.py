"""One pass over data that gathers what criteria need of each weight.

Why: some criteria look at more than the weight: at what a layer is given and returns, at gradients of the loss.
All that is gathered in a single pass, reduced batch by batch, so that memory does not grow with the data, and the
model stays as it is.
In go a model, data, and the weights with their criteria; out comes, for each weight, a dict of facts. A fact is
described once, in `facts`: where it is recorded, how it is reduced, its shape, whether it needs a loss or labels.
`activations` records through hooks (`layer_hooks`) by units (`unit_axes`), `loss_gradients` through a training step
that moves nothing, `batch_norms` reads the model alone.
Start at `gatherer.Gatherer`.
"""
