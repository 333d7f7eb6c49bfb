"""Search for the smallest or fastest file whose accuracy drops by no more than a limit.

Why: users do not want a certain sparsity. They want a file that fits and is about as accurate as the model.
A search gets a trained model, training data and labeled samples. A `recipe.Recipe` says how a model gets smaller:
channels, zeros, precision, and how long it trains. `search_loop` is the loop: `search_policy.next_recipe` chooses the
recipe of the next trial and the model it starts from, and a `trial_runner.TrialRunner` applies it, exports the
result, runs the file, and measures it (`file_evaluator`). `workers` run several trials at once on an executor, as
tasks of `keras_models/tasks`. The policy is pure: it sees what was measured (`trial`), the `goal` and some constants,
no model and no file. The result is the files within the limits that no other file beats in both size and accuracy
(`write_front`), and a page about them (`compress_page`). Start at `compress.compress`.
"""
