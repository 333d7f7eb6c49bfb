"""Predict which operators of a file run on XNNPACK's sparse kernels, and what prevents the others.

Why: zeros make a model faster only where the runtime has kernels for them, and XNNPACK uses its own for whole groups
of operators or not at all.
In goes a file as `tflite.reader` describes it. `steps` turns its operators into what XNNPACK sees, `roles` says what
each of them is to a group, `groups` finds the groups and how many zeros they need, and `sparse_inference_report`
says so in the names of the Keras layers.
Neighbors: `rewriting` stores weights sparse where it pays; `sparse_ready` rebuilds a Keras model so that it does.
Start at `groups.analyze`.
"""
