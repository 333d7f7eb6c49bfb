"""Remove channels from a .tflite file on samples without labels, without training and without Keras.

Why: fewer channels make a file smaller and faster on every runtime, also where zeros do not.
In go a file, samples and limits; out comes a smaller file and a report.
`file_flow` follows channels from operator to operator, by the rules in `kernel_rules` and `move_rules`;
`channel_groups` says which can be removed, and what that saves; all of it builds on `dependency_graph` of the wing
`solving`, as `keras_models/channels` does for Keras models. `rank_groups` ranks the groups on the samples,
`shrink_in_order` chooses, and solves for the weights that remain, and `cut_channels` writes the smaller file.
Start at `shrink_tflite.shrink_tflite`.
"""
