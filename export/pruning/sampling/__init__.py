"""Check the samples that a file is pruned on, read them from a folder, or draw them.

Why: nothing in a report shows samples that were preprocessed in another way than in training.
In go samples of the user; out come arrays for the inputs of a file, and warnings.
`samples` checks their shapes and splits them, `sample_folder` reads images and sounds, and `input_range` compares
their numbers with the range that a file gives for its inputs.
Neighbors: `apart` runs a file on them.
Start at `samples.check_samples`.
"""
