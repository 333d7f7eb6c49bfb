"""Search for the smallest or fastest file whose accuracy drops by no more than a limit.

Why: users do not want a certain sparsity. They want a file that fits and is about as accurate as the model.
A search gets a trained model, training data and labeled samples. `search_loop` is the loop:
`search_policy.next_recipe` chooses the recipe of the next trial and the model it starts from. The policy is pure: it
sees what was measured, the `goal` and some constants, no model and no file. The result is the files within the limits
that no other file beats in both size and accuracy.
Neighbors: the room `trials` applies a recipe and measures its files, `results` writes and describes the best ones.
Start at `compress.compress`.
"""
