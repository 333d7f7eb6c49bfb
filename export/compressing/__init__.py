"""Search for the smallest or fastest file that loses at most what the user allows.

Why: a user does not want a sparsity, but a file that fits, and that is about as accurate as the model.
In go a trained model, training data and labeled samples to judge by. A `recipe.Recipe` says how a model gets smaller:
channels, zeros, precision, and how long it trains; `follow` does what it says, and `recipe.recipe_code` prints it.
`next_recipe` chooses what to try next, and with whose model it goes on: Optuna draws recipes, and the promising ones
train longer. `measured` exports what came out, runs the file, here or as a microcontroller does, and counts what it
got right. A `trial.Maker` does both; `workers` are several, in processes of their own.
Out come the files that keep to the limits and that no other beats in both size and accuracy (`front`), and a page
about them (`compress_page`).
Start at `compress.compress`.
"""
