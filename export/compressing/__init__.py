"""Search for the smallest or fastest file that loses at most what the user allows.

Why: users do not want a certain sparsity. They want a file that fits and is about as accurate as the model.
A search gets a trained model, training data and labeled samples. A `recipe.Recipe` says how a model gets smaller:
channels, zeros, precision, and how long it trains. `apply_recipe` applies it, and `recipe.recipe_code` prints it as a
program. `next_recipe` chooses the recipe of the next trial, and the model it starts from. `measured_file` exports
the result, runs the file, here or as a microcontroller does, and measures its accuracy. A `trial.TrialRunner` does
both; `workers` run several in processes of their own.
The result is the files within the limits that no other file beats in both size and accuracy (`pareto_front`), and a
page about them (`compress_page`). Start at `compress.compress`.
"""
